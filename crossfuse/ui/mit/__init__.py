"""The page of the 2D-3D interlaced transformer."""

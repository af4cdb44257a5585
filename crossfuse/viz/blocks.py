"""Small grids as pictures of plain squares: no smoothing, so no invented detail."""

from __future__ import annotations

import numpy as np

from crossfuse.viz.colours import palette


def colour_blocks(colours: np.ndarray, block: int = 16) -> np.ndarray:
    """Colours (rows, columns, 3) in 0..1 as squares, (rows * block, columns * block, 3) uint8.

    Values outside 0..1 are clipped.
    """
    cells = np.rint(255 * np.clip(np.nan_to_num(colours), 0, 1)).astype(np.uint8)
    return cells.repeat(block, axis=0).repeat(block, axis=1)


def weight_blocks(weights: np.ndarray, block: int = 16, theme: str = "dark") -> np.ndarray:
    """Weights (rows, columns) as squares in the colours of the maps, from 0 to the largest."""
    top = float(weights.max()) or 1.0
    scale = palette("sequential", theme)
    index = np.clip(weights / top * (len(scale) - 1), 0, len(scale) - 1).astype(int)
    return scale[index].astype(np.uint8).repeat(block, axis=0).repeat(block, axis=1)


def mark_cell(pixels: np.ndarray, cell: int, rows: int, columns: int) -> np.ndarray:
    """A copy of a photograph (H, W, 3) uint8 with a frame round one cell of a grid over it."""
    height, width = pixels.shape[:2]
    row, column = divmod(cell, columns)
    y0, y1 = round(row * height / rows), round((row + 1) * height / rows)
    x0, x1 = round(column * width / columns), round((column + 1) * width / columns)
    marked = pixels.copy()
    for wide, tone in (
        (max(3, width // 90), (255, 255, 255)),
        (max(2, width // 180), (15, 118, 110)),
    ):
        marked[max(0, y0 - wide) : y1 + wide, max(0, x0 - wide) : x0] = tone
        marked[max(0, y0 - wide) : y1 + wide, x1 : x1 + wide] = tone
        marked[max(0, y0 - wide) : y0, max(0, x0 - wide) : x1 + wide] = tone
        marked[y1 : y1 + wide, max(0, x0 - wide) : x1 + wide] = tone
    return marked

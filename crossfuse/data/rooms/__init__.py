"""CrossFuse Rooms: furnished rooms composed from freely licensed furniture.

Every room is a folder::

    room_0003/
      points.npz     positions (N, 3) float32 m, colours (N, 3) uint8, labels (N,) uint8
                     (255 = none), seen (N,) uint16: bit v = photograph v sees the point
      photos/00.jpg  sixteen photographs; labels/00.png their pixel labels
      room.json      tags, partial scans with their own tags, cameras, the meshes used

Training reads the tags only; point and pixel labels are for evaluation. A *partial scan* is what a
few neighbouring photographs cover: real collections mix whole rooms and corners of rooms too, and
without corners nothing could tell a wall from a floor, since every whole room has both.
"""

from __future__ import annotations

from crossfuse.data.rooms.catalogue import CLASSES, IGNORE, Warehouse, furniture
from crossfuse.data.rooms.compose import compose_room, generate
from crossfuse.data.rooms.layout import furnish

__all__ = [
    "CLASSES", "IGNORE", "Warehouse", "compose_room", "furnish", "furniture", "generate",
]  # fmt: skip

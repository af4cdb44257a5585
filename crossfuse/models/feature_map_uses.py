r"""What a map between two photographs is good for, without any further training.

A (N_q, N_k) says where each cell of the asking photograph looks in the asked one; rows sum to 1.
Whatever is known about the asked photograph's cells is carried over by one product with A:

    segmentation   mask of the asked cells m (N_k,)     ->  A m      share of each cell's look
    detection      exemplar: a box of asked cells       ->  A m, and the box where it is high
    transfer       colour of the asked cells C (N_k, 3) ->  A C      colour for each asking cell
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid


@dataclass(frozen=True)
class Detection:
    """``box`` x0, y0, x1, y1 in pixels of the asking photograph; ``heat`` (rows, columns) 0..1,
    scaled so that its largest value is 1; ``peak``: share of the exemplar at the best cell."""

    box: tuple[float, float, float, float]
    heat: np.ndarray
    peak: float


def cells_in_box(grid: ImageGrid, box: tuple[float, float, float, float]) -> np.ndarray:
    """How much of each cell's square lies in the box: (N,) float, 0..1.

    Args:
        box: x0, y0, x1, y1 in pixels of the photograph.

    Raises:
        CrossfuseError: the box is empty or lies outside the photograph.
    """
    x0, y0, x1, y1 = box
    half = np.asarray(grid.cell) / 2
    low, high = grid.centres - half, grid.centres + half
    overlap = np.minimum(high, (x1, y1)) - np.maximum(low, (x0, y0))
    share = np.clip(overlap, 0, None).prod(1) / np.prod(grid.cell)
    if not (x0 < x1 and y0 < y1) or not share.any():
        width, height = grid.image_size
        raise CrossfuseError(
            "The box {box} has no area on the photograph of {width} x {height} pixels.",
            box=tuple(round(v) for v in box),
            width=width,
            height=height,
        )
    return share


def propagate_mask(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Segmentation: the share of each asking cell's look that falls on the marked cells.

    Args:
        weights: (N_q, N_k) one head or the head mean.
        mask: (N_k,) 0..1.

    Returns:
        (N_q,) 0..1.
    """
    return np.asarray(weights, np.float32) @ np.asarray(mask, np.float32)


def locate(
    weights: np.ndarray, asking: ImageGrid, exemplar: np.ndarray, share: float = 0.5
) -> Detection:
    """Detection by exemplar: where the asking photograph looks at the exemplar's cells.

    The heat A m is divided by the exemplar's area, so that 1 is what an even look gives; the box is
    the bounding box of the cells above ``share`` of the peak that hang together with it.

    Args:
        weights: (N_q, N_k). asking: grid of the N_q cells. exemplar: (N_k,) 0..1.
        share: of the peak, above which a cell belongs to the object.
    """
    carried = propagate_mask(weights, exemplar)
    heat = carried.reshape(asking.rows, asking.columns)
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    inside = _connected(heat >= share * heat[peak], (int(peak[0]), int(peak[1])))
    centres = asking.centres.reshape(asking.rows, asking.columns, 2)[inside]
    half = np.asarray(asking.cell) / 2
    low = np.maximum(centres.min(0) - half, 0)
    high = np.minimum(centres.max(0) + half, asking.image_size)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Detection(box, heat / max(float(heat[peak]), 1e-12), float(heat[peak]))


def _connected(marked: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The marked cells that can be reached from ``start`` sideways, up and down."""
    from scipy import ndimage

    parts, _ = ndimage.label(marked)
    return parts == parts[start]


def cell_means(photo: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Mean colour of each cell's square: (N, 3) float 0..255."""
    from scipy import ndimage

    height, width = photo.shape[:2]
    scale = np.array([width / grid.image_size[0], height / grid.image_size[1]])
    size = np.maximum(np.rint(np.asarray(grid.cell) * scale), 1).astype(int)
    blurred = ndimage.uniform_filter(
        photo.astype(np.float32), (int(size[1]), int(size[0]), 1), mode="nearest"
    )
    x, y = np.floor(grid.centres * scale).astype(int).T
    return blurred[y.clip(0, height - 1), x.clip(0, width - 1)]


def transfer_colour(
    weights: np.ndarray,
    asking: ImageGrid,
    asked: ImageGrid,
    photo_a: np.ndarray,
    photo_b: np.ndarray,
) -> np.ndarray:
    """Cross-domain transfer: brightness of the asking photograph, colours fetched through the map.

    Args:
        weights: (N_q, N_k). asking, asked: the grids of photo_a and photo_b.
        photo_a, photo_b: (H, W, 3) uint8, at any size of the same aspect as their grids' photo.

    Returns:
        photo_a recoloured, uint8, its size.
    """
    colours = cell_means(photo_b, asked)
    fetched = np.asarray(weights, np.float32) @ (colours - colours.mean(1, keepdims=True))
    tint = fetched.reshape(asking.rows, asking.columns, 3)
    height, width = photo_a.shape[:2]
    # Place the grid of colours where the cells are; between cells, blend.
    scale = np.array([width / asking.image_size[0], height / asking.image_size[1]])
    step = np.asarray(asking.cell) * scale
    first = asking.centres[0] * scale
    x = (np.arange(width) + 0.5 - first[0]) / step[0]
    y = (np.arange(height) + 0.5 - first[1]) / step[1]
    smooth = _bilinear(tint, y, x)
    brightness = np.asarray(Image.fromarray(photo_a).convert("L"), np.float32)[..., None]
    grey = np.array([0.299, 0.587, 0.114], np.float32)
    smooth -= (smooth @ grey)[..., None]  # colour only: brightness stays as it was
    return np.clip(np.rint(brightness + smooth), 0, 255).astype(np.uint8)


def _bilinear(table: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``table`` (rows, columns, C) at every (y, x), held at the border: (len(y), len(x), C)."""
    y, x = np.clip(y, 0, table.shape[0] - 1), np.clip(x, 0, table.shape[1] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down = np.minimum(top + 1, table.shape[0] - 1)
    right = np.minimum(left + 1, table.shape[1] - 1)
    dy, dx = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = table[top][:, left] * (1 - dx) + table[top][:, right] * dx
    lower = table[down][:, left] * (1 - dx) + table[down][:, right] * dx
    return np.asarray(upper * (1 - dy) + lower * dy, np.float32)

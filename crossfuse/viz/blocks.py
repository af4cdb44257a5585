"""Small grids as pictures of plain squares: no smoothing, so no invented detail."""

from __future__ import annotations

import numpy as np

from crossfuse.geometry import ImageGrid
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


def tint_cells(
    pixels: np.ndarray, grid: ImageGrid, values: np.ndarray, theme: str = "dark"
) -> np.ndarray:
    """A photograph, greyed, with each cell of a grid tinted by its value.

    Args:
        pixels: (H, W, 3) uint8, at any size of the aspect of ``grid.image_size``.
        values: (N,) from 0; the largest gets the strongest colour.
    """
    height, width = pixels.shape[:2]
    scale = np.array([width / grid.image_size[0], height / grid.image_size[1]])
    start, step = grid.centres[0] * scale, np.asarray(grid.cell) * scale
    column = np.rint((np.arange(width) + 0.5 - start[0]) / step[0]).clip(0, grid.columns - 1)
    row = np.rint((np.arange(height) + 0.5 - start[1]) / step[1]).clip(0, grid.rows - 1)
    share = np.clip(values / max(float(values.max()), 1e-12), 0, 1).reshape(grid.rows, grid.columns)
    share = share[row.astype(int)][:, column.astype(int)]
    tone = palette("sequential", theme)[np.rint(share * 255).astype(int)].astype(float)
    grey = pixels.mean(axis=2, keepdims=True) * 0.55 + pixels * 0.25
    strength = (0.15 + 0.6 * share)[..., None]
    return np.rint(grey * (1 - strength) + tone * strength).clip(0, 255).astype(np.uint8)


def frame_box(
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    tone: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """A copy of a photograph with a frame drawn along a box.

    ``box``: x0, y0, x1, y1 in pixels of the photograph at ``size`` (width, height).
    """
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (
        round(value * factor)
        for value, factor in zip(box, (width / size[0], height / size[1]) * 2, strict=True)
    )
    wide = max(2, width // 120)
    framed = pixels.copy()
    framed[y0:y1, x0 : x0 + wide] = framed[y0:y1, max(x0, x1 - wide) : x1] = tone
    framed[y0 : y0 + wide, x0:x1] = framed[max(y0, y1 - wide) : y1, x0:x1] = tone
    return framed

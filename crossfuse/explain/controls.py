"""Controls for maps between photographs: inputs whose right map is known beforehand."""

from __future__ import annotations

import numpy as np

from crossfuse.geometry import ImageGrid
from crossfuse.trace import AttentionMap


def shuffle_tiles(pixels: np.ndarray, tile: int, seed: int = 0) -> np.ndarray:
    """Cut a photograph into square tiles and put them back in a random order.

    The map of whatever looks at it must be shuffled in the same way.

    Args:
        pixels: (H, W, 3). tile: side in pixels; what does not fill a tile at the right and lower
            edge stays where it is.

    Returns:
        A new array of the same shape.
    """
    rows, columns = pixels.shape[0] // tile, pixels.shape[1] // tile
    mixed = pixels.copy()
    order = np.random.default_rng(seed).permutation(rows * columns)
    for target, source in enumerate(order):
        (r, c), (r0, c0) = divmod(target, columns), divmod(int(source), columns)
        mixed[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile] = pixels[
            r0 * tile : (r0 + 1) * tile, c0 * tile : (c0 + 1) * tile
        ]
    return mixed


def blank(pixels: np.ndarray) -> np.ndarray:
    """A photograph of nothing: its own mean colour everywhere. Weights on it should be even."""
    mean = pixels.reshape(-1, pixels.shape[-1]).mean(axis=0)
    return np.broadcast_to(np.rint(mean).astype(pixels.dtype), pixels.shape).copy()


def drawing(pixels: np.ndarray) -> np.ndarray:
    """The same picture in another domain: dark lines on white where its brightness changes.

    Every cell keeps its place, so that the right map from photograph to drawing is known.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8, grey.
    """
    from scipy import ndimage

    grey = pixels.astype(np.float32).mean(axis=2)
    # A line is as wide in a large photograph as in a small one, seen as a whole.
    width = max(1.0, max(grey.shape) / 400)
    slope = ndimage.gaussian_gradient_magnitude(grey, width)
    dark = np.clip(slope / max(float(np.percentile(slope, 97)), 1e-6), 0, 1)
    return np.repeat((255 * (1 - dark)).astype(np.uint8)[..., None], 3, axis=2)


def own_place(entry: AttentionMap, asking: ImageGrid, asked: ImageGrid) -> float:
    """Share of rows whose strongest key lies within one cell of the row's own place.

    For two pictures of one thing at the same place (:func:`drawing`); the head mean is judged.
    """
    best = entry.weights.astype(np.float32).mean(axis=0).argmax(axis=-1)
    place = np.asarray(asking.centres) / asking.image_size * asked.image_size
    rows = np.arange(len(asking)) if entry.rows is None else np.asarray(entry.rows)
    off = np.abs(asked.centres[best] - place[rows]) / np.asarray(asked.cell)
    return float((off.max(axis=1) <= 1.01).mean())


def sharpness(entry: AttentionMap) -> float:
    """How peaked the rows of a map are: the largest weight over the even share, mean of rows.

    1 = every row is even; N_k = every row looks at one key only.
    """
    weights = entry.weights.astype(np.float32).mean(axis=0)
    return float(weights.max(axis=-1).mean() * weights.shape[-1])

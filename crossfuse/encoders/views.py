"""Photographs as tokens: one vector a photograph, and the cells of a coarse grid over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from crossfuse.encoders.image import ImageEncoder

ENCODER = "lite2"
PATCH_GRID = (3, 4)  # rows and columns of cells on a photograph
PHOTO_SIDE = 224  # longest side given to the image encoder


def view_features(
    encoder: ImageEncoder,
    photos: Sequence[np.ndarray],
    progress: Callable[[float], object] | None = None,
    batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """(V, F) mean feature of each photograph and (V, P, F) its cells, row by row, float32.

    Args:
        photos: upright RGB (H, W, 3) uint8, each of its own size.
        progress: called with the fraction done.
        batch_size: photographs a pass.
    """
    encoded = encoder.encode(photos, (32,), PHOTO_SIDE, batch_size, progress)
    maps = [entry[32].values for entry in encoded]
    views = torch.stack([m.mean((1, 2)) for m in maps])
    cells = [F.adaptive_avg_pool2d(m[None], PATCH_GRID)[0].flatten(1).T for m in maps]
    return views.cpu().numpy(), torch.stack(cells).cpu().numpy()

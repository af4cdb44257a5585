"""Photographs as tokens: one vector a photograph, and the cells of a coarse grid over it.

Each vector is the frozen encoder's feature and, last, the mean colour there (-0.5..0.5): what a
photograph and a point cloud have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.encoders.image import ImageEncoder

ENCODER = "lite2"
PATCH_GRID = (3, 4)  # rows and columns of cells on a photograph
PHOTO_SIDE = 320  # longest side given to the image encoder
FEATURES = 1280 + 3  # of a photograph or cell, its mean colour last


def image_maps(
    encoder: ImageEncoder,
    pictures: Sequence[np.ndarray],
    progress: Callable[[float], object] | None = None,
) -> list[Tensor]:
    """The encoder's feature map (F, rows, columns) of each upright RGB (H, W, 3) uint8 picture.

    ``progress``: called with the fraction done.
    """
    encoded = encoder.encode(pictures, (32,), PHOTO_SIDE, 16, progress)
    return [entry[32].values.cpu() for entry in encoded]


def view_features(
    maps: Sequence[Tensor], photos: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(V, F) mean feature of each photograph and (V, P, F) its cells, row by row, float32.

    Args:
        maps: :func:`image_maps` of the photographs.
        photos: RGB (H, W, 3) uint8, each of its own size.
    """
    views = torch.stack([m.mean((1, 2)) for m in maps])
    cells = torch.stack([F.adaptive_avg_pool2d(m, PATCH_GRID).flatten(1).T for m in maps])
    colours = torch.stack([_colours(photo) for photo in photos])
    views = torch.cat([views, colours.mean(1)], -1)
    return views.numpy(), torch.cat([cells, colours], -1).numpy()


def drawn_looks(
    maps: Sequence[Tensor],
    shown: Sequence[np.ndarray],
    colours: np.ndarray,
    segment: np.ndarray,
) -> np.ndarray:
    """(M, F) look of each supervoxel in pictures drawn from the cloud; zeros where none shows it.

    The mean of the encoder's map, read bilinearly, over all pixels that show the supervoxel.

    Args:
        maps: :func:`image_maps` of the pictures.
        shown: index (H, W) of the voxel in each pixel of each picture, -1 = none.
        colours: (N, 3) in 0..1 of the voxels; segment: (N,) their supervoxels.
    """
    count = int(segment.max()) + 1
    total, pixels = torch.zeros(count, maps[0].shape[0]), torch.zeros(count)
    for index, values in zip(shown, maps, strict=True):
        rows, columns = 2 * values.shape[1], 2 * values.shape[2]
        fine = F.interpolate(values[None], (rows, columns), mode="bilinear", align_corners=False)[0]
        down = np.arange(index.shape[0]) * rows // index.shape[0]
        across = np.arange(index.shape[1]) * columns // index.shape[1]
        there = index >= 0
        cell = (down[:, None] * columns + across)[there]
        pair, many = np.unique(segment[index[there]] * (rows * columns) + cell, return_counts=True)
        piece, place = (torch.from_numpy(v) for v in np.divmod(pair, rows * columns))
        weight = torch.from_numpy(many).float()
        total.index_add_(0, piece, fine.flatten(1).T[place] * weight[:, None])
        pixels.index_add_(0, piece, weight)
    looks = total / pixels.clamp(min=1)[:, None]
    size = np.bincount(segment, minlength=count).clip(1)
    mean = np.stack([np.bincount(segment, colours[:, c], count) / size for c in range(3)], 1)
    tone = torch.from_numpy((mean - 0.5).astype(np.float32)) * (pixels > 0)[:, None]
    return torch.cat([looks, tone], 1).numpy()


def _colours(photo: np.ndarray) -> Tensor:
    """(P, 3) mean colour of each cell of a photograph, -0.5..0.5."""
    pixels = torch.tensor(photo).permute(2, 0, 1).float() / 255 - 0.5
    return F.adaptive_avg_pool2d(pixels, PATCH_GRID).flatten(1).T

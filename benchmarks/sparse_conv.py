"""Sparse convolution against dense Conv3d on the voxels of a sample room.

One 3x3x3 layer with 24 channels at 10 cm, forward, one after the other in one run; the dense grid
is the bounding box of the room. Memory is what the inputs, the gathered rows and the output take.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from crossfuse.data.sample_rooms import sample_names, sample_room
from crossfuse.data.supervoxels import voxelize
from crossfuse.models.sparse_unet import SparseConv, batch_grid

CHANNELS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--voxel", type=float, default=0.1, help="edge of a voxel in metres")
    parser.add_argument("--repeats", type=int, default=5)


@torch.inference_mode()
def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a sample room: voxels, filled share, milliseconds of both, ratios, largest error."""
    return [_room(name, options) for name in sample_names()]


def _room(name: str, options: argparse.Namespace) -> dict[str, Any]:
    cloud, _ = sample_room(name)
    voxels = voxelize(cloud.positions, np.zeros_like(cloud.positions), options.voxel)
    cells = torch.from_numpy(voxels.cell.astype(np.int64))
    grid, order = batch_grid(cells[None], torch.ones(1, len(cells), dtype=torch.bool))
    torch.manual_seed(0)
    features = torch.randn(len(cells), CHANNELS)[order]
    layer = SparseConv(27, CHANNELS, CHANNELS)
    kernel = layer.weight.reshape(3, 3, 3, CHANNELS, CHANNELS).permute(4, 3, 0, 1, 2).contiguous()
    size = tuple(int(v) for v in cells.max(0).values + 1)
    dense = torch.zeros(1, CHANNELS, *size)
    at = grid.cells[:, 1:].T
    dense[0, :, at[0], at[1], at[2]] = features.T
    rules = grid.rules(3)
    sparse_ms, got = _time(lambda: layer(features, rules, len(grid)), options.repeats)
    dense_ms, full = _time(lambda: F.conv3d(dense, kernel, padding=1), options.repeats)
    wanted = full[0, :, at[0], at[1], at[2]].T
    floats = {
        "sparse": 2 * features.numel() + max(len(i) for i, _ in rules) * 2 * CHANNELS,
        "dense": 2 * dense.numel(),
    }
    return {
        "room": name,
        "voxels": len(cells),
        "filled": len(cells) / float(np.prod(size)),
        "sparse_ms": sparse_ms,
        "dense_ms": dense_ms,
        "time_dense_to_sparse": dense_ms / sparse_ms,
        "memory_dense_to_sparse": floats["dense"] / floats["sparse"],
        "largest_error": float((got - wanted).abs().max()),
    }


def _time(run: Any, repeats: int) -> tuple[float, torch.Tensor]:
    result = run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, 1000 * (time.perf_counter() - start))
    return best, result

"""Scans for training MIT: what is kept of CrossFuse Rooms, read back whole and in parts.

Each room is read once; its voxels and supervoxels are kept beside it in ``cloud.npz``. Training
sees a scan's *tags*; the labels stored here are for evaluation and the fully supervised upper
bound, and are named so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossfuse.data.point_scene import VOXEL, prepare
from crossfuse.data.rooms import CLASSES
from crossfuse.errors import CrossfuseError


@dataclass(frozen=True)
class Scan:
    """One scan: a whole room, or the part of it that a few photographs cover.

    ``places`` (N, 3) metres, ``features`` (N, F), ``segment`` (N,) of its voxels. ``tags`` (K,)
    bool is all that training with tags may look at. ``histogram`` (M, K + 1): points of each class
    in each supervoxel, the last column for unlabelled ones (evaluation and the upper bound only).
    ``pieces`` (M,): which supervoxels of the whole room.
    """

    name: str
    places: np.ndarray
    features: np.ndarray
    segment: np.ndarray
    tags: np.ndarray
    histogram: np.ndarray
    whole: bool
    pieces: np.ndarray


def cache_cloud(folder: Path) -> Path:
    """Compute and store voxels and supervoxels of one room unless they are there."""
    target = folder / "cloud.npz"
    if target.is_file():
        return target
    points = np.load(folder / "points.npz")
    store_cloud(target, *(points[n] for n in ("positions", "colours", "labels", "seen")))
    return target


def store_cloud(
    target: Path, positions: np.ndarray, colours: np.ndarray, labels: np.ndarray, seen: np.ndarray
) -> None:
    """Write what is kept of a room's points (see ``crossfuse.data.rooms`` for the arrays)."""
    scene = prepare(positions, colours / np.float32(255))
    of_voxel = scene.voxels.of_point
    seen_by = np.zeros(len(scene.voxels), np.uint16)
    np.bitwise_or.at(seen_by, of_voxel, seen)
    known = np.where(labels < len(CLASSES), labels, len(CLASSES)).astype(np.int64)
    # Points by (voxel, class), so that a partial scan can count its own points.
    pairs, counts = np.unique(of_voxel * 32 + known, return_counts=True)
    store(
        target,
        places=scene.places.astype(np.float32),
        features=scene.features.astype(np.float16),
        segment=scene.segment.astype(np.uint16),
        seen=seen_by,
        pairs=pairs,
        pair_counts=counts.astype(np.int32),
    )


def store(target: Path, **arrays: np.ndarray) -> None:
    """Write arrays as one file, whole or not at all."""
    scratch = target.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    scratch.rename(target)


def rooms_in(data: str | Path, split: str) -> list[Path]:
    """Finished room folders of a split.

    Raises:
        CrossfuseError: there is none.
    """
    found = sorted(p.parent for p in (Path(data) / split).glob("room_*/room.json"))
    if not found:
        raise CrossfuseError(
            f"No rooms under {Path(data) / split}. Compose some: "
            "crossfuse data rooms --out DIR --scenes 300 --seed 11"
        )
    return found


def load_scans(
    data: str | Path, split: str, *, limit: int | None = None, workers: int = 1
) -> list[Scan]:
    """All scans of a split, whole and partial, prepared where they are not yet."""

    def load(folder: Path) -> list[Scan]:
        cache_cloud(folder)
        return read_room(folder, partial=True)

    with ThreadPoolExecutor(workers) as pool:
        return [scan for scans in pool.map(load, rooms_in(data, split)[:limit]) for scan in scans]


def read_room(folder: Path, *, partial: bool) -> list[Scan]:
    """The whole scan of a cached room, then its partial ones."""
    info = json.loads((folder / "room.json").read_text())
    with np.load(folder / "cloud.npz") as file:
        cached = {key: file[key] for key in file.files}
    scans = [_part(cached, info["tags"], None, folder.name)]
    if partial:
        for index, part in enumerate(info["scans"]):
            name = f"{folder.name}/{index + 1}"
            scans.append(_part(cached, part["tags"], part["views"], name))
    return scans


def _part(
    cached: dict[str, np.ndarray], tags: list[int], views: Sequence[int] | None, name: str
) -> Scan:
    count = len(CLASSES)
    keep = np.ones(len(cached["segment"]), bool)
    if views is not None:
        mask = np.uint16(sum(1 << v for v in views))
        keep = (cached["seen"] & mask) > 0
    old = cached["segment"].astype(np.int64)
    there = np.bincount(old[keep], minlength=int(old.max()) + 1) > 0
    renumber = np.cumsum(there) - 1
    segment = renumber[old[keep]]
    voxel, label = np.divmod(cached["pairs"], 32)
    inside = keep[voxel]
    where = renumber[old[voxel[inside]]] * (count + 1) + label[inside]
    sums = np.bincount(where, cached["pair_counts"][inside], int(there.sum()) * (count + 1))
    histogram = sums.astype(np.int64).reshape(-1, count + 1)
    flags = np.zeros(count, bool)
    flags[tags] = True
    return Scan(
        name,
        cached["places"][keep],
        cached["features"][keep],
        segment,
        flags,
        histogram,
        views is None,
        np.flatnonzero(there),
    )


def scan_inputs(scan: Scan, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Keyword arguments of ``MIT.segment_inputs`` for one scan as it is."""
    cells = np.floor(scan.places / VOXEL).astype(np.int64)
    inputs = {
        "cells": torch.from_numpy(cells - cells.min(axis=0)),
        "voxel_features": torch.from_numpy(scan.features.astype(np.float32)),
        "positions": torch.from_numpy(scan.places.astype(np.float32)),
        "voxel_mask": torch.ones(len(cells), dtype=torch.bool),
        "segment": torch.from_numpy(scan.segment.astype(np.int64)),
    }
    return {name: value[None].to(device) for name, value in inputs.items()}

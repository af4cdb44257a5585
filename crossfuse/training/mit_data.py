"""Scans for training MIT: what is kept of CrossFuse Rooms, read back whole and in parts.

Each room is read once; its voxels and supervoxels are kept beside it in ``cloud.npz``, the frozen
image features of its photographs in ``views.npz``. Training sees a scan's *tags*; the labels stored
here are for evaluation and the fully supervised upper bound, and are named so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossfuse.data.point_scene import VOXEL, prepare
from crossfuse.data.rooms import CLASSES
from crossfuse.encoders.views import PHOTO_SIDE, view_features
from crossfuse.errors import CrossfuseError

COPIES = 3  # of every training photograph: itself, and two changed ones


@dataclass(frozen=True)
class Scan:
    """One scan: a whole room, or the part of it that a few photographs cover.

    ``places`` (N, 3) metres, ``features`` (N, F), ``segment`` (N,) of its voxels; ``views``
    (C, V, D) and ``patches`` (C, V, P, D) frozen features of C copies of each photograph, the first
    one unchanged. ``tags`` (K,) bool is all that training with tags may look at. ``histogram``
    (M, K + 1): points of each class in each supervoxel, the last column for unlabelled ones
    (evaluation and the upper bound only).
    """

    name: str
    places: np.ndarray
    features: np.ndarray
    segment: np.ndarray
    views: np.ndarray
    patches: np.ndarray
    tags: np.ndarray
    histogram: np.ndarray
    whole: bool


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
    _store(
        target,
        places=scene.places.astype(np.float32),
        features=scene.features.astype(np.float16),
        segment=scene.segment.astype(np.uint16),
        seen=seen_by,
        pairs=pairs,
        pair_counts=counts.astype(np.int32),
    )


def cache_views(folder: Path, encoder: Any, copies: int) -> Path:
    """Compute and store the frozen features of one room's photographs unless they are there."""
    target = folder / "views.npz"
    if target.is_file():
        with np.load(target) as file:
            if len(file["views"]) >= copies:
                return target
    paths = sorted((folder / "photos").glob("*.jpg"))
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    rng = np.random.default_rng(len(folder.name) * 1000 + int(folder.name[-4:]))
    changed = [changed_photo(photo, rng) for _ in range(copies - 1) for photo in photos]
    views, patches = view_features(encoder, [*photos, *changed], batch_size=32)
    _store(
        target,
        views=views.reshape(copies, len(photos), -1).astype(np.float16),
        patches=patches.reshape(copies, len(photos), *patches.shape[1:]).astype(np.float16),
    )
    return target


def changed_photo(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photograph cropped, perhaps mirrored, in other light and colours, at the encoder's size."""
    height, width = photo.shape[:2]
    scale = PHOTO_SIDE / max(height, width)
    share = rng.uniform(0.65, 1.0)
    wide, tall = width * share, height * share
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    image = Image.fromarray(photo).resize(
        (round(width * scale), round(height * scale)),
        Image.Resampling.BILINEAR,
        (left, top, left + wide, top + tall),
        reducing_gap=2.0,
    )
    pixels = np.asarray(image, np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.5, 1.4))  # saturation
    pixels = (pixels - 110) * np.float32(rng.uniform(0.7, 1.35)) + np.float32(
        rng.uniform(80, 145)
    )  # contrast, brightness
    pixels = pixels * rng.uniform(0.88, 1.12, 3).astype(np.float32)
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0, 8))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _store(target: Path, **arrays: np.ndarray) -> None:
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
    data: str | Path,
    split: str,
    encoder: Callable[[], Any],
    *,
    partial: bool = True,
    limit: int | None = None,
    copies: int = 1,
    workers: int = 1,
) -> list[Scan]:
    """All scans of a split, features computed where they are missing.

    Args:
        encoder: builds the image encoder; called only if a room has no features yet.
        partial: also the partial scans of each room.
        copies: of every photograph; the second and later ones are changed.
        workers: threads that prepare rooms.
    """
    folders = rooms_in(data, split)[:limit]
    built: list[Any] = []
    if not all((folder / "views.npz").is_file() for folder in folders):
        built.append(encoder())

    def load(folder: Path) -> list[Scan]:
        cache_cloud(folder)
        cache_views(folder, built[0] if built else None, copies)
        return read_room(folder, partial=partial)

    with ThreadPoolExecutor(workers) as pool:
        return [scan for scans in pool.map(load, folders) for scan in scans]


def read_room(folder: Path, *, partial: bool) -> list[Scan]:
    """The whole scan of a cached room, then its partial ones."""
    info = json.loads((folder / "room.json").read_text())
    cached: dict[str, np.ndarray] = {}
    for name in ("cloud.npz", "views.npz"):
        with np.load(folder / name) as file:
            cached |= {key: file[key] for key in file.files}
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
    chosen: Any = slice(None)
    if views is not None:
        mask = np.uint16(sum(1 << v for v in views))
        keep = (cached["seen"] & mask) > 0
        chosen = np.array(views)
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
        cached["views"][:, chosen],
        cached["patches"][:, chosen],
        flags,
        histogram,
        views is None,
    )


def scan_inputs(scan: Scan, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Keyword arguments of ``MIT.forward`` for one scan as it is."""
    cells = np.floor(scan.places / VOXEL).astype(np.int64)
    many, photos = len(cells), scan.views.shape[1]
    inputs = {
        "cells": torch.from_numpy(cells - cells.min(axis=0)),
        "voxel_features": torch.from_numpy(scan.features.astype(np.float32)),
        "positions": torch.from_numpy(scan.places.astype(np.float32)),
        "voxel_mask": torch.ones(many, dtype=torch.bool),
        "segment": torch.from_numpy(scan.segment.astype(np.int64)),
        "view_features": torch.from_numpy(scan.views[0].astype(np.float32)),
        "view_mask": torch.ones(photos, dtype=torch.bool),
        "patch_features": torch.from_numpy(scan.patches[0].astype(np.float32)),
    }
    return {name: value[None].to(device) for name, value in inputs.items()}

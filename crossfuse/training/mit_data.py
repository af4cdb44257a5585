"""Scans for training MIT: cached features of CrossFuse Rooms, augmentation, batches.

Each room is read once; its voxels, supervoxels and frozen image features are kept beside it in
``features.npz``. Training sees a scan's *tags*; the labels stored here are for evaluation and the
fully supervised upper bound, and are named so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfuse.data.point_scene import VOXEL, prepare
from crossfuse.data.rooms import CLASSES
from crossfuse.encoders.views import view_features
from crossfuse.errors import CrossfuseError

CACHE_VERSION = 1


@dataclass(frozen=True)
class Scan:
    """One scan: a whole room, or the part of it that a few photographs cover.

    ``tags`` (K,) bool is all that training with tags may look at. ``histogram`` (M, K + 1): points
    of each class in each supervoxel, the last column for unlabelled ones (evaluation only).
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


def cache_room(folder: Path, encoder: Any) -> Path:
    """Compute and store the features of one room unless they are there."""
    from PIL import Image

    target = folder / "features.npz"
    if target.is_file():
        return target
    points = np.load(folder / "points.npz")
    scene = prepare(points["positions"], points["colours"] / np.float32(255))
    labels, of_voxel = points["labels"], scene.voxels.of_point
    seen = np.zeros(len(scene.voxels), np.uint16)
    np.bitwise_or.at(seen, of_voxel, points["seen"])
    known = np.where(labels < len(CLASSES), labels, len(CLASSES)).astype(np.int64)
    # Points by (voxel, class), so that a partial scan can count its own points.
    pairs, counts = np.unique(of_voxel * 32 + known, return_counts=True)
    photos = [
        np.asarray(Image.open(path).convert("RGB"))
        for path in sorted((folder / "photos").glob("*.jpg"))
    ]
    views, patches = view_features(encoder, photos)
    scratch = target.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez(
            file,
            version=CACHE_VERSION,
            places=scene.places.astype(np.float32),
            features=scene.features.astype(np.float16),
            segment=scene.segment.astype(np.uint16),
            seen=seen,
            pairs=pairs,
            pair_counts=counts.astype(np.int32),
            views=views.astype(np.float16),
            patches=patches.astype(np.float16),
        )
    scratch.rename(target)
    return target


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
) -> list[Scan]:
    """All scans of a split, features computed where they are missing.

    Args:
        encoder: builds the image encoder; called only if a room has no features yet.
        partial: also the partial scans of each room.
    """
    built: list[Any] = []
    scans: list[Scan] = []
    for folder in rooms_in(data, split)[:limit]:
        if not (folder / "features.npz").is_file() and not built:
            built.append(encoder())
        cache_room(folder, built[0] if built else None)
        scans.extend(read_room(folder, partial=partial))
    return scans


def read_room(folder: Path, *, partial: bool) -> list[Scan]:
    """The whole scan of a cached room, then its partial ones."""
    info = json.loads((folder / "room.json").read_text())
    with np.load(folder / "features.npz") as file:
        cached = {name: file[name] for name in file.files}
    scans = [_part(cached, info["tags"], None, folder.name)]
    if partial:
        for index, part in enumerate(info["scans"]):
            name = f"{folder.name}/{index + 1}"
            scans.append(_part(cached, part["tags"], part["views"], name))
    return scans


def _part(
    cached: dict[str, np.ndarray], tags: list[int], views: list[int] | None, name: str
) -> Scan:
    count = len(CLASSES)
    keep = np.ones(len(cached["segment"]), bool)
    chosen = np.arange(len(cached["views"]))
    if views is not None:
        mask = np.uint16(sum(1 << v for v in views))
        keep = (cached["seen"] & mask) > 0
        chosen = np.array(views)
    present, segment = np.unique(cached["segment"][keep].astype(np.int64), return_inverse=True)
    renumber = np.full(len(keep), -1)
    renumber[keep] = segment
    voxel, label = np.divmod(cached["pairs"], 32)
    inside = keep[voxel]
    histogram = np.zeros((len(present), count + 1), np.int64)
    np.add.at(histogram, (renumber[voxel[inside]], label[inside]), cached["pair_counts"][inside])
    flags = np.zeros(count, bool)
    flags[tags] = True
    return Scan(
        name,
        cached["places"][keep],
        cached["features"][keep],
        segment,
        cached["views"][chosen],
        cached["patches"][chosen],
        flags,
        histogram,
        views is None,
    )


def scan_inputs(scan: Scan, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
    """Keyword arguments of ``MIT.forward`` for one scan, augmented when ``rng`` is given.

    Augmentation: turn about the vertical, mirror, scale .9 to 1.1, lost voxels, colour gains and
    offsets, colour lost altogether, lost photographs.
    """
    places = scan.places.astype(np.float32)
    features = scan.features.astype(np.float32)
    segment, views, patches = scan.segment, scan.views, scan.patches
    if rng is not None:
        kept = rng.random(len(places)) > rng.uniform(0, 0.3)
        kept[:2] = True
        places, features, segment = places[kept], features[kept], segment[kept]
        places = _turned(places, rng)
        features = _recoloured(features, rng)
        if len(views) > 4:
            chosen = rng.choice(len(views), int(rng.integers(4, len(views) + 1)), replace=False)
            views, patches = views[chosen], patches[chosen]
    cells = np.floor(places / VOXEL).astype(np.int64)
    cells -= cells.min(axis=0)
    first = np.unique(cells, axis=0, return_index=True)[1] if rng is not None else slice(None)
    return {
        "cells": torch.from_numpy(cells[first])[None],
        "voxel_features": torch.from_numpy(features[first])[None],
        "positions": torch.from_numpy(places[first])[None],
        "voxel_mask": torch.ones(1, len(cells[first]), dtype=torch.bool),
        "segment": torch.from_numpy(segment[first])[None],
        "view_features": torch.from_numpy(views.astype(np.float32))[None],
        "view_mask": torch.ones(1, len(views), dtype=torch.bool),
        "patch_features": torch.from_numpy(patches.astype(np.float32))[None],
    }


def _turned(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float32)
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    return (places @ turn.T) * np.float32(rng.uniform(0.9, 1.1))


def _recoloured(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    features = features.copy()
    colour = features[:, :3]
    if rng.random() < 0.1:
        colour[:] = 0
    else:
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
        colour[:] = (colour + 0.5) * gain - 0.5 + rng.normal(0, 0.08)
        if rng.random() < 0.3:  # some scanners see nearly grey
            colour[:] += (colour.mean(axis=1, keepdims=True) - colour) * rng.uniform(0.3, 1)
    features[:, 3] *= rng.uniform(0.95, 1.05)
    features += rng.normal(0, 0.02, features.shape).astype(np.float32)
    return features

"""Training MIT past a frozen backbone, on pooled features that are computed once: minutes on a CPU.

The 3-D backbone and the image encoder stay as they are, so that a scan is a few hundred vectors:
pooled backbone features, shape and look of each supervoxel, features of each photograph and its
cells. They are kept beside each room in ``pooled.npz``. Everything past them is trained: both
CAMs, the encoders, the interlaced decoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossfuse.data.point_scene import VOXEL
from crossfuse.data.point_views import painted, view_indices
from crossfuse.data.rooms import CLASSES
from crossfuse.encoders.views import FEATURES, drawn_looks, image_maps, view_features
from crossfuse.models.mit import MIT, MITConfig, MITOutput
from crossfuse.training.mit_batches import Bank
from crossfuse.training.mit_data import (
    Scan,
    cache_cloud,
    read_room,
    rooms_in,
    scan_inputs,
    store,
)

COPIES = 2  # of the pooled features: of the scan as it is, and of one turned, bent and recoloured
MOST_VIEWS, CELLS = 8, 8  # photographs a step, and cells of each
MOST_SEGMENTS = 128  # supervoxels of a scan a step


@dataclass(frozen=True)
class PooledScan:
    """What :meth:`MIT.fuse` needs of one scan: M supervoxels, V photographs of P cells.

    ``segments`` (C, M, B), ``places`` (C, M, S), ``mask`` (C, M) of C copies of the cloud;
    ``looks`` (M, F), ``views`` (V, F), ``patches`` (V, P, F) image features; ``tags`` (K,) is all
    that training with tags may look at; ``histogram`` (M, K + 1): see :class:`Scan`.
    """

    name: str
    segments: Tensor
    places: Tensor
    mask: Tensor
    looks: Tensor
    views: Tensor
    patches: Tensor
    tags: np.ndarray
    histogram: np.ndarray


def pool(
    model: MIT, encoder: Any, scan: Scan, photos: Sequence[np.ndarray], copies: int = 1
) -> PooledScan:
    """Run the frozen networks over a whole scan and its photographs (RGB, uint8)."""
    views, patches = view_features(image_maps(encoder, photos), photos)
    shown, colours = view_indices(scan.places, VOXEL), scan.features[:, :3].astype(np.float32) + 0.5
    own = image_maps(encoder, [painted(index, colours) for index in shown])
    looks = drawn_looks(own, shown, colours, scan.segment)
    segments, places, mask = _clouds(model, scan, copies)
    return PooledScan(
        scan.name,
        segments,
        places,
        mask,
        torch.from_numpy(looks),
        torch.from_numpy(views),
        torch.from_numpy(patches),
        scan.tags,
        scan.histogram,
    )


@torch.inference_mode()
def _clouds(model: MIT, scan: Scan, copies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled features, shapes and masks of a scan as it is and of ``copies`` - 1 changed ones."""
    inputs = [scan_inputs(scan)]
    bank = Bank([scan], "cpu")
    inputs += [bank.batch([0], copy).inputs for copy in range(1, copies)]
    found = [model.segment_inputs(**each) for each in inputs]
    # Changed copies may have lost the last pieces; the first has them all.
    names = ("segments", "places", "segment_mask")
    kept = [pad_sequence([one[name][0] for one in found], batch_first=True) for name in names]
    return kept[0], kept[1], kept[2]


def load_pooled(
    data: Path,
    split: str,
    model: MIT,
    encoder: Any,
    *,
    partial: bool = True,
    limit: int | None = None,
    workers: int = 1,
) -> list[PooledScan]:
    """All scans of a split; features are computed where they are not there yet."""
    weights = model.backbone.state_dict().values()
    mark = hashlib.sha256(b"".join(v.cpu().numpy().tobytes() for v in weights)).hexdigest()[:8]
    name = f"pooled-{mark}.npz"

    def load(folder: Path) -> list[PooledScan]:
        cache_cloud(folder)
        scans = read_room(folder, partial=partial)
        if not (folder / name).is_file():
            photos = [
                np.asarray(Image.open(path).convert("RGB"))
                for path in sorted((folder / "photos").glob("*.jpg"))
            ]
            _store_room(folder / name, model, encoder, scans, photos)
        return _read_pooled(folder / name, scans)

    folders = rooms_in(data, split)[:limit]
    with ThreadPoolExecutor(workers) as threads:
        return [scan for scans in threads.map(load, folders) for scan in scans]


def _store_room(
    target: Path, model: MIT, encoder: Any, scans: Sequence[Scan], photos: Sequence[np.ndarray]
) -> None:
    copies = COPIES if len(scans) > 1 else 1
    whole = pool(model, encoder, scans[0], photos, copies)
    clouds = [(whole.segments, whole.places, whole.mask)]
    clouds += [_clouds(model, scan, copies) for scan in scans[1:]]
    arrays = {"looks": whole.looks, "views": whole.views, "patches": whole.patches}
    for index, cloud in enumerate(clouds):
        names = (f"segments_{index}", f"places_{index}", f"mask_{index}")
        arrays |= dict(zip(names, cloud, strict=True))
    half = {n: v.half() if v.is_floating_point() else v for n, v in arrays.items()}
    store(target, **{name: value.numpy() for name, value in half.items()})


def _read_pooled(source: Path, scans: Sequence[Scan]) -> list[PooledScan]:
    info = json.loads((source.parent / "room.json").read_text())
    with np.load(source) as file:
        kept = {name: torch.from_numpy(file[name]) for name in file.files}
    pooled = []
    for index, scan in enumerate(scans):
        photos = info["scans"][index - 1]["views"] if index else slice(None)
        pooled.append(
            PooledScan(
                scan.name,
                kept[f"segments_{index}"],
                kept[f"places_{index}"],
                kept[f"mask_{index}"],
                kept["looks"][scan.pieces],
                kept["views"][photos],
                kept["patches"][photos],
                scan.tags,
                scan.histogram,
            )
        )
    return pooled


def principal_looks(scans: Sequence[PooledScan], count: int) -> tuple[Tensor, Tensor]:
    """Mean (F,) and basis (F, count) of image features, photographs' cells and drawn looks alike.

    Features are brought to unit spread first; components leave at about unit size.
    """
    cells = torch.cat([s.patches[..., :-3].flatten(0, 1)[::9].float() for s in scans])
    looks = torch.cat([s.looks[::4, :-3].float() for s in scans])
    looks = looks[(looks != 0).any(1)]
    spread = torch.cat([cells, looks]).std(0) + 1e-3
    make = torch.Generator().manual_seed(0)
    together = torch.cat([cells - cells.mean(0), looks - looks.mean(0)])
    rows = torch.randperm(len(together), generator=make)[:8000]
    values = (together[rows] / spread).double()
    _, vectors = torch.linalg.eigh(values.T @ values)
    basis = vectors[:, -count:].flip(1).float()
    return (cells.mean(0) + looks.mean(0)) / 2, basis / spread[:, None] / 6


@dataclass(frozen=True)
class PooledBatch:
    """``inputs``: keyword arguments of ``MIT.fuse``; ``tags`` (B, K) bool; ``which`` (B,);
    ``rows``: which supervoxels of each scan are here."""

    inputs: dict[str, Tensor]
    tags: Tensor
    which: list[int]
    rows: list[Tensor]


class PooledBank:
    """Pooled scans with image features as :meth:`MIT.components` gives them.

    ``often`` (K,): share of scans that have each class.
    """

    def __init__(self, scans: Sequence[PooledScan], model: MIT) -> None:
        with torch.inference_mode():
            put = [
                [model.components(v.float()) for v in (s.looks, s.views, s.patches)] for s in scans
            ]
        self.looks, self.views, self.patches = ([one[i].clone() for one in put] for i in range(3))
        self.scans, self.device = list(scans), torch.device("cpu")
        self.tags = torch.from_numpy(np.stack([s.tags for s in scans]))
        self.often = self.tags.float().mean(0)
        every = torch.cat([s.places[0][s.mask[0]].float() for s in scans])
        self.place_mean, self.place_spread = every.mean(0), every.std(0) + 1e-6

    def __len__(self) -> int:
        return len(self.scans)

    def batch(self, which: Sequence[int], seed: int) -> PooledBatch:
        """Some supervoxels, photographs and cells of each of the scans ``which``."""
        rng = np.random.default_rng(seed)
        make = torch.Generator().manual_seed(seed)
        chosen = [(self.scans[i], int(rng.integers(len(self.scans[i].mask)))) for i in which]
        rows = [
            torch.from_numpy(np.sort(rng.permutation(len(s.looks))[:MOST_SEGMENTS]))
            for s, _ in chosen
        ]
        cloud = [
            [value[copy][row].float() for value in (scan.segments, scan.places, scan.mask)]
            for (scan, copy), row in zip(chosen, rows, strict=True)
        ]
        segments, places, mask = (
            pad_sequence([one[part] for one in cloud], batch_first=True) for part in range(3)
        )
        looks = [self.looks[i][row] for i, row in zip(which, rows, strict=True)]
        noise = torch.randn(places.shape, generator=make) * self.place_spread
        views, cells = [], []
        for i in which:
            there, many = self.patches[i].shape[:2]
            shown = int(rng.integers(min(3, there), min(there, MOST_VIEWS) + 1))
            photos = rng.choice(there, shown, replace=False)
            views.append(self.views[i][photos])
            part = rng.choice(many, min(CELLS, many), replace=False)
            cells.append(self.patches[i][photos][:, part])
        real = [torch.ones(len(v), dtype=torch.bool) for v in views]
        inputs = {
            "segments": segments,
            "places": places + 0.05 * noise,
            "segment_mask": mask > 0,
            "scatter": torch.zeros(len(which)),
            "view_features": pad_sequence(views, batch_first=True),
            "view_mask": pad_sequence(real, batch_first=True),
            "patch_features": pad_sequence(cells, batch_first=True),
            "segment_looks": pad_sequence(looks, batch_first=True),
        }
        return PooledBatch(inputs, self.tags[list(which)], list(which), rows)


def pooled_answer(model: MIT, scan: PooledScan) -> MITOutput:
    """What the model says of one scan as it is."""
    size = len(scan.histogram)

    def one(values: Tensor) -> Tensor:
        return values[None].float()

    return model.fuse(
        one(scan.segments[0][:size]),
        one(scan.places[0][:size]),
        scan.mask[0][None, :size],
        torch.zeros(1),
        model.components(one(scan.views)),
        torch.ones(1, len(scan.views), dtype=torch.bool),
        model.components(one(scan.patches)),
        model.components(one(scan.looks)),
    )


def pooled_config(**changes: Any) -> MITConfig:
    """The configuration that is trained here."""
    return MITConfig.small(CLASSES, view_features=FEATURES, looks=160, **changes)

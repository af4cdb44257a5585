"""Cached inputs of MMCA training: what the frozen encoders make of a captioned data set.

A cache folder holds arrays for all photographs of one data set, in the order of its captions file:

    plain_s8.npy, plain_s16.npy, plain_s32.npy     (N, cells, C) float16, feature maps, row by row
    flip_s8.npy ...                                the same of mirrored photographs (optional)
    <plain|flip>_<kind>.npy, <plain|flip>_<kind>_boxes.npy    (N, 36, C) and (N, 36, 4) regions
    text_meta.npz                                  offset (5 N + 1,), ids: pieces, [CLS]...[SEP]
    text_l3.npy, text_last.npy                     (word pieces, 384) float16, layers 3 and 6
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossfuse.data.captions import CaptionedPhoto, pack_images
from crossfuse.encoders.proposer import CHANNELS, REGIONS
from crossfuse.encoders.regions import (
    FEATURES,
    SIDE,
    STRIDES,
    RegionEncoder,
    grid_boxes,
    multiscale_boxes,
    pool_regions,
)
from crossfuse.encoders.text import MiniLM

Say = Callable[[str], None]


@dataclass(frozen=True)
class FeatureCache:
    """Read access to a cache folder; arrays stay on disk."""

    root: Path

    def maps(self, rows: np.ndarray, flip: bool = False) -> dict[int, Tensor]:
        """Feature maps of photographs: stride -> (B, C, h, w) float32."""
        tag, maps = "flip" if flip else "plain", {}
        for stride in STRIDES:
            cells = SIDE // stride
            tokens = torch.from_numpy(self._array(f"{tag}_s{stride}")[rows].astype(np.float32))
            maps[stride] = tokens.transpose(1, 2).unflatten(2, (cells, cells))
        return maps

    def has_regions(self, kind: str, flip: bool = False) -> bool:
        tag = "flip" if flip else "plain"
        return (self.root / f"{tag}_{kind}.npy").exists()

    def regions(
        self, rows: np.ndarray, kind: str, flip: bool = False, only: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor]:
        """Region features (B, 36, C) float32 and boxes (B, 36, 4); or ``only`` some of the 36."""
        name = f"{'flip' if flip else 'plain'}_{kind}"
        place = rows if only is None else np.ix_(rows, only)
        features = torch.from_numpy(self._array(name)[place].astype(np.float32))
        boxes = self._array(f"{name}_boxes")[place].astype(np.float32)
        return features, torch.from_numpy(boxes)

    def words(self, captions: np.ndarray, longest: int = 512) -> tuple[Tensor, Tensor]:
        """Token states (B, n, 768) float32, zero where padded, and the mask (B, n).

        Sentences are cut to ``longest`` word pieces, [SEP] kept.
        """
        lengths = self.offset[captions + 1] - self.offset[captions]
        ends, lengths = self.offset[captions + 1] - 1, np.minimum(lengths, longest)
        states = np.zeros((len(captions), int(lengths.max()), 768), np.float32)
        middle, last = self._array("text_l3"), self._array("text_last")
        for row, (start, length) in enumerate(zip(self.offset[captions], lengths, strict=True)):
            states[row, : length - 1, :384] = middle[start : start + length - 1]
            states[row, : length - 1, 384:] = last[start : start + length - 1]
            states[row, length - 1] = np.concatenate([middle[ends[row]], last[ends[row]]])
        mask = np.arange(states.shape[1])[None] < lengths[:, None]
        return torch.from_numpy(states), torch.from_numpy(mask)

    def last_states(self, caption: int) -> np.ndarray:
        """Last-layer states of one caption: (n, 384) float16."""
        return self._array("text_last")[self.offset[caption] : self.offset[caption + 1]]

    def ids(self, caption: int) -> np.ndarray:
        return self._text["ids"][self.offset[caption] : self.offset[caption + 1]]

    @property
    def offset(self) -> np.ndarray:
        return self._text["offset"]

    @cached_property
    def _text(self) -> dict[str, np.ndarray]:
        with np.load(self.root / "text_meta.npz") as archive:
            return {name: archive[name] for name in archive.files}

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.load(self.root / f"{name}.npy", mmap_mode="r")
        return self._arrays[name]


def cache_maps(
    data: Path,
    photos: Sequence[CaptionedPhoto],
    root: Path,
    encoder: RegionEncoder,
    say: Say,
    flip: bool = False,
    batch: int = 8,
) -> None:
    """Write the feature maps of all photographs (about 350 KB each); nothing if they are there."""
    tag = "flip" if flip else "plain"
    done = root / f"{tag}_maps.done"
    if done.exists():
        return
    shapes = {s: (len(photos), (SIDE // s) ** 2, CHANNELS[s]) for s in STRIDES}
    arrays = {s: new_array(root / f"{tag}_s{s}.npy", shape) for s, shape in shapes.items()}
    rows: list[int] = []
    pixels: list[np.ndarray] = []

    def write() -> None:
        for stride, values in encoder.maps(pixels).items():
            arrays[stride][rows] = values.flatten(2).transpose(1, 2).half().numpy()
        rows.clear()
        pixels.clear()

    for number, (row, raw) in enumerate(pack_images(data, photos)):
        picture = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        rows.append(row)
        pixels.append(np.ascontiguousarray(picture[:, ::-1]) if flip else picture)
        if len(rows) == batch:
            write()
        if number % 500 == 0:
            say(f"feature maps of photographs: {number} of {len(photos)}")
    if rows:
        write()
    done.touch()


def cache_regions(root: Path, kind: str, encoder: RegionEncoder, flip: bool = False) -> None:
    """Pool the region features of all photographs; nothing if they are there."""
    tag, cache = "flip" if flip else "plain", FeatureCache(root)
    if cache.has_regions(kind, flip):
        return
    count = len(np.load(root / f"{tag}_s32.npy", mmap_mode="r"))
    part = root / f"{tag}_{kind}.part"
    features, boxes = new_array(part, (count, REGIONS, FEATURES)), np.zeros((count, REGIONS, 4))
    fixed = {"cells": grid_boxes(), "multiscale": multiscale_boxes()}.get(kind)
    for start in range(0, count, 50):
        rows = np.arange(start, min(start + 50, count))
        maps = cache.maps(rows, flip)
        if fixed is not None:
            own = fixed.expand(len(rows), REGIONS, 4)
        else:
            # The whole frame stands in where fewer than 36 boxes are proposed.
            own = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(rows), REGIONS, 1)
            for row, found in enumerate(encoder.proposer.propose(maps)):
                own[row, : len(found)] = found
        features[rows] = pool_regions(maps, own).half().numpy()
        boxes[rows] = own.numpy()
    features.flush()
    np.save(root / f"{tag}_{kind}_boxes.npy", boxes.astype(np.float32))
    part.replace(root / f"{tag}_{kind}.npy")


def cache_text(photos: Sequence[CaptionedPhoto], root: Path, encoder: MiniLM, say: Say) -> None:
    """Write the token states of all sentences; nothing if they are there."""
    if (root / "text_meta.npz").exists():
        return
    texts = [caption.text for photo in photos for caption in photo.captions]
    encodings = encoder.tokenizer.encode_batch(texts)
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    offset = np.concatenate([[0], np.cumsum(lengths)])
    middle = new_array(root / "text_l3.npy", (int(offset[-1]), 384))
    last = new_array(root / "text_last.npy", (int(offset[-1]), 384))
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        for index, sentence in zip(some, encoder.encode([texts[i] for i in some]), strict=True):
            place = slice(int(offset[index]), int(offset[index + 1]))
            states = sentence.states.half().numpy()
            middle[place], last[place] = states[:, :384], states[:, 384:]
        if start % 6400 == 0:
            say(f"token states of sentences: {start} of {len(order)}")
    ids = np.concatenate([encoding.ids for encoding in encodings])
    np.savez(root / "text_meta.npz", offset=offset, ids=ids)


def new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A float16 array on disk, to be filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, "w+", np.float16, shape)

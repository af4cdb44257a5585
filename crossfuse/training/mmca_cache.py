"""Cached inputs of MMCA training: what the frozen encoders make of a captioned data set.

A cache folder holds arrays for all photographs of one data set, in the order of its captions file:

    plain_s8.npy, plain_s16.npy, plain_s32.npy     (N, cells, C) float16, feature maps, row by row
    flip_s8.npy ...                                the same of mirrored photographs (optional)
    <plain|flip>_<kind>.npy, <plain|flip>_<kind>_boxes.npy    (N, 36, C) and (N, 36, 4) regions
    text_meta.npz                                  offset (5 N + 1,), ids: pieces, [CLS]...[SEP]
    text_l3.npy, text_last.npy                     (word pieces, 384) float16, layers 3 and 6
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossfuse.encoders.regions import SIDE, STRIDES

PER_IMAGE = 5


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

"""Augmented batches of scans for MIT, made where the model is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossfuse.data.point_scene import VOXEL
from crossfuse.models.sparse_unet import voxel_keys
from crossfuse.training.mit_data import Scan

MOST_VIEWS = 10  # photographs a step
PATCHES = 6  # of each photograph a step
LOST_FEATURES = 0.2  # share of image features that a scan does without (dropout)


@dataclass(frozen=True)
class Batch:
    """``inputs``: keyword arguments of ``MIT.forward``; ``tags`` (B, K) bool; ``which`` (B,)."""

    inputs: dict[str, Tensor]
    tags: Tensor
    which: list[int]


class Bank:
    """All scans as tensors on one device. ``often`` (K,): share of scans that have each class."""

    def __init__(self, scans: Sequence[Scan], device: str | torch.device) -> None:
        self.device = torch.device(device)

        def put(values: np.ndarray, kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, kind)

        self.places = [put(s.places, torch.float32) for s in scans]
        self.features = [put(s.features, torch.float16) for s in scans]
        self.segment = [put(s.segment, torch.int32) for s in scans]
        self.views = [put(s.views, torch.float16) for s in scans]
        self.patches = [put(s.patches, torch.float16) for s in scans]
        self.tags = put(np.stack([s.tags for s in scans]), torch.bool)
        self.often = self.tags.float().mean(0)
        self.sizes = [len(s.places) for s in scans]

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, which: Sequence[int], seed: int) -> Batch:
        """The scans ``which``, each changed in its own random way that follows from ``seed``."""
        make = torch.Generator(self.device).manual_seed(seed)
        views = self._views(which, np.random.default_rng(seed))
        chosen = torch.tensor(list(which), device=self.device)
        return Batch(self._clouds(which, make) | views, self.tags[chosen], list(which))

    def _uniform(self, make: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=make, device=self.device) * (high - low) + low

    def _clouds(self, which: Sequence[int], make: torch.Generator) -> dict[str, Tensor]:
        count = len(which)
        places = pad_sequence([self.places[i] for i in which], batch_first=True)
        features = pad_sequence([self.features[i] for i in which], batch_first=True).float()
        segment = pad_sequence([self.segment[i] for i in which], batch_first=True).long()
        longest = places.shape[1]
        sizes = torch.tensor([self.sizes[i] for i in which], device=self.device)
        real = torch.arange(longest, device=self.device) < sizes[:, None]
        lost = self._uniform(make, 0, 0.3, count, 1)
        mask = real & (torch.rand(count, longest, generator=make, device=self.device) >= lost)
        mask[:, 0] = True
        places = self._moved(places, make)
        features = self._recoloured(features, make)
        cells = torch.floor(places / VOXEL).long()
        cells -= torch.where(real[..., None], cells, 1 << 17).amin(1, keepdim=True)
        cells = cells.masked_fill(~real[..., None], 0)
        return {
            "cells": cells,
            "voxel_features": features,
            "positions": places,
            "voxel_mask": _first_of_each(cells, mask),
            "segment": segment,
        }

    def _moved(self, places: Tensor, make: torch.Generator) -> Tensor:
        """Turned about the vertical, mirrored, a little tilted, scaled and bent."""
        count = len(places)
        angle = self._uniform(make, 0, 2 * math.pi, count)
        side = (self._uniform(make, 0, 1, count) < 0.5).float() * 2 - 1
        scale = self._uniform(make, 0.88, 1.12, count)
        turn = torch.zeros(count, 3, 3, device=self.device)
        turn[:, 0, 0], turn[:, 0, 1] = angle.cos() * side, -angle.sin()
        turn[:, 1, 0], turn[:, 1, 1] = angle.sin() * side, angle.cos()
        turn[:, 2, :2] = self._uniform(make, -0.02, 0.02, count, 2)
        turn[:, 2, 2] = self._uniform(make, 0.95, 1.05, count)
        moved = places @ (turn * scale[:, None, None]).transpose(1, 2)
        for wavelength, height in ((0.9, 0.012), (2.5, 0.03)):  # a smooth bend
            wave = torch.randn(count, 3, 3, generator=make, device=self.device) / wavelength
            phase = self._uniform(make, 0, 2 * math.pi, count, 1, 3)
            moved = moved + height * torch.sin(moved @ wave * 2 * math.pi + phase)
        return moved

    def _recoloured(self, features: Tensor, make: torch.Generator) -> Tensor:
        """Light, white balance, contrast; sometimes grey, sometimes without colour at all."""
        count = len(features)
        colour = features[..., :3] + 0.5
        gain = self._uniform(make, 0.6, 1.35, count, 1, 1) * self._uniform(
            make, 0.82, 1.18, count, 1, 3
        )
        colour = colour * gain + 0.06 * torch.randn(count, 1, 1, generator=make, device=self.device)
        grey = colour.mean(-1, keepdim=True)
        towards = self._uniform(make, 0, 1, count, 1, 1) < 0.3
        colour = colour + (grey - colour) * towards * self._uniform(make, 0.3, 1, count, 1, 1)
        none = self._uniform(make, 0, 1, count, 1, 1) < 0.08
        colour = torch.where(none, 0.6, colour.clamp(-0.1, 1.2)) - 0.5
        rest = features[..., 3:].clone()
        rest[..., 0] *= self._uniform(make, 0.92, 1.08, count, 1)
        changed = torch.cat([colour, rest], -1)
        return changed + 0.02 * torch.randn(changed.shape, generator=make, device=self.device)

    def _views(self, which: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        """Some photographs of each scan, in one of their copies, and some cells of each."""
        views, patches, masks = [], [], []
        cells = rng.choice(self.patches[0].shape[2], PATCHES, replace=False)
        for index in which:
            copies, there = self.views[index].shape[:2]
            fewest = min(there, 3)
            many = int(rng.integers(fewest, min(there, MOST_VIEWS) + 1))
            chosen = rng.choice(there, many, replace=False)
            copy = int(rng.integers(copies))
            views.append(self.views[index][copy, chosen].float())
            patches.append(self.patches[index][copy, chosen[:, None], cells].float())
            masks.append(torch.ones(many, dtype=torch.bool))
        wide = views[0].shape[-1]
        kept = rng.random((len(which), 1, wide), np.float32) >= LOST_FEATURES
        gain = torch.from_numpy(kept / np.float32(1 - LOST_FEATURES)).to(self.device)
        return {
            "view_features": pad_sequence(views, batch_first=True) * gain,
            "view_mask": pad_sequence(masks, batch_first=True).to(self.device),
            "patch_features": pad_sequence(patches, batch_first=True) * gain[:, None],
        }


def _first_of_each(cells: Tensor, mask: Tensor) -> Tensor:
    """``mask`` without the second and later voxels of the same cell; cells (B, N, 3)."""
    sample = torch.arange(len(cells), device=cells.device)[:, None, None]
    sample = sample.expand(*cells.shape[:2], 1)
    keys = voxel_keys(torch.cat([sample, cells], -1).flatten(0, 1), check=False)
    keys = torch.where(mask.flatten(), keys, -1)  # what is left out must not come first
    ordered, order = keys.sort(stable=True)
    again = torch.zeros_like(mask.flatten())
    again[order[1:]] = ordered[1:] == ordered[:-1]
    return mask & ~again.view_as(mask)

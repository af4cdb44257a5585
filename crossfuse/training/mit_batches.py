"""Augmented batches of scans for MIT, made where the model is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossfuse.data.point_scene import VOXEL
from crossfuse.models.sparse_unet import voxel_keys
from crossfuse.training.mit_data import Scan


@dataclass(frozen=True)
class Batch:
    """``inputs``: arguments of ``MIT.segment_inputs``; ``tags`` (B, K) bool; ``which`` (B,)."""

    inputs: dict[str, Tensor]
    tags: Tensor
    which: list[int]


class Bank:
    """All scans as tensors on one device. ``often`` (K,): share of scans that have each class."""

    def __init__(self, scans: Sequence[Scan], device: str | torch.device) -> None:
        self.device = torch.device(device)

        def put(values: np.ndarray, kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, kind)

        def joined(values: list[np.ndarray], kind: torch.dtype) -> tuple[Tensor, np.ndarray]:
            """All rows, and where each scan's begin."""
            starts = np.cumsum([0, *(len(v) for v in values)])[:-1]
            return put(np.concatenate(values), kind), starts

        self.sizes = np.array([len(s.places) for s in scans])
        self.places, self._starts = joined([s.places for s in scans], torch.float32)
        self.features, _ = joined([s.features for s in scans], torch.float16)
        self.segment, _ = joined([s.segment for s in scans], torch.int32)
        self.tags = put(np.stack([s.tags for s in scans]), torch.bool)
        self.often = self.tags.float().mean(0)

    def __len__(self) -> int:
        return len(self.sizes)

    def batch(self, which: Sequence[int], seed: int) -> Batch:
        """The scans ``which``, each changed in its own random way that follows from ``seed``."""
        chosen = np.array(which)
        make = torch.Generator(self.device).manual_seed(seed)
        tags = self.tags.index_select(0, self._sent(chosen))
        return Batch(self._clouds(chosen, make), tags, list(which))

    def _sent(self, values: np.ndarray) -> Tensor:
        """A small array on the device, without waiting for what the device is doing."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _uniform(self, make: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=make, device=self.device) * (high - low) + low

    def _clouds(self, which: np.ndarray, make: torch.Generator) -> dict[str, Tensor]:
        count, longest = len(which), int(self.sizes[which].max())
        facts = self._sent(np.stack([self._starts[which], self.sizes[which]]))
        step = torch.arange(longest, device=self.device)
        real = step < facts[1][:, None]
        rows = torch.where(real, facts[0][:, None] + step, facts[0][:, None]).flatten()
        places = self.places.index_select(0, rows).view(count, longest, 3)
        features = self.features.index_select(0, rows).view(count, longest, -1).float()
        segment = self.segment.index_select(0, rows).view(count, longest).long()
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

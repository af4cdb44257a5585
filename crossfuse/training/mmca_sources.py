"""Where a training step of MMCA gets its inputs from.

:class:`CachedSource` reads what the published encoders made once (a CPU can train so);
:class:`crossfuse.training.mmca_pixels.PixelSource` starts from the photographs and trains the
encoders too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossfuse.encoders.proposer import REGIONS
from crossfuse.encoders.tuned import TunedEncoders
from crossfuse.training.mmca_cache import FeatureCache


@dataclass(frozen=True)
class Views:
    """Photographs as one step sees them.

    ``features`` (B, k, C), ``boxes`` (B, k, 4) in 0...1 of the view, ``mask`` (B, k) True = real,
    ``mirrored`` (B,) True = left and right changed places.
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    mirrored: Tensor


class Source(Protocol):
    """``means``: (captions, D) unit vectors by which captions are alike, from text alone.

    ``encoders``: what is trained beside the model, if anything is.
    """

    device: torch.device
    means: Tensor

    @property
    def encoders(self) -> TunedEncoders | None: ...

    def statistics(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and 1 / standard deviation of each region feature."""
        ...

    def images(self, rows: np.ndarray, rng: np.random.Generator, tune: bool) -> Views: ...

    def words(self, captions: np.ndarray, mirrored: Tensor, tune: bool) -> tuple[Tensor, Tensor]:
        """Token states (B, n, D) and mask (B, n); ``mirrored`` (B,) of the caption's view."""
        ...


@dataclass(frozen=True)
class RegionMix:
    """How many regions a step sees, and how often of which kind."""

    count: int = 16
    kinds: tuple[str, ...] = ("proposals", "multiscale", "cells")
    odds: tuple[float, ...] = (0.65, 0.2, 0.15)

    def draw(self, rng: np.random.Generator, there: tuple[str, ...] | None = None) -> str:
        kinds = [kind for kind in self.kinds if there is None or kind in there]
        odds = np.array([self.odds[self.kinds.index(kind)] for kind in kinds])
        return str(rng.choice(kinds, p=odds / odds.sum()))


class CachedSource:
    """Features of frozen encoders from a cache folder; sentences cut to ``longest`` pieces."""

    encoders: TunedEncoders | None = None
    device = torch.device("cpu")

    def __init__(self, cache: FeatureCache, mix: RegionMix, longest: int) -> None:
        self.cache, self.mix, self.longest = cache, mix, longest
        self.means = sentence_means(cache)

    def statistics(self, rows: np.ndarray, sample: int = 600) -> tuple[Tensor, Tensor]:
        kind = next(kind for kind in self.mix.kinds if self.cache.has_regions(kind))
        chosen = np.sort(rows[:: max(1, len(rows) // sample)])
        features = self.cache.regions(chosen, kind)[0].flatten(0, 1)
        return features.mean(0), 1.0 / features.std(0).clamp(min=1e-3)

    def images(self, rows: np.ndarray, rng: np.random.Generator, tune: bool) -> Views:
        cache = self.cache
        kind = self.mix.draw(rng, tuple(k for k in self.mix.kinds if cache.has_regions(k)))
        only = np.sort(rng.permutation(REGIONS)[: self.mix.count])
        features, boxes = cache.regions(rows, kind, only=only)
        mirrored = np.zeros(len(rows), bool)
        if cache.has_regions(kind, flip=True):
            mirrored = rng.random(len(rows)) < 0.5
            features[mirrored], boxes[mirrored] = cache.regions(
                rows[mirrored], kind, flip=True, only=only
            )
        mask = torch.ones(features.shape[:2], dtype=torch.bool)
        return Views(features, boxes, mask, torch.from_numpy(mirrored))

    def words(self, captions: np.ndarray, mirrored: Tensor, tune: bool) -> tuple[Tensor, Tensor]:
        return self.cache.words(captions, self.longest)


def sentence_means(cache: FeatureCache) -> Tensor:
    """Unit mean of the last layer over each caption's word pieces: (captions, 384)."""
    means = np.stack(
        [
            cache.last_states(caption).astype(np.float32).mean(0)
            for caption in range(len(cache.offset) - 1)
        ]
    )
    return F.normalize(torch.from_numpy(means), dim=-1)

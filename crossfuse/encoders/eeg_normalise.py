"""From feature columns to what the fusion sees: a person's own baseline, smoothing, limits.

The paper subtracts the mean of the last 2 s before the stimulus from decibels, and its softmax then
works on tens of units: nearly one-hot maps (see ``saturation``). Here each channel and band is
standardised by mean and spread of a baseline segment of the same person, which a user has at
inference, and is averaged over neighbouring columns of the same recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crossfuse.errors import CrossfuseError

Method = Literal["baseline", "subtract", "recording", "none"]


@dataclass(frozen=True)
class Normalisation:
    """How columns are normalised.

    ``method``: "baseline" (z-score by the baseline segment), "subtract" (its mean only, the
    paper's), "recording" (z-score by all columns of the person: TRANSDUCTIVE, it looks at the
    columns to be judged), "none". ``smoothing``: columns averaged around each one (1 = off).
    ``limit``: values beyond +-limit are cut to it.
    """

    method: Method = "baseline"
    smoothing: int = 11
    limit: float = 5.0

    @classmethod
    def paper(cls) -> Normalisation:
        return cls("subtract", 1, float("inf"))


@dataclass(frozen=True)
class Statistics:
    """Mean and spread of baseline columns, (channels, bands, 1) each."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, baseline: Tensor) -> Statistics:
        """From (channels, bands, columns); four columns or more are needed for a spread."""
        if baseline.shape[-1] < 4:
            raise CrossfuseError(
                "the baseline segment gives {shape} feature columns, at least 4 are needed; "
                "make it 6 s or longer",
                shape=baseline.shape[-1],
            )
        spread = baseline.std(-1, unbiased=False, keepdim=True)
        # A channel without any spread (flat) has no scale of its own: it stays at zero.
        spread = torch.where(spread > 1e-6, spread, torch.full_like(spread, float("inf")))
        return cls(baseline.mean(-1, keepdim=True), spread)


def normalise(columns: Tensor, statistics: Statistics, rule: Normalisation) -> Tensor:
    """(channels, bands, columns) -> the same shape; with "recording", ``statistics`` are of all."""
    if rule.method in ("baseline", "recording"):
        columns = (columns - statistics.mean) / statistics.spread
    elif rule.method == "subtract":
        columns = columns - statistics.mean
    return smooth(columns, rule.smoothing).clamp(-rule.limit, rule.limit)


def smooth(columns: Tensor, width: int) -> Tensor:
    """Mean over ``width`` columns centred on each; fewer at the ends."""
    if width <= 1:
        return columns
    count = columns.shape[-1]
    sums = torch.nn.functional.pad(columns.double().cumsum(-1), (1, 0))
    place = torch.arange(count)
    low = (place - width // 2).clamp_min(0)
    high = (place + width // 2 + 1).clamp_max(count)
    return ((sums[..., high] - sums[..., low]) / (high - low)).to(columns.dtype)


def saturation(weights: Tensor) -> tuple[float, float]:
    """Mean row maximum, and normalised entropy, of maps (..., rows, columns).

    1 / columns and 1.0 for uniform rows; 1.0 and 0.0 for one-hot rows.
    """
    top = float(weights.amax(-1).mean())
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)
    width = weights.shape[-1]
    return top, float(entropy.mean() / torch.tensor(float(max(width, 2))).log())

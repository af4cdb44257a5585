"""Is a picture one of the classes at all? Scores that are high for known things, and their ranks.

A softmax spreads all of its mass over the classes, whatever it is shown, so that its largest
probability says little about pictures of other things. Three scores of the logits z:

    confidence   max softmax(z / T)                     Hendrycks & Gimpel 2017, arXiv 1610.02136
    max_logit    max z                                  Hendrycks et al. 2022, arXiv 1911.11132
    energy       T log sum exp(z / T)                   Liu et al. 2020, arXiv 2010.03759

A score has no unit that a reader knows. So it is told as a rank: the share of photographs of the
classes, held out from training, that score lower (``typicality``). Below the rank that the card
names, "none of these" is said; :func:`crossfuse.training.mmvit_evaluation.calibration_of` says how
the rank is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

RANKS = np.linspace(0, 1, 101)

SCORES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "confidence": lambda logits, t: (logits / t).softmax(-1).max(-1).values,
    "max_logit": lambda logits, t: logits.max(-1).values,
    "energy": lambda logits, t: t * (logits / t).logsumexp(-1),
}


def score(logits: Tensor, calibration: dict[str, Any]) -> Tensor:
    """The score that a card's calibration names: (B, classes) -> (B,)."""
    return SCORES[str(calibration["score"])](logits.float(), float(calibration["temperature"]))


def quantiles(scores: Tensor) -> list[float]:
    """The scores (N,) of photographs of the classes at the ranks 0, 0.01, ... 1: for a card."""
    return [round(float(value), 5) for value in np.quantile(scores.numpy(), RANKS)]


def typicality(score: float, known: Sequence[float]) -> float:
    """The share of known photographs that score lower, 0 ... 1, from their :func:`quantiles`."""
    return float(np.interp(score, known, RANKS))

"""What an EEG classifier's score rests on: occlusion, and gradient x input.

The target is the score s = logit of class 1 - logit of class 0 of one window. The inputs are
standardised by a baseline, so that 0 is "as in the baseline" for every channel and band.

    occlusion of (band b, channel c):  s(x) - s(x with DE and PSD of b, c at 0)
    gradient x input:                  sum over columns and both features of x ds/dx

Both are signed: positive supports class 1. They say what changes the score of this classifier;
the attention maps beside them are likenesses of channels and are not learnt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossfuse.models.mca_eeg import MCAEEG

BATCH = 512  # windows in one forward pass


def score(model: MCAEEG, de: Tensor, psd: Tensor) -> Tensor:
    """s of each window: (N,) from (N, C, F, W)."""
    logits = model(de, psd).logits[:, 0]
    return logits[:, 1] - logits[:, 0]


def scores(model: MCAEEG, de: Tensor, psd: Tensor) -> Tensor:
    """The same without gradients and in batches."""
    with torch.inference_mode():
        parts = [score(model, a, b) for a, b in zip(de.split(BATCH), psd.split(BATCH), strict=True)]
    return torch.cat(parts)


def occlude_bands(model: MCAEEG, de: Tensor, psd: Tensor, base: Tensor) -> Tensor:
    """(N, F): effect of setting one band of all channels to the baseline. ``base``: s of each."""
    out = torch.empty(len(de), de.shape[2])
    for band in range(de.shape[2]):
        a, b = de.clone(), psd.clone()
        a[:, :, band] = 0
        b[:, :, band] = 0
        out[:, band] = base - scores(model, a, b)
    return out


def occlude_channels(
    model: MCAEEG,
    de: Tensor,
    psd: Tensor,
    base: Tensor,
    report: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """(N, F, C): effect of setting one band of one channel to the baseline."""
    count, channels, bands, _ = de.shape
    out = torch.empty(count, bands, channels)
    step = max(1, BATCH // channels)
    hidden = torch.eye(channels, dtype=torch.bool)[None, :, :, None, None]
    for start in range(0, count, step):
        part = slice(start, start + step)
        a0, b0 = de[part, None], psd[part, None]
        for band in range(bands):
            only = torch.zeros(1, 1, 1, bands, 1, dtype=torch.bool)
            only[..., band, :] = True
            mask = hidden & only  # (1, occluded channel, channel, band, 1)
            a = a0.masked_fill(mask, 0.0).flatten(0, 1)
            b = b0.masked_fill(mask, 0.0).flatten(0, 1)
            changed = scores(model, a, b).unflatten(0, (-1, channels))
            out[part, band] = base[part, None] - changed
        report(min(1.0, (start + step) / count))
    return out


def gradient_input(model: MCAEEG, de: Tensor, psd: Tensor) -> Tensor:
    """(N, F, C): gradient x input, summed over columns and over DE and PSD."""
    parts = []
    for a, b in zip(de.split(BATCH), psd.split(BATCH), strict=True):
        a, b = a.clone().requires_grad_(True), b.clone().requires_grad_(True)
        with torch.enable_grad():
            total = score(model, a, b).sum()
            da, db = torch.autograd.grad(total, (a, b))
        parts.append((a * da + b * db).detach().sum(-1).transpose(1, 2))
    return torch.cat(parts)

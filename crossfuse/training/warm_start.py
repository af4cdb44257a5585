"""A start for short trainings on a frozen stem: what the stem knows reaches the head from step 0.

A narrow pyramid with random weights first has to find out which of the stem's channels matter. Here
the first projection of every view is set to the directions that tell the classes apart linearly,
the shortcuts between stages to the identity, and the head to a ridge regression on what then comes
out. Everything is trained on from there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.models.mmvit import MMViT
from crossfuse.models.mmvit_blocks import FromFront

RIDGE = 300.0
LOGIT_SCALE = 20.0  # ridge scores of a right class are about 0.2


@torch.no_grad()
def warm_start(model: MMViT, taps: tuple[Tensor, ...], labels: Tensor) -> None:
    """Set first projections, shortcuts and head. Changes ``model``.

    ``taps``: maps of the stem for N photographs, on the model's device; ``labels``: (N,).
    """
    classes = model.config.classes
    truth = F.one_hot(labels, classes).float() - 1 / classes
    for embedding in model.embeddings.values():
        if isinstance(embedding, FromFront):
            first = embedding.layers[0]
            assert isinstance(first, nn.Conv2d)
            pooled = taps[embedding.tap].mean((2, 3))
            directions = discriminants(pooled, truth, first.out_channels)
            first.weight.copy_(directions.T[:, :, None, None])
            assert first.bias is not None
            first.bias.copy_(-pooled.mean(0) @ directions)
    for block in model.pyramid:
        for shortcut in block.shortcuts.values():
            assert isinstance(shortcut, nn.Linear)
            shortcut.weight[: shortcut.in_features] += torch.eye(
                shortcut.in_features, device=labels.device
            )
    side = model.config.image_size
    parts = []
    for start in range(0, len(labels), 128):
        batch = tuple(tap[start : start + 128] for tap in taps)
        parts.append(model.eval().from_stem(batch, (side, side)).features)
    found = torch.cat(parts)
    mean = found.mean(0)
    weight = ridge(found - mean, truth, RIDGE * float((found - mean).square().mean()))
    model.head.weight.copy_(LOGIT_SCALE * weight.T)
    model.head.bias.copy_(-LOGIT_SCALE * mean @ weight)


def discriminants(features: Tensor, truth: Tensor, count: int) -> Tensor:
    """(N, C) features, (N, classes) centred labels -> (C, count) directions of unit spread.

    The leading left singular vectors of a whitened ridge regression: the linear subspace in which
    the classes lie furthest apart (cf. linear discriminant analysis).
    """
    centred = features - features.mean(0)
    weight = ridge(centred, truth, RIDGE * float(centred.square().mean()))
    covariance = centred.T @ centred / len(centred)
    spread = torch.linalg.cholesky(
        covariance + 1e-3 * covariance.diag().mean() * torch.eye(len(weight), device=weight.device)
    )
    left, _, _ = torch.linalg.svd(spread.T @ weight, full_matrices=False)
    directions = torch.linalg.solve_triangular(spread.T, left[:, :count], upper=True)
    if directions.shape[1] < count:  # fewer classes than channels: fill with principal directions
        principal = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        scale = (centred @ principal).std(0).clamp(min=1e-6)
        directions = torch.cat(
            [directions, (principal / scale)[:, : count - directions.shape[1]]], 1
        )
    return directions


def ridge(features: Tensor, truth: Tensor, strength: float) -> Tensor:
    """argmin |features W - truth|^2 + strength |W|^2."""
    gram = features.T @ features
    return torch.linalg.solve(
        gram + strength * torch.eye(len(gram), device=gram.device), features.T @ truth
    )

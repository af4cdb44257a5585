"""Augmentation of whole batches on tensors: cheap enough for a CPU that also trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shifted_crops(images: Tensor, most: float = 0.12) -> Tensor:
    """Every picture shifted by up to ``most`` of its side and scaled by 1 - 0.35 ... 1 + ``most``.

    One bilinear resampling of the batch, (B, C, H, W) -> the same shape; outside is reflected.
    """
    batch = len(images)
    scale = 1 + torch.empty(batch, 2).uniform_(-0.35, most)
    scale = scale.mean(1, keepdim=True) * (1 + torch.empty(batch, 2).uniform_(-0.12, 0.12))
    room = (1 - scale).clamp(min=0) + most
    offset = torch.empty(batch, 2).uniform_(-1, 1) * room
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0], scale[:, 1]
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def flipped(images: Tensor) -> Tensor:
    """Half of the pictures mirrored left to right."""
    flip = torch.rand(len(images)) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def jittered(images: Tensor, strength: float = 0.25) -> Tensor:
    """Brightness, contrast and colour balance of pictures in -1 ... 1."""
    batch, channels = images.shape[:2]
    contrast = 1 + torch.empty(batch, 1, 1, 1).uniform_(-strength, strength)
    shift = torch.empty(batch, 1, 1, 1).uniform_(-strength, strength)
    colour = 1 + torch.empty(batch, channels, 1, 1).uniform_(-strength / 2, strength / 2)
    return images * contrast * colour + shift


def erased(images: Tensor, share: float = 0.25) -> Tensor:
    """A random box of a quarter to a half of the side set to zero, in ``share`` of the pictures."""
    batch, _, height, width = images.shape
    size = torch.empty(batch, 2).uniform_(0.25, 0.5)
    corner = torch.rand(batch, 2) * (1 - size)
    rows = torch.arange(height) / height
    columns = torch.arange(width) / width
    inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + size[:, :1])
    inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + size[:, 1:])
    hit = (torch.rand(batch) < share)[:, None, None] & (
        inside_rows[:, :, None] & inside_columns[:, None, :]
    )
    return images.masked_fill(hit[:, None], 0.0)


def mixed(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) for the whole batch; ``targets`` are (B, classes) distributions."""
    if alpha <= 0:
        return images, targets
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images))
    return (
        torch.lerp(images[order], images, share),
        torch.lerp(targets[order], targets, share),
    )

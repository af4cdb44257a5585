"""Augmentation of whole batches on the device that holds them: no worker processes, no host waits.

Everything is drawn per picture on the device of the batch. Pictures are (B, 3, side, side) in
-1 ... 1, targets (B, classes) distributions.
"""

from __future__ import annotations

import math
import random
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """(B, *shape) numbers between low and high, on the device of ``like`` (B, ...)."""
    return torch.empty(len(like), *shape, device=like.device).uniform_(low, high)


def chance(like: Tensor, share: float, *shape: int) -> Tensor:
    """(B, *shape) bool, True with that probability."""
    return torch.rand(len(like), *shape, device=like.device) < share


def random_crops(pixels: Tensor, side: int, smallest: float = 0.25) -> Tensor:
    """Random resized crops, half of them mirrored, a third of them turned and sheared a little.

    ``pixels``: (B, H, W, 3) uint8. Crops hold ``smallest`` ... 1 of the picture's area at an aspect
    of 3/4 ... 4/3 (Szegedy et al. 2015); one bilinear resampling to ``side``; outside is reflected.
    """
    images = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    area = uniform(pixels, smallest, 1.0)
    aspect = uniform(pixels, -math.log(4 / 3), math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    bent = chance(pixels, 0.33).float()
    turn, shear = uniform(pixels, -0.35, 0.35) * bent, uniform(pixels, -0.2, 0.2) * bent
    mirror = 1 - 2 * chance(pixels, 0.5).float()
    theta = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * width * turn.cos(), height * (shear - turn.sin())
    theta[:, 1, 0], theta[:, 1, 1] = mirror * width * turn.sin(), height * turn.cos()
    theta[:, 0, 2] = uniform(pixels, -1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(pixels, -1, 1) * (1 - height)
    grid = F.affine_grid(theta, [len(pixels), 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@cache
def colour_matrices(device: torch.device) -> tuple[Tensor, ...]:
    """Identity, projection to grey, cross product with the grey axis, and the mean of channels.

    Kept for a device: copying them there for every batch would wait for it every time.
    """
    made = (
        torch.eye(3),
        torch.tensor((0.299, 0.587, 0.114)).expand(3, 3),
        torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5,
        torch.full((3, 3), 1 / 3),
    )
    return tuple(part.to(device) for part in made)


def recoloured(images: Tensor, strength: float = 0.4) -> Tensor:
    """Saturation, hue, contrast, brightness, sharpness; some grey, some solarised."""
    batch = len(images)
    saturation = 1 + uniform(images, -strength, strength, 1, 1)
    saturation = saturation.masked_fill(chance(images, 0.1, 1, 1), 0.0)
    same, grey, axis, third = colour_matrices(images.device)
    # A turn about the grey axis shifts every hue by the same angle (Rodrigues' formula).
    angle = uniform(images, -0.3, 0.3, 1, 1) * chance(images, 0.5, 1, 1)
    hue = angle.cos() * (same - third) + third + angle.sin() * axis
    mix = hue @ (saturation * same + (1 - saturation) * grey)
    contrast = 1 + uniform(images, -strength, strength, 1, 1)
    shift = uniform(images, -strength, strength, 1, 1)
    # (mix x - middle) contrast + middle + shift, in one pass over the pixels.
    middle = (mix @ images.mean((2, 3))[:, :, None]).mean(1, keepdim=True)
    shift = (shift + (1 - contrast) * middle).expand(-1, 3, -1)
    x = torch.baddbmm(shift, contrast * mix, images.flatten(2)).unflatten(2, images.shape[2:])
    # The order of a batch is random: its first pictures are as good as drawn ones.
    some = x[: round(0.3 * batch)]
    soft = F.avg_pool2d(some, 3, stride=1, padding=1, count_include_pad=False)
    x[: len(some)] += uniform(some, -1, 1, 1, 1, 1) * (some - soft)
    x.clamp_(-1.5, 1.5)
    some = x[batch - round(0.05 * batch) :]
    some.mul_(1 - 2 * (some > uniform(some, 0, 1, 1, 1, 1)).to(some.dtype))
    return x


def coarsened(images: Tensor, side: int, share: float) -> Tensor:
    """The first ``share`` of the batch as if photographed at ``side`` pixels."""
    count = int(share * len(images))
    small = F.interpolate(images[:count], size=(side, side), mode="bilinear", antialias=True)
    back = F.interpolate(small, size=images.shape[2:], mode="bicubic", antialias=True)
    return torch.cat([back, images[count:]])


def mixed(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019) or neither, for the whole batch.

    ``mixup``, ``cutmix``: the alphas of their beta distributions; 0 = never. Partners come from the
    other end of the batch, whose order must be random.
    """
    ways = [way for way, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    way = random.choice([*ways, "neither"])
    if way == "neither":
        return images, targets
    others, other_targets = images.flip(0), targets.flip(0)
    alpha = mixup if way == "mixup" else cutmix
    share = random.betavariate(alpha, alpha)
    if way == "mixup":
        return torch.lerp(others, images, share), torch.lerp(other_targets, targets, share)
    side = images.shape[2]
    half = round(side * (1 - share) ** 0.5 / 2)
    y, x = random.randrange(side), random.randrange(side)
    rows = slice(max(0, y - half), min(side, y + half))
    columns = slice(max(0, x - half), min(side, x + half))
    images = images.clone()
    images[:, :, rows, columns] = others[:, :, rows, columns]
    kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
    return images, torch.lerp(other_targets, targets, kept)


def erased(images: Tensor, share: float = 0.25) -> Tensor:
    """A random box of a quarter to a half of the side set to zero, in ``share`` of the pictures."""
    height, width = images.shape[2:]
    size = uniform(images, 0.25, 0.5, 2)
    corner = uniform(images, 0, 1, 2) * (1 - size)
    rows = torch.arange(height, device=images.device) / height
    columns = torch.arange(width, device=images.device) / width
    inside_rows = (rows >= corner[:, :1]) & (rows < corner[:, :1] + size[:, :1])
    inside_columns = (columns >= corner[:, 1:]) & (columns < corner[:, 1:] + size[:, 1:])
    hit = chance(images, share, 1, 1) & inside_rows[:, :, None] & inside_columns[:, None, :]
    return images.masked_fill(hit[:, None], 0.0)

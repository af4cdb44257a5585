"""What a training step of MMViT is fed with: augmented pictures, or maps kept of the frozen stem.

:class:`Photographs` augments on the device and asks stem and teacher about every crop anew.
:class:`KeptMaps` computed them once for every whole photograph, and gives them mirrored half of the
time: nearly what the stem makes of a mirrored picture. That is for machines without a GPU, where
one pass of the stem costs more than ten of the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.models.frozen_front import FRONT_CHANNELS, FrozenFront
from crossfuse.training import augmentation
from crossfuse.training.distillation import Teacher, to_teacher

SMOOTHING = 0.1
OUTSIDE_SHARE = 0.125
COARSE = 0.25  # share of a batch made coarse where the outside pictures are coarse


@dataclass(frozen=True)
class Drawn:
    """One batch. ``features``: of :meth:`MMViT.from_stem`, for pictures of ``image`` (h, w);
    ``targets`` (B + outside, classes); ``inside``: B, how many are of the classes, which come
    first; ``pooled``: the teacher's features of all or of the first of them, if there is one."""

    features: Tensor | tuple[Tensor, ...]
    image: tuple[int, int]
    targets: Tensor
    inside: int
    pooled: Tensor | None


class Material(Protocol):
    """Photographs to draw batches from; ``labels`` (N,) on the device that trains."""

    @property
    def labels(self) -> Tensor: ...

    def draw(self, index: Tensor, side: int, mix: bool) -> Drawn:
        """The photographs of that index (B,), seen at ``side`` pixels, mixed if asked."""


def smoothed(labels: Tensor, classes: int) -> Tensor:
    """(B,) labels -> (B, classes) targets."""
    return F.one_hot(labels, classes) * (1 - SMOOTHING) + SMOOTHING / classes


@dataclass(frozen=True)
class AugmentedPhotographs:
    """``pixels`` (N, side, side, 3) uint8, ``outside`` (M, side, side, 3) of none of the classes,
    ``stem``: the frozen one, where the model has it. All on one device."""

    pixels: Tensor
    labels: Tensor
    classes: int
    arguments: argparse.Namespace
    stem: FrozenFront | None = None
    teacher: Teacher | None = None
    outside: Tensor | None = None

    def draw(self, index: Tensor, side: int, mix: bool) -> Drawn:
        given, inside = self.arguments, len(index)
        targets = smoothed(self.labels[index], self.classes)
        images = self._augmented(self.pixels[index], side)
        if self.outside is not None and given.coarse_outside:
            images = augmentation.coarsened(images, given.coarse_outside, COARSE)
        if mix:
            images, targets = augmentation.mixed(images, targets, given.mixup, given.cutmix)
        if self.outside is not None:
            count = int(OUTSIDE_SHARE * inside)
            drawn = torch.randint(len(self.outside), (count,), device=index.device)
            images = torch.cat([images, self._augmented(self.outside[drawn], side)])
            even = torch.full_like(targets[:1], 1 / self.classes)
            targets = torch.cat([targets, even.expand(count, -1)])
        images = images.contiguous(memory_format=torch.channels_last)
        opinion = self.teacher(images) if self.teacher is not None else None
        if opinion is not None:
            soft = torch.lerp(targets[:inside], opinion.probabilities[:inside], given.distil)
            targets = torch.cat([soft, targets[inside:]])
        features: Tensor | tuple[Tensor, ...]
        if self.stem is not None:
            features = opinion.taps if opinion is not None else self.stem(images)
        else:
            features = augmentation.erased(images)
        pooled = opinion.pooled if opinion is not None else None
        return Drawn(features, (side, side), targets, inside, pooled)

    def _augmented(self, pixels: Tensor, side: int) -> Tensor:
        crops = augmentation.random_crops(pixels, side, self.arguments.crop)
        return augmentation.recoloured(crops, self.arguments.colour)


@dataclass(frozen=True)
class KeptMaps:
    """``taps``: float16 maps (N, C, h, w) of photographs at ``side`` pixels; ``targets``:
    (N, classes), with the teacher in them; ``pooled``: (N, 1280) or None; ``outside``: maps of
    other photographs."""

    taps: tuple[Tensor, ...]
    labels: Tensor
    targets: Tensor
    pooled: Tensor | None
    side: int
    outside: tuple[Tensor, ...] | None = None

    def draw(self, index: Tensor, side: int, mix: bool) -> Drawn:
        """``side`` and ``mix`` change nothing: the maps are of whole photographs at their side."""
        inside, targets = len(index), self.targets[index]
        features = mirrored(tuple(tap[index] for tap in self.taps))
        pooled = self.pooled[index].float() if self.pooled is not None else None
        if self.outside is not None:
            count = int(OUTSIDE_SHARE * inside)
            drawn = torch.randint(len(self.outside[-1]), (count,), device=index.device)
            others = mirrored(tuple(tap[drawn] for tap in self.outside))
            features = tuple(torch.cat(pair) for pair in zip(features, others, strict=True))
            even = torch.full_like(targets[:1], 1 / targets.shape[1])
            targets = torch.cat([targets, even.expand(count, -1)])
        return Drawn(features, (self.side, self.side), targets, inside, pooled)


def mirrored(taps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Maps as float32, half of the photographs mirrored."""
    flip = augmentation.chance(taps[-1], 0.5, 1, 1, 1)
    return tuple(torch.where(flip, tap.flip(3), tap).float() for tap in taps)


@torch.no_grad()
def keep_maps(
    pixels: Tensor,
    side: int,
    front: FrozenFront,
    teacher: Teacher | None,
    *,
    strides: Collection[int],
    batch: int = 32,
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The stem's maps (N, C, h, w) and, with a teacher, its pooled features (N, 1280); float16.

    Maps of other than the wanted ``strides`` are left without channels.
    """
    taps: list[tuple[Tensor, ...]] = []
    pooled = []

    def kept(found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pairs = zip(sorted(FRONT_CHANNELS), found, strict=True)
        return tuple(tap.half() if s in strides else tap[:, :0, :1, :1].half() for s, tap in pairs)

    for start in range(0, len(pixels), batch):
        images = to_teacher(pixels[start : start + batch], side)
        if teacher is None:
            taps.append(kept(front(images)))
        else:
            opinion = teacher(images)
            taps.append(kept(opinion.taps))
            pooled.append(opinion.pooled.half())
        if start // batch % 50 == 0:
            print(f"stem: {start + len(images)} of {len(pixels)} photographs", flush=True)
    joined = tuple(torch.cat(parts) for parts in zip(*taps, strict=True))
    return joined, torch.cat(pooled) if pooled else None

"""Which part of a photo a model sees, at how many pixels, and the way back to the photo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossfuse.data.images import Photo
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models.mmvit import MMViT
from crossfuse.models.pooling_attention import Layout
from crossfuse.notices import Notice

WIDEST = 3.0  # longest to shortest side that is shown whole


@dataclass(frozen=True)
class Framing:
    """Which box of the photo the model sees: ``x``, ``y``, ``width``, ``height`` in pixels of the
    photo (it may reach beyond it), at ``size`` (width, height) pixels of the model."""

    x: float
    y: float
    width: float
    height: float
    size: tuple[int, int]

    def grid(self, layout: Layout, image_size: tuple[int, int]) -> ImageGrid:
        """Where the cells of a layout lie on the photo."""
        rows, columns = layout.grid
        scale = self.width / self.size[0], self.height / self.size[1]
        x = self.x + (layout.origin + 0.5 + layout.stride * np.arange(columns)) * scale[0]
        y = self.y + (layout.origin + 0.5 + layout.stride * np.arange(rows)) * scale[1]
        centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        cell = (layout.stride * scale[0], layout.stride * scale[1])
        return ImageGrid(rows, columns, centres.astype(np.float32), cell, image_size)

    def to_model(self, x: float, y: float) -> tuple[float, float]:
        """A point of the photo in the model's pixels."""
        return (
            (x - self.x) / self.width * self.size[0],
            (y - self.y) / self.height * self.size[1],
        )


def frame(photo: Photo, model: MMViT, options: Mapping[str, Any]) -> tuple[Framing, list[str]]:
    """The box of the photo that the model sees, and what there is to say about it."""
    width, height = photo.size
    side = int(options.get("side", model.config.image_size))
    if not 32 <= side <= 512:
        raise CrossfuseError("A side of {side} pixels is not offered; choose 32 to 512.", side=side)
    notes: list[str] = []
    if min(width, height) < 32:
        notes.append(
            Notice(
                "The picture has only {width} x {height} pixels; it was enlarged.",
                width=width,
                height=height,
            )
        )
    whole = options.get("crop", "centre") == "whole"
    aspect = width / height
    if whole and not 1 / WIDEST <= aspect <= WIDEST:
        whole = False
        notes.append(
            Notice(
                "At {aspect:.0f}:1 the picture is too long to be seen whole; its middle square "
                "is used.",
                aspect=max(aspect, 1 / aspect),
            )
        )
    if whole:
        # Sides in whole cells of the coarsest view, with about as many pixels as the square.
        step = model.config.stride << (model.config.views - 1)
        size = tuple(
            max(step, round(side * ratio / step) * step) for ratio in (aspect**0.5, aspect**-0.5)
        )
        box = [0.0, 0.0, float(width), float(height)]
    else:
        size = (side, side)
        short = float(min(width, height))
        box = [(width - short) / 2, (height - short) / 2, short, short]
    zoom = float(options.get("zoom", 1.0))
    if not 0.1 <= zoom <= 1.0:
        raise CrossfuseError("A zoom of {zoom:g} is not offered; choose 0.1 to 1.", zoom=zoom)
    shift = options.get("shift", (0.0, 0.0))
    x = box[0] + box[2] * ((1 - zoom) / 2 + float(shift[0]))
    y = box[1] + box[3] * ((1 - zoom) / 2 + float(shift[1]))
    return Framing(x, y, box[2] * zoom, box[3] * zoom, (size[0], size[1])), notes


def framed(photo: Photo, framing: Framing) -> Tensor:
    """What the model sees: (1, 3, H, W) in -1 ... 1; beyond the photo its edge is repeated."""
    left, top = int(np.floor(framing.x)), int(np.floor(framing.y))
    right = int(np.ceil(framing.x + framing.width))
    bottom = int(np.ceil(framing.y + framing.height))
    width, height = photo.size
    columns = np.clip(np.arange(left, right), 0, width - 1)
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    picture = Image.fromarray(np.ascontiguousarray(photo.pixels[rows][:, columns]))
    inner = (framing.x - left, framing.y - top)
    box = (*inner, inner[0] + framing.width, inner[1] + framing.height)
    pixels = np.asarray(picture.resize(framing.size, Image.Resampling.BICUBIC, box=box))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return ((images - 127) / 128).contiguous(memory_format=torch.channels_last)


def mirrored(photo: Photo) -> Photo:
    """The photo as a mirror shows it; geometry is then in pixels of the mirrored photo."""
    pixels = np.ascontiguousarray(photo.pixels[:, ::-1])
    pixels.setflags(write=False)
    return replace(photo, pixels=pixels)

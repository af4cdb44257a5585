"""Regions of a photograph: where they are (boxes) and what the image encoder sees in them.

Three kinds of regions feed an image-sentence model through one interface:

* ``"proposals"``: up to 36 boxes of :class:`RegionProposer`, a class-agnostic head of our own over
  the frozen image encoder, trained on phrase boxes;
* ``"cells"``: a regular grid of boxes that tile the photograph (6 x 6 = 36);
* ``"multiscale"``: 36 fixed boxes at several scales, the same for every photograph;
* features made elsewhere: 36 x 2048 bottom-up attention features (Anderson et al., CVPR 2018) and
  their boxes in an ``.npz`` (:func:`read_region_features`).

**Geometry.** The photograph is squashed to a square of ``SIDE`` px, as the training photographs
were, so that a box is (x0, y0, x1, y1) in 0...1 of the full frame on both axes, and maps back to
pixels of the upright photo by a product with its width and height. With the lopsided padding of
EfficientNet (see :mod:`crossfuse.encoders.image`) cell i at stride s has its centre at pixel
s * (i + 1) - 1/2; :func:`cell_edges` puts the borders between cells half way between centres.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crossfuse.encoders.image import MEAN, SCALE, EfficientNetLite, load_image_encoder
from crossfuse.encoders.proposer import CHANNELS, REGIONS, ProposerConfig, RegionProposer
from crossfuse.encoders.tuned import SPLIT, ImageTail, tuned_tail
from crossfuse.encoders.vision_transformer import (
    PatchTokens,
    VisionTransformer,
    load_vision_transformer,
)
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Regions
from crossfuse.notices import Notice
from crossfuse.weights import load_weights

SIDE, STORED_SIDE = 320, 224
STRIDES = (8, 16, 32)
FEATURES = sum(CHANNELS.values())
SCENE_FEATURES = 3 * 384
KINDS = ("proposals", "cells", "multiscale")
MAX_NPZ_BYTES = 64 << 20


def cell_edges(cells: int, stride: int) -> Tensor:
    """Borders of the cells of one axis in 0...1, (cells + 1,): half way between cell centres.

    The first and the last cell reach to the border of the photograph.
    """
    edges = (torch.arange(cells + 1, dtype=torch.float32) + 0.5) * stride / (cells * stride)
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def coverage(boxes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each box that lies in each column and in each row of cells.

    Args:
        boxes: (..., 4) as x0, y0, x1, y1 in 0...1; sides are taken as at least 1/1000.
        edges: (cells + 1,) borders of the cells of either axis in 0...1.

    Returns:
        (..., cells) over columns and (..., cells) over rows; each sums to 1.
    """
    edges = edges.to(boxes)
    low = boxes[..., :2].clamp(0.0, 0.999)
    high = torch.maximum(boxes[..., 2:].clamp(0.0, 1.0), low + 1e-3)

    def share(axis: int) -> Tensor:
        start, end = low[..., axis, None], high[..., axis, None]
        overlap = (torch.minimum(end, edges[1:]) - torch.maximum(start, edges[:-1])).clamp(min=0)
        return overlap / (end - start)

    return share(0), share(1)


def pool_regions(maps: Mapping[int, Tensor], boxes: Tensor) -> Tensor:
    """Mean of each feature map over each box, weighted by the exact overlap with every cell.

    Args:
        maps: stride -> (B, C, h, w) with h = w (the squashed square photograph).
        boxes: (B, N, 4) in 0...1.

    Returns:
        (B, N, sum of C), strides in descending order.
    """
    return torch.cat(
        [
            _pool(maps[stride], boxes, cell_edges(maps[stride].shape[-1], stride))
            for stride in sorted(maps, reverse=True)
        ],
        dim=-1,
    )


def pool_patches(tokens: PatchTokens, boxes: Tensor) -> Tensor:
    """The same of a vision transformer's square grid of patches: (B, N, 3 * 384).

    Last and middle patches over each box, and the class token, which is the same for all boxes.
    """
    edges = torch.linspace(0.0, 1.0, tokens.patches.shape[-1] + 1)
    picture = tokens.picture.to(boxes)[:, None].expand(-1, boxes.shape[1], -1)
    pooled = [_pool(grid, boxes, edges) for grid in (tokens.patches, tokens.middle)]
    return torch.cat([*pooled, picture], dim=-1)


def _pool(grid: Tensor, boxes: Tensor, edges: Tensor) -> Tensor:
    """(B, C, h, h), (B, N, 4) -> (B, N, C)."""
    columns, rows = coverage(boxes, edges)
    return torch.einsum("bnh,bchw,bnw->bnc", rows, grid.to(boxes), columns)


def cover_matrix(boxes: np.ndarray, side: int) -> np.ndarray:
    """How much of each of side x side equal cells each box covers: (N, side * side) in 0...1.

    A map over regions times this matrix says for every cell how much of the weight lies on
    regions that cover it.

    Args:
        boxes: (N, 4) in 0...1.
    """
    edges = np.linspace(0.0, 1.0, side + 1)
    shares = []
    for axis in (0, 1):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        overlap = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
        shares.append(overlap * side)
    covered = shares[1][:, :, None] * shares[0][:, None, :]
    return covered.reshape(len(boxes), side * side).astype(np.float32)


def grid_boxes(rows: int = 6, columns: int = 6) -> Tensor:
    """(rows * columns, 4): boxes that tile the photograph, row by row."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x, y = x.flatten().float(), y.flatten().float()
    return torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], dim=1)


def multiscale_boxes() -> Tensor:
    """36 fixed boxes: the frame, halves and thirds that overlap, and a grid of small squares.

    1 whole frame, 1 centre, 4 halves of the frame, 5 vertical bands, 9 boxes of half a side,
    16 of a quarter of a side.
    """
    boxes = [(0.0, 0.0, 1.0, 1.0), (0.2, 0.2, 0.8, 0.8)]
    boxes += [(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0), (0.5, 0, 1, 1)]
    boxes += [(x, 0.1, x + 0.3, 0.95) for x in (0.0, 0.175, 0.35, 0.525, 0.7)]
    boxes += [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.25, 0.5) for x in (0.0, 0.25, 0.5)]
    boxes += [(x / 4, y / 4, (x + 1) / 4, (y + 1) / 4) for y in range(4) for x in range(4)]
    return torch.tensor(boxes, dtype=torch.float32)


@dataclass(frozen=True)
class RegionSet:
    """Regions of one photograph, ready for an image-sentence model.

    ``features``: (N, C); ``boxes``: (N, 4) in 0...1 of the frame; ``image_size``: (W, H) in pixels
    of the upright photo; ``kind``: what the boxes are (see :data:`KINDS`, or ``"bottom_up"``).
    """

    features: Tensor
    boxes: Tensor
    image_size: tuple[int, int]
    kind: str
    notes: tuple[str, ...] = ()

    @property
    def geometry(self) -> Regions:
        """The boxes in pixels of the upright photograph."""
        width, height = self.image_size
        scale = np.array([width, height, width, height], np.float32)
        name = "cell" if self.kind == "cells" else "region"
        names = tuple(f"{name} {i + 1}" for i in range(len(self.boxes)))
        return Regions(self.boxes.cpu().numpy() * scale, self.image_size, names)


class RegionEncoder(nn.Module):
    """Photographs -> regions of one kind, with features of the image encoder.

    Boxes are found in the maps of the published encoder; ``tail``, where given, is the upper part
    with tuned weights from whose maps their features are pooled; ``scene``, where given, is a
    second encoder whose features follow those of the first.
    """

    def __init__(
        self,
        network: EfficientNetLite,
        proposer: RegionProposer,
        tail: ImageTail | None = None,
        scene: VisionTransformer | None = None,
    ) -> None:
        super().__init__()
        self.network, self.proposer, self.tail, self.scene = network, proposer, tail, scene
        self.eval()
        self.requires_grad_(False)

    @torch.inference_mode()
    def maps(self, photos: Sequence[np.ndarray], mirrored: bool = False) -> dict[int, Tensor]:
        """Feature maps of photographs squashed to a square: stride -> (B, C, h, w)."""
        device = self.network.stem.weight.device
        pixels = torch.from_numpy(np.stack([squashed(photo) for photo in photos])).to(device)
        pixels = (pixels.permute(0, 3, 1, 2).float() - MEAN) / SCALE
        return self.network.pyramid(pixels.flip(-1) if mirrored else pixels, STRIDES)

    def encode(
        self, photos: Sequence[np.ndarray], kind: str = "proposals", count: int = REGIONS
    ) -> list[RegionSet]:
        """Regions of one kind of every photograph; see :meth:`encode_kinds`."""
        return self.encode_kinds(photos, (kind,), count)[kind]

    @torch.inference_mode()
    def encode_kinds(
        self, photos: Sequence[np.ndarray], kinds: Sequence[str], count: int = REGIONS
    ) -> dict[str, list[RegionSet]]:
        """Regions of every photograph, of each kind asked for, from one pass of the encoder.

        Args:
            photos: upright RGB photographs, uint8 (H, W, 3), each of its own size.
            kinds: out of "proposals", "cells", "multiscale".

        Raises:
            CrossfuseError: an unknown kind.
        """
        if not set(kinds) <= set(KINDS):
            raise CrossfuseError(
                "Regions are {known}, not {asked}.", known=", ".join(KINDS), asked=", ".join(kinds)
            )
        maps = self.maps(photos)
        seen = maps if self.tail is None else self.tail(maps[SPLIT])
        scene = None if self.scene is None else scene_tokens(self.scene, photos)
        return {kind: self._regions(photos, maps, seen, scene, kind, count) for kind in kinds}

    def _regions(
        self,
        photos: Sequence[np.ndarray],
        maps: dict[int, Tensor],
        seen: dict[int, Tensor],
        scene: PatchTokens | None,
        kind: str,
        count: int,
    ) -> list[RegionSet]:
        device = maps[32].device
        if kind == "proposals":
            boxes = self.proposer.propose(maps, count, self.maps(photos, mirrored=True))
        else:
            fixed = (grid_boxes() if kind == "cells" else multiscale_boxes()).to(device)
            boxes = [fixed] * len(photos)
        sets = []
        for row, (photo, own) in enumerate(zip(photos, boxes, strict=True)):
            notes: tuple[str, ...] = ()
            if not len(own):
                own = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
                notes = (
                    Notice("No region was proposed; the whole photograph is the only region."),
                )
            here = {stride: values[row : row + 1] for stride, values in seen.items()}
            features = pool_regions(here, own[None])[0]
            if scene is not None:
                features = torch.cat([features, pool_patches(scene.of(row), own[None])[0]], -1)
            size = (photo.shape[1], photo.shape[0])
            sets.append(RegionSet(features.cpu(), own.cpu(), size, kind, notes))
        return sets


def stored(photo: np.ndarray) -> np.ndarray:
    """The photograph as the training photographs are stored: (224, 224, 3) uint8, any aspect.

    Raises:
        CrossfuseError: not uint8 (H, W, 3).
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or 0 in photo.shape:
        raise CrossfuseError(
            "A photograph must be uint8 (height, width, 3); got {dtype} {shape}.",
            dtype=photo.dtype,
            shape=photo.shape,
        )
    if photo.shape[:2] == (STORED_SIDE, STORED_SIDE):
        return photo
    side = (STORED_SIDE, STORED_SIDE)
    return np.asarray(Image.fromarray(photo).resize(side, Image.Resampling.BICUBIC))


def squashed(photo: np.ndarray) -> np.ndarray:
    """The photograph as the model saw its training photographs: (320, 320, 3) uint8.

    Those were stored at 224 x 224 whatever their aspect, and enlarged to 320; so is this one.
    """
    image = Image.fromarray(stored(photo))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


@torch.inference_mode()
def scene_tokens(
    network: VisionTransformer, photos: Sequence[np.ndarray], mirrored: bool = False
) -> PatchTokens:
    """Patch tokens of photographs at their stored size: 16 x 16 patches."""
    pixels = torch.from_numpy(np.stack([stored(photo) for photo in photos]))
    pixels = pixels.to(network.class_token.device).permute(0, 3, 1, 2).float()
    return network(pixels.flip(-1) if mirrored else pixels)


def load_region_encoder(
    weights: str = "regions",
    device: torch.device | str = "cpu",
    tuned: str = "",
    scene: bool = False,
) -> RegionEncoder:
    """EfficientNet-Lite2 and the proposer; features by the upper part of the weights ``tuned``.

    With ``scene``, those of the vision transformer follow: 1448 + 1152 numbers a region.
    """
    state, card = load_weights(weights)
    proposer = RegionProposer(ProposerConfig.from_dict(card["config"]))
    proposer.load_state_dict(state, strict=True)
    network = load_image_encoder("lite2").network
    tail = tuned_tail(network, load_weights(tuned)[0]) if tuned else None
    second = load_vision_transformer() if scene else None
    return RegionEncoder(network, proposer, tail, second).to(device)


def read_region_features(file: BinaryIO | bytes) -> RegionSet:
    """Features made elsewhere, as published for bottom-up attention.

    Args:
        file: an ``.npz`` with ``features`` (N, D) and ``boxes`` (N, 4) as x0, y0, x1, y1 in
            pixels, and ``image_size`` or ``image_w`` and ``image_h`` in pixels; N is at most 100.

    Raises:
        CrossfuseError: another layout, boxes off the photograph, or too large a file.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with zipfile.ZipFile(stream) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_NPZ_BYTES:
                raise CrossfuseError(
                    "The region file unpacks to more than {limit} MiB.", limit=MAX_NPZ_BYTES >> 20
                )
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            features = np.asarray(arrays["features" if "features" in arrays else "x"], np.float32)
            boxes = np.asarray(arrays["boxes" if "boxes" in arrays else "bbox"], np.float32)
            if "image_size" in arrays:
                width, height = (int(v) for v in arrays["image_size"])
            else:
                width, height = int(arrays["image_w"]), int(arrays["image_h"])
    except (KeyError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CrossfuseError(
            "The region file must be an .npz with features (N, D), boxes (N, 4) in pixels and "
            "image_size (W, H): {error}.",
            error=error,
        ) from error
    if features.ndim != 2 or not 1 <= len(features) <= 100 or not 1 <= features.shape[1] <= 8192:
        raise CrossfuseError(
            "The region features must be 1 to 100 rows of 1 to 8192 numbers; got {shape}.",
            shape=features.shape,
        )
    if boxes.shape != (len(features), 4) or width < 1 or height < 1:
        raise CrossfuseError(
            "The boxes must be ({count}, 4) in pixels of the photo; got {shape}.",
            count=len(features),
            shape=boxes.shape,
        )
    if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
        raise CrossfuseError("The region file has NaN or infinite values.")
    relative = boxes / np.array([width, height, width, height], np.float32)
    if relative.min() < -0.01 or relative.max() > 1.01:
        raise CrossfuseError(
            "Some boxes lie off the photograph of {width} x {height} pixels.",
            width=width,
            height=height,
        )
    return RegionSet(
        torch.from_numpy(features),
        torch.from_numpy(relative.clip(0, 1)),
        (width, height),
        "bottom_up",
    )

"""The region proposer: a class-agnostic head over the frozen image encoder, trained here.

It saw the boxes of noun phrases of the training captions (Flickr30K Entities) and no words, so it
proposes "what people mention". The image-sentence model never sees boxes as supervision.

    stride-8 map of the encoder -> TunedStage (the encoder's stage, trained further) -> stride 16
    8, 16 and 32 -> top-down and bottom-up paths (Lin et al., CVPR 2017; Liu et al., CVPR 2018)
    each level -> box and score of each anchor shape -> the best 36 that lie apart (choose_boxes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.encoders.efficientnet_lite import EfficientNetLite

CHANNELS = {8: 48, 16: 120, 32: 1280}
REGIONS = 36
CANDIDATES = 3500
# The blocks of EfficientNet-Lite2 between stride 8 and stride 16: width in, width out, kernel.
STAGE = ((48, 88, 3), *((88, 88, 3),) * 3, (88, 120, 5), *((120, 120, 5),) * 3)

Shapes = tuple[tuple[float, float], ...]


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair: (..., N, 4) x (..., M, 4) -> (..., N, M)."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    inner = (high - low).clamp(min=0).prod(-1)

    def area(boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)

    union = area(first)[..., :, None] + area(second)[..., None, :] - inner
    return inner / union.clamp(min=1e-9)


@dataclass(frozen=True)
class ProposerConfig:
    """Sizes of the proposer. ``shapes``: of each stride, anchor (width, height) in 0...1.

    ``overlap``: boxes that overlap a better one by more than this IoU are dropped.
    """

    width: int = 128
    shapes: tuple[Shapes, ...] = (((0.1, 0.1),), ((0.3, 0.3),), ((0.6, 0.6),))
    overlap: float = 0.45

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProposerConfig:
        shapes = tuple(tuple((float(w), float(h)) for w, h in level) for level in values["shapes"])
        return cls(int(values["width"]), shapes, float(values["overlap"]))


class TunedStage(nn.Module):
    """The encoder's blocks between stride 8 and stride 16, to be trained further for boxes.

    The depthwise filters stay as published: they are few, and slow to differentiate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        for number, (inside, outside, kernel) in enumerate(STAGE):
            wide, stride = 6 * inside, 1 if number else 2
            padding = 0 if stride == 2 else kernel // 2
            depthwise = nn.Conv2d(wide, wide, kernel, stride, padding, groups=wide)
            depthwise.weight.requires_grad_(False)
            self.convolutions += [
                nn.Conv2d(inside, wide, 1),
                depthwise,
                nn.Conv2d(wide, outside, 1),
            ]

    @torch.no_grad()
    def start_from(self, network: EfficientNetLite) -> None:
        """Take the weights of the encoder's stage."""
        layers = [
            layer
            for block in network.blocks[network.ends[8] : network.ends[16]]
            for layer in block.layers  # type: ignore[union-attr]
        ]
        for convolution, layer in zip(self.convolutions, layers, strict=True):
            convolution.weight.copy_(layer.weight)  # type: ignore[operator]
            convolution.bias.copy_(layer.bias)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 48, h, w) of stride 8 -> (B, 120, h / 2, w / 2)."""
        layers = iter(self.convolutions)
        for number, (expand, depthwise, project) in enumerate(
            zip(layers, layers, layers, strict=True)
        ):
            y = F.relu6(expand(x))
            if not number:
                y = F.pad(y, (0, 1, 0, 1))  # TensorFlow's lopsided padding, as in the encoder
            y = project(F.relu6(depthwise(y)))
            x = x + y if x.shape == y.shape else y
        return x


class _Mix(nn.Module):
    """Residual block: a 3 x 3 convolution to half the width, and back to all of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 2, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class RegionProposer(nn.Module):
    """Class-agnostic boxes with a score: an anchor-based head on three levels.

    Trained on boxes of the noun phrases of image captions, so a region is "what people mention".
    Input maps come from the frozen encoder at 320 px, strides 8 and 32.
    """

    def __init__(self, config: ProposerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ProposerConfig()
        width = config.width
        self.stage = TunedStage()
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 1))
            for channels in CHANNELS.values()
        )
        self.down = nn.ModuleList(_Mix(width) for _ in range(3))
        self.up = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, width, 1)) for _ in range(2)
        )
        self.towers = nn.ModuleList(
            nn.Sequential(_Mix(width), _Mix(width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
            for _ in range(3)
        )
        self.outs = nn.ModuleList(nn.Conv2d(width, 5 * len(level), 1) for level in config.shapes)
        for out, level in zip(self.outs, config.shapes, strict=True):
            nn.init.normal_(out.weight, std=0.01)  # type: ignore[arg-type]
            start = torch.zeros(5, len(level))
            start[0] = -4.0  # a box is rare
            out.bias = nn.Parameter(start.flatten())

    def anchors(self, cells: int = 10) -> Tensor:
        """(A, 4): centre x, centre y, width, height in 0...1; ``cells`` a side at stride 32."""
        found = []
        for shapes, side in zip(self.config.shapes, (4 * cells, 2 * cells, cells), strict=True):
            centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            place = torch.stack([x, y], -1).expand(len(shapes), side, side, 2)
            size = torch.tensor(shapes)[:, None, None].expand_as(place)
            found.append(torch.cat([place, size], -1).flatten(0, 2))
        return torch.cat(found)

    def forward(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Args: stride -> (B, C, h, w). Returns: boxes (B, A, 4) in 0...1 and logits (B, A)."""
        own = (maps[8], self.stage(maps[8]), maps[32])
        fine, middle, coarse = (layer(x) for layer, x in zip(self.inputs, own, strict=True))
        coarse = self.down[2](coarse)
        middle = self.down[1](middle + F.interpolate(coarse, scale_factor=2.0))
        fine = self.down[0](fine + F.interpolate(middle, scale_factor=2.0))
        middle = middle + self.up[0](fine)
        coarse = coarse + self.up[1](middle)
        raw = []
        for number, x in enumerate((fine, middle, coarse)):
            out = self.outs[number](self.towers[number](x))
            raw.append(out.unflatten(1, (5, -1)).flatten(2).float())
        out, anchors = torch.cat(raw, 2).transpose(1, 2), self.anchors(coarse.shape[-1]).to(raw[0])
        centre = anchors[:, :2] + out[..., 1:3] * anchors[:, 2:]
        size = anchors[:, 2:] * out[..., 3:5].clamp(-2.5, 2.5).exp()
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1).clamp(0.0, 1.0)
        return boxes, out[..., 0]

    @torch.no_grad()
    def propose(
        self,
        maps: Mapping[int, Tensor],
        count: int = REGIONS,
        mirrored: Mapping[int, Tensor] | None = None,
    ) -> list[Tensor]:
        """The boxes to keep of each photograph, best first: a list of (<= count, 4) in 0...1.

        ``mirrored``: maps of the same photographs mirrored; boxes found in them compete too.
        """
        boxes, logits = self(maps)
        if mirrored is not None:
            others, also = self(mirrored)
            left, top, right, bottom = others.unbind(-1)
            others = torch.stack([1 - right, top, 1 - left, bottom], -1)
            boxes, logits = torch.cat([boxes, others], 1), torch.cat([logits, also], 1)
        chosen, found = choose_boxes(boxes, logits.sigmoid(), count, self.config.overlap)
        return [own[:number] for own, number in zip(chosen, found.tolist(), strict=True)]


def choose_boxes(
    boxes: Tensor, scores: Tensor, count: int, overlap: float
) -> tuple[Tensor, Tensor]:
    """Greedy choice of boxes: the best score first, those that overlap a chosen one are out.

    Nearly all anchors must be candidates: around each thing hundreds agree on one box, so that the
    600 best of them reach 75 % of the phrase boxes where the 1,000 best reach 80 %.

    Args:
        boxes: (B, A, 4); scores: (B, A) in 0...1. Boxes thinner than 1/100 of a side are dropped.
        overlap: IoU above which a box is out.

    Returns:
        (B, count, 4), in order of choice, and (B,) how many of them were there to choose; the rest
        is the whole frame.
    """
    thick = ((boxes[..., 2:] - boxes[..., :2]) > 0.01).all(-1)
    scores, order = torch.where(thick, scores, -1.0).topk(min(CANDIDATES, scores.shape[1]))
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    left, top, right, bottom = (side.contiguous() for side in boxes.unbind(-1))
    area = (right - left) * (bottom - top)
    chosen = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(boxes).repeat(len(boxes), count, 1)
    found = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    for place in range(min(count, boxes.shape[1])):
        score, best = scores.max(1, keepdim=True)
        here = score[:, 0] > 0
        box = boxes.gather(1, best[..., None].expand(-1, 1, 4))[:, 0]
        chosen[:, place] = torch.where(here[:, None], box, chosen[:, place])
        found += here
        width = torch.minimum(right, box[:, 2:3]) - torch.maximum(left, box[:, 0:1])
        height = torch.minimum(bottom, box[:, 3:4]) - torch.maximum(top, box[:, 1:2])
        inner = width.clamp(min=0) * height.clamp(min=0)
        out = inner > overlap * (area + area.gather(1, best) - inner)
        scores = scores.masked_fill(out, -1.0).scatter(1, best, -1.0)
    return chosen, found

"""The region proposer: a class-agnostic head over the frozen image encoder, trained here.

It saw the boxes of noun phrases of the training captions (Flickr30K Entities) and no words, so it
proposes "what people mention". The image-sentence model never sees boxes as supervision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = {8: 48, 16: 120, 32: 1280}
REGIONS = 36
CANDIDATES = 500


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
    """Sizes of the proposer. ``shapes``: anchor (width, height) in 0...1 of the frame.

    ``overlap``: boxes that overlap a better one by more than this IoU are dropped.
    """

    width: int = 192
    blocks: int = 2
    shapes: tuple[tuple[float, float], ...] = ((0.1, 0.1), (0.3, 0.3), (0.6, 0.6))
    overlap: float = 0.53

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProposerConfig:
        shapes = tuple((float(w), float(h)) for w, h in values["shapes"])
        return cls(**{**values, "shapes": shapes})


class RegionProposer(nn.Module):
    """Class-agnostic boxes with a score: one anchor-based head on the stride-32 grid.

    Trained on boxes of the noun phrases of image captions, so a region is "what people mention".
    Input maps come from the frozen encoder at 320 px: strides 8, 16 and 32; each cell of the
    coarse grid sees the 2 x 2 cells of stride 16 and the mean of the 4 x 4 of stride 8 over it.
    """

    def __init__(self, config: ProposerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ProposerConfig()
        width, self.shapes = config.width, len(config.shapes)
        inputs = CHANNELS[32] + 4 * CHANNELS[16] + CHANNELS[8]
        self.norm_in = nn.BatchNorm2d(inputs)
        self.reduce = nn.Conv2d(inputs, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.Conv2d(width, 2 * width, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(2 * width, width, 1),
            )
            for _ in range(config.blocks)
        )
        self.out_norm = nn.GroupNorm(8, width)
        self.out = nn.Conv2d(width, 5 * self.shapes, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        start = torch.zeros(5, self.shapes)
        start[0] = -4.0  # a box is rare
        self.out.bias = nn.Parameter(start.flatten())

    def anchors(self, cells: int = 10) -> Tensor:
        """(shapes * cells * cells, 4): centre x, centre y, width, height in 0...1."""
        centre = (torch.arange(cells, dtype=torch.float32) + 0.5) / cells
        shapes = torch.tensor(self.config.shapes)
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        place = torch.stack([x, y], -1).expand(self.shapes, cells, cells, 2)
        return torch.cat([place, shapes[:, None, None].expand_as(place)], -1).flatten(0, 2)

    def forward(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Args: stride -> (B, C, h, w). Returns: boxes (B, A, 4) in 0...1 and logits (B, A)."""
        fine = [F.pixel_unshuffle(maps[16], 2), F.avg_pool2d(maps[8], 4)]
        x = self.reduce(self.norm_in(torch.cat([maps[32], *fine], dim=1)))
        for block in self.blocks:
            x = x + block(x)
        out = self.out(F.relu(self.out_norm(x))).unflatten(1, (5, self.shapes)).flatten(2).float()
        anchors = self.anchors(x.shape[-1]).to(out)
        centre = anchors[:, :2] + out[:, 1:3].transpose(1, 2) * anchors[:, 2:]
        size = anchors[:, 2:] * out[:, 3:5].transpose(1, 2).clamp(-2.5, 2.5).exp()
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1).clamp(0.0, 1.0)
        return boxes, out[:, 0]

    @torch.no_grad()
    def propose(self, maps: Mapping[int, Tensor], count: int = REGIONS) -> list[Tensor]:
        """The boxes to keep of each photograph, best first: a list of (<= count, 4) in 0...1."""
        boxes, logits = self(maps)
        return [
            select_boxes(b, s, count, self.config.overlap)
            for b, s in zip(boxes, logits.sigmoid(), strict=True)
        ]


def select_boxes(boxes: Tensor, scores: Tensor, count: int, overlap: float) -> Tensor:
    """Greedy choice of boxes: best score first, those that overlap a chosen one are out.

    Args:
        boxes: (A, 4); scores: (A,). Boxes thinner than 1/100 of a side are dropped.
        overlap: IoU above which a box is out. Tuned for recall at 36 boxes: .55 beat .5, .65 and
            .75, and soft suppression of every width that was tried.

    Returns:
        (<= count, 4), in order of choice.
    """
    scores, order = scores.topk(min(CANDIDATES, len(scores)))
    boxes = boxes[order]
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0.01).all(1)]
    free = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    iou, chosen = box_iou(boxes, boxes), []
    for _ in range(count):
        left = free.nonzero()
        if not len(left):
            break
        best = int(left[0])
        chosen.append(best)
        free &= iou[best] <= overlap
        free[best] = False
    return boxes[chosen]

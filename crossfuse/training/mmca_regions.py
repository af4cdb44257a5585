"""Training of the region proposer on phrase boxes (train split only), over cached feature maps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossfuse.encoders.proposer import ProposerConfig, RegionProposer, box_iou

Maps = dict[int, Tensor]


def anchor_shapes(boxes: np.ndarray, count: int, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """k-means of box (width, height) under the distance 1 - IoU of boxes with a shared centre.

    Args:
        boxes: (N, 4) in 0...1.

    Returns:
        ``count`` shapes, smallest first (Redmon and Farhadi, CVPR 2017, section 2).
    """
    rng = np.random.default_rng(seed)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.02)
    centres = sides[rng.choice(len(sides), count, replace=False)]
    for _ in range(40):
        inner = np.minimum(sides[:, None], centres[None]).prod(-1)
        iou = inner / (sides.prod(-1)[:, None] + centres.prod(-1)[None] - inner)
        nearest = iou.argmax(1)
        centres = np.stack(
            [
                np.median(sides[nearest == c], axis=0) if (nearest == c).any() else centres[c]
                for c in range(count)
            ]
        )
    order = np.argsort(centres.prod(-1))
    return tuple((round(float(w), 4), round(float(h), 4)) for w, h in centres[order])


def corners(anchors: Tensor) -> Tensor:
    """(A, 4) centre and size -> corners."""
    return torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], -1)


def assign(anchors: Tensor, truth: Tensor, per_box: int = 9) -> tuple[Tensor, Tensor]:
    """Which anchors learn which box: of each box its ``per_box`` best anchors, and all above .6.

    Args:
        anchors: (A, 4) corners; truth: (G, 4).

    Returns:
        (P,) anchor indices and (P,) box indices; an anchor belongs to its best box only.
    """
    iou = box_iou(anchors, truth)
    near = torch.zeros_like(iou, dtype=torch.bool)
    near.scatter_(0, iou.topk(per_box, dim=0).indices, True)
    score = torch.where((near & (iou > 0.15)) | (iou > 0.6), iou, torch.zeros_like(iou))
    best, box = score.max(dim=1)
    chosen = best.nonzero()[:, 0]
    return chosen, box[chosen]


def pair_giou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019) of boxes taken in pairs."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = (first[:, 2:] - first[:, :2]).clamp(min=0).prod(-1) + (
        second[:, 2:] - second[:, :2]
    ).prod(-1)
    union = (areas - inner).clamp(min=1e-9)
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    iou, hull_area = inner / union, hull.prod(-1).clamp(min=1e-9)
    return iou, iou - (hull_area - union) / hull_area


def proposer_loss(model: RegionProposer, maps: Maps, truths: Sequence[Tensor]) -> Tensor:
    """Varifocal score loss (Zhang et al., CVPR 2021: target = IoU reached) + GIoU of positives."""
    boxes, logits = model(maps)
    anchors = corners(model.anchors())
    target = torch.zeros_like(logits)
    pairs, wanted = [], []
    for i, truth in enumerate(truths):
        if not len(truth):
            continue
        chosen, box = assign(anchors, truth)
        pairs.append(boxes[i, chosen])
        wanted.append(truth[box])
        with torch.no_grad():
            target[i, chosen] = pair_giou(pairs[-1], wanted[-1])[0].clamp(min=0.05)
    iou, giou = pair_giou(torch.cat(pairs), torch.cat(wanted))
    count = max(1, len(iou))
    weight = torch.where(target > 0, target, 0.75 * logits.detach().sigmoid() ** 2)
    score = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / count
    return score + 2.0 * (1.0 - giou).mean()


def mirrored(maps: Tensor) -> Tensor:
    """What the encoder would see in the mirrored photographs, nearly: (B, C, h, w).

    Cell i is centred at (i + 1) / w of the frame, so the reversed map lies one cell too far to
    the right; it is moved back, and its last column is doubled.
    """
    return torch.cat([maps.flip(-1)[..., 1:], maps[..., :1]], dim=-1)


def train_proposer(
    read_maps: Callable[[np.ndarray], Maps],
    boxes: Sequence[np.ndarray],
    rows: np.ndarray,
    config: ProposerConfig,
    *,
    epochs: int = 8,
    batch: int = 32,
    rate: float = 2e-3,
    seed: int = 0,
    start_from: RegionProposer | None = None,
    after_epoch: Callable[[RegionProposer, int], None] | None = None,
    log: Callable[[str], None] = print,
) -> RegionProposer:
    """Train from scratch or from a trained proposer; half of the batches are mirrored.

    Args:
        read_maps: rows -> stride -> (B, C, h, w).
        boxes: of every photograph, (G, 4) in 0...1; only those of ``rows`` are read.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = (start_from or RegionProposer(config)).train()
    steps = epochs * (len(rows) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    start = time.time()
    for epoch in range(epochs):
        model.train()
        order, total = rng.permutation(rows), 0.0
        for step in range(len(rows) // batch):
            chosen = np.sort(order[step * batch : (step + 1) * batch])
            maps = read_maps(chosen)
            truths = [torch.from_numpy(np.asarray(boxes[i], np.float32)) for i in chosen]
            if rng.random() < 0.5:
                maps = {s: mirrored(m) for s, m in maps.items()}
                truths = [
                    torch.stack([1 - t[:, 2], t[:, 1], 1 - t[:, 0], t[:, 3]], 1) if len(t) else t
                    for t in truths
                ]
            with torch.autocast("cpu", torch.bfloat16):
                loss = proposer_loss(model, maps, truths)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise FloatingPointError(f"loss is not finite at epoch {epoch}, step {step}")
        log(f"epoch {epoch + 1}: loss {total / (step + 1):.4f}, {time.time() - start:.0f} s")
        if after_epoch is not None:
            after_epoch(model.eval(), epoch)
    return model.eval()

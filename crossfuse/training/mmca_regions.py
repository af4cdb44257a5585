"""Training of the region proposer on phrase boxes (train split only), photographs in, boxes out.

The frozen encoder runs in the loop, so that every photograph is seen zoomed, shifted, mirrored and
relit anew. All photographs stay on the device as uint8.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from crossfuse.data.captions import CaptionedPhoto, pack_images
from crossfuse.encoders.efficientnet_lite import EfficientNetLite
from crossfuse.encoders.image import MEAN, SCALE
from crossfuse.encoders.proposer import (
    REGIONS,
    ProposerConfig,
    RegionProposer,
    Shapes,
    box_iou,
    choose_boxes,
)
from crossfuse.encoders.regions import SIDE, STORED_SIDE
from crossfuse.errors import CrossfuseError

MOST_BOXES = 24  # of one photograph in one step; crowds have up to 71
LEVELS = (0.16, 0.4)  # root of the area below which a box shape belongs to stride 8, to stride 16


def read_pixels(data: Path, photos: Sequence[CaptionedPhoto], workers: int = 4) -> Tensor:
    """All photographs of a pack, squashed to a square: (N, 3, 224, 224) uint8.

    Raises:
        CrossfuseError: the archive lacks some.
    """
    pixels = torch.zeros(len(photos), 3, STORED_SIDE, STORED_SIDE, dtype=torch.uint8)
    there = np.zeros(len(photos), bool)

    def decode(entry: tuple[int, bytes]) -> None:
        image = Image.open(io.BytesIO(entry[1])).convert("RGB")
        if image.size != (STORED_SIDE, STORED_SIDE):
            image = image.resize((STORED_SIDE, STORED_SIDE), Image.Resampling.BICUBIC)
        pixels[entry[0]] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        there[entry[0]] = True

    with ThreadPool(workers) as pool:
        for _ in pool.imap_unordered(decode, pack_images(data, photos), chunksize=16):
            pass
    if not there.all():
        raise CrossfuseError(
            "The archive lacks {count} of {all} photographs, first {file}.",
            count=int((~there).sum()),
            all=len(photos),
            file=photos[int(np.argmin(there))].file,
        )
    return pixels


def pad_boxes(boxes: Sequence[np.ndarray], most: int) -> tuple[Tensor, Tensor]:
    """Boxes of every photograph, each (G, 4), as (N, ``most``, 4) and which are real (N, most).

    Of a photograph with more than ``most`` boxes an evenly spaced selection is taken.
    """
    padded, real = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most).bool()
    for row, own in enumerate(boxes):
        if len(own) > most:
            own = own[np.linspace(0, len(own) - 1, most).round().astype(int)]
        padded[row, : len(own)] = torch.from_numpy(np.asarray(own, np.float32))
        real[row, : len(own)] = True
    return padded, real


def anchor_shapes(
    boxes: np.ndarray, counts: tuple[int, int, int] = (3, 4, 6), seed: int = 0
) -> tuple[Shapes, Shapes, Shapes]:
    """Anchor shapes of each level: k-means of box (width, height) under the distance 1 - IoU.

    Args:
        boxes: (N, 4) in 0...1; a level takes those of its size (:data:`LEVELS`).
        counts: shapes at stride 8, 16 and 32.

    Returns:
        The shapes of each level, smallest first (Redmon and Farhadi, CVPR 2017, section 2).
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.02)
    level = np.digitize(np.sqrt(sides.prod(-1)), LEVELS)
    small, middle, large = (
        _shapes(sides[level == number], sides, count, seed) for number, count in enumerate(counts)
    )
    return small, middle, large


def _shapes(sides: np.ndarray, every: np.ndarray, count: int, seed: int) -> Shapes:
    rng = np.random.default_rng(seed)
    sides = sides if len(sides) else every
    centres = sides[rng.choice(len(sides), count, replace=len(sides) < count)]
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


def plain_view(pixels: Tensor) -> Tensor:
    """Photographs as the encoder sees them in use: (B, 3, 224, 224) uint8 -> (B, 3, 320, 320)."""
    large = F.interpolate(pixels.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return (large.round() - MEAN) / SCALE


def random_view(
    pixels: Tensor, boxes: Tensor, real: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Each photograph zoomed (in, or a little out), shifted, mirrored and relit at random.

    Args:
        pixels: (B, 3, 224, 224) uint8; boxes: (B, G, 4) in 0...1; real: (B, G).

    Returns:
        (B, 3, 320, 320) as the encoder takes them, the boxes of the view, and which are left: those
        of which at least 40 % are still in view.
    """
    count = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, generator=generator, device=pixels.device)
        return low + (high - low) * drawn

    zoom, aspect = uniform(math.log(0.6), math.log(1.15)), uniform(-0.25, 0.25)
    whole = uniform(0, 1) < 0.25
    side = torch.stack([zoom + aspect / 2, zoom - aspect / 2], 1).exp()
    side = torch.where(whole[:, None], torch.ones_like(side), side)
    corner = torch.stack([uniform(0, 1), uniform(0, 1)], 1) * (1 - side)
    flip = uniform(0, 1) < 0.5

    theta = torch.zeros(count, 2, 3, device=pixels.device)
    theta[:, 0, 0] = torch.where(flip, -side[:, 0], side[:, 0])
    theta[:, 1, 1] = side[:, 1]
    theta[:, :, 2] = 2 * corner + side - 1
    grid = F.affine_grid(theta, [count, 3, SIDE, SIDE], align_corners=False)
    view = F.grid_sample((pixels.float() - MEAN) / SCALE, grid, align_corners=False)
    grey = view.mean(1, keepdim=True)
    light, contrast, colour = (
        uniform(-a, a)[:, None, None, None] for a in (0.15, 0.25, 0.4)
    )  # fmt: skip
    view = (grey + (view - grey) * (1 + colour)) * (1 + contrast) + light

    shift, scale = corner.repeat(1, 2)[:, None], side.repeat(1, 2)[:, None]
    moved = (boxes - shift) / scale
    mirror = torch.stack([1 - moved[..., 2], moved[..., 1], 1 - moved[..., 0], moved[..., 3]], -1)
    moved = torch.where(flip[:, None, None], mirror, moved)
    inside = moved.clamp(0.0, 1.0)
    sides, before = inside[..., 2:] - inside[..., :2], moved[..., 2:] - moved[..., :2]
    left = sides.prod(-1) > 0.4 * before.prod(-1)
    return view, inside, real & left & (sides > 0.012).all(-1)


def assign(
    boxes: Tensor, scores: Tensor, anchors: Tensor, truth: Tensor, real: Tensor, per_box: int = 10
) -> tuple[Tensor, Tensor]:
    """Which anchors learn which true box, and the score each should have (Feng et al., ICCV 2021).

    Task-aligned assignment: of each true box the anchors with the best score^(1/2) x IoU^6, among
    those whose centre lies in it. The best of them is to score the IoU it reached, the
    others in proportion.

    Args:
        boxes: (B, A, 4) predicted; scores: (B, A) in 0...1; anchors: (A, 4) centre and size;
        truth: (B, G, 4); real: (B, G).

    Returns:
        (B, A, 4) the true box of each anchor, and (B, A) the score to learn, 0 for the rest.
    """
    iou = box_iou(truth, boxes)
    middle, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
    away = (anchors[:, :2] - middle[:, :, None]).abs()
    inside = (away <= half.clamp(min=0.0126)[:, :, None]).all(-1) & real[..., None]
    match = scores.sqrt()[:, None] * iou**6 * inside
    best = match.topk(per_box, dim=2)
    near = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 1e-14)
    reached, owner = torch.where(near, iou, -1.0).max(dim=1)
    own = near & (owner[:, None] == torch.arange(truth.shape[1], device=iou.device)[:, None])
    match = torch.where(own, match, 0.0)
    top_match = match.amax(2, keepdim=True).clamp(min=1e-14)
    top_iou = torch.where(own, iou, 0.0).amax(2, keepdim=True)
    target = (match / top_match * top_iou).sum(1)
    target = torch.where(reached > 0, target.clamp(min=0.02), 0.0)
    return truth.gather(1, owner[..., None].expand(-1, -1, 4)), target


def pair_giou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., CVPR 2019) of boxes taken in pairs."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).clamp(min=0).prod(-1) + (
        second[..., 2:] - second[..., :2]
    ).prod(-1)
    union = (areas - inner).clamp(min=1e-9)
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    iou, hull_area = inner / union, hull.clamp(min=0).prod(-1).clamp(min=1e-9)
    return iou, iou - (hull_area - union) / hull_area


def proposer_loss(
    model: RegionProposer, maps: dict[int, Tensor], truth: Tensor, real: Tensor
) -> Tensor:
    """Varifocal score loss (Zhang et al., CVPR 2021: target = IoU reached) + GIoU of positives."""
    boxes, logits = model(maps)
    with torch.no_grad():
        anchors = model.anchors(maps[32].shape[-1]).to(boxes)
        own, target = assign(boxes, logits.sigmoid(), anchors, truth, real)
        weight = torch.where(target > 0, target, 0.75 * logits.sigmoid() ** 2)
        total = target.sum().clamp(min=1.0)
    score = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / total
    _, giou = pair_giou(boxes, own)
    return score + 2.5 * ((1.0 - giou) * target).sum() / total


def train_proposer(
    network: EfficientNetLite,
    pixels: Tensor,
    boxes: Sequence[np.ndarray],
    rows: np.ndarray,
    config: ProposerConfig,
    *,
    schedule: Callable[[int], float],
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> RegionProposer:
    """Train a proposer from the encoder's own stage and random weights.

    Args:
        network: the frozen encoder, on the device to train on.
        pixels: (N, 3, 224, 224) uint8 on that device; boxes: of every photograph, (G, 4) in 0...1;
            rows: the photographs to learn from.
        schedule: number of steps done -> share of the training that is done; it ends at 1. The
            rate warms up over the first 3 % and falls to nothing along a cosine.

    Returns:
        The running mean of the weights over the last steps, in evaluation mode.
    """
    device = pixels.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    model = RegionProposer(config)
    model.stage.start_from(network)
    model = model.to(device).train()
    average = deepcopy(model).eval().requires_grad_(False)
    frozen = deepcopy(network)
    frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = frozen.half() if device.type == "cuda" else frozen
    tuned = [p for p in model.stage.parameters() if p.requires_grad]
    fresh = [p for name, p in model.named_parameters() if not name.startswith("stage.")]
    optimiser = torch.optim.AdamW(
        [{"params": fresh, "share": 1.0}, {"params": tuned, "share": 0.15}],
        rate, weight_decay=0.02, fused=device.type == "cuda",
    )  # fmt: skip
    truth, real = (part.to(device) for part in pad_boxes(boxes, MOST_BOXES))
    order, start, step = torch.empty(0, dtype=torch.long, device=device), time.time(), 0
    choices, total = torch.from_numpy(rows).to(device), torch.zeros((), device=device)
    while (done := schedule(step)) < 1.0:
        if len(order) < batch:
            shuffled = torch.randperm(len(rows), generator=generator, device=device)
            order = torch.cat([order, choices[shuffled]])
        chosen, order = order[:batch], order[batch:]
        view, wanted, left = random_view(pixels[chosen], truth[chosen], real[chosen], generator)
        with torch.no_grad():
            # Channels last is twice as fast for the encoder, and slower for the head's gradients.
            view = view.to(frozen.stem.weight.dtype, memory_format=torch.channels_last)
            maps = {s: m.contiguous() for s, m in frozen.pyramid(view, (8, 32)).items()}
        factor = min(1.0, (done + 1e-3) / 0.03) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"] * factor
        with torch.autocast(device.type, torch.bfloat16):
            loss = proposer_loss(model, maps, wanted, left)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        _follow(average, model, min(0.998, step / (step + 20)))
        total += loss.detach()
        if step % 100 == 0:
            mean = float(total) / 100
            if not math.isfinite(mean):
                raise FloatingPointError(f"The loss of the proposer is not finite at step {step}.")
            log(f"step {step} ({done:.0%}): loss {mean:.4f}, {time.time() - start:.0f} s")
            total.zero_()
    log(f"{step} steps of {batch} in {time.time() - start:.0f} s")
    return average


@torch.no_grad()
def _follow(average: RegionProposer, model: RegionProposer, keep: float) -> None:
    """Move the running mean of weights and of batch statistics towards the model."""
    own = [t for t in average.state_dict().values() if t.is_floating_point()]
    new = [t for t in model.state_dict().values() if t.is_floating_point()]
    torch._foreach_lerp_(own, new, 1.0 - keep)


@torch.no_grad()
def candidates(
    model: RegionProposer, network: EfficientNetLite, pixels: Tensor, batch: int = 100
) -> tuple[Tensor, Tensor]:
    """All boxes (N, A, 4) and scores (N, A) of photographs (N, 3, 224, 224) uint8."""
    boxes, scores = [], []
    for start in range(0, len(pixels), batch):
        maps = network.pyramid(plain_view(pixels[start : start + batch]), (8, 32))
        own, logits = model(maps)
        boxes.append(own)
        scores.append(logits.sigmoid())
    return torch.cat(boxes), torch.cat(scores)


def propose_all(
    model: RegionProposer, network: EfficientNetLite, pixels: Tensor, count: int = REGIONS
) -> tuple[Tensor, Tensor]:
    """The boxes of all photographs: (N, count, 4), padded with the whole frame, and (N,) counts."""
    chosen = [
        choose_boxes(*candidates(model, network, some), count, model.config.overlap)
        for some in pixels.split(200)
    ]
    return torch.cat([c for c, _ in chosen]), torch.cat([n for _, n in chosen])


def recall_at(chosen: Tensor, truth: Tensor, real: Tensor, threshold: float = 0.5) -> float:
    """Share of true boxes (N, G, 4) that a chosen box (N, K, 4) overlaps with IoU >= threshold."""
    reached = box_iou(truth, chosen).amax(-1)
    return float((reached[real] >= threshold).float().mean())


def best_overlap(
    model: RegionProposer,
    network: EfficientNetLite,
    pixels: Tensor,
    boxes: Sequence[np.ndarray],
    log: Callable[[str], None] = print,
) -> float:
    """The overlap of chosen boxes with the best recall at IoU .5 of :data:`REGIONS` boxes.

    Args:
        pixels, boxes: photographs that the proposer has not learnt from.
    """
    truth, real = (part.to(pixels.device) for part in pad_boxes(boxes, max(map(len, boxes))))
    found, scores = candidates(model, network, pixels)
    recalls = {}
    for overlap in (0.4, 0.425, 0.45, 0.475, 0.5, 0.525, 0.55, 0.6):
        chosen, _ = choose_boxes(found, scores, REGIONS, overlap)
        recalls[overlap] = recall_at(chosen, truth, real)
        log(f"overlap {overlap}: recall {recalls[overlap]:.4f} on photographs held out of training")
    return max(recalls, key=lambda overlap: recalls[overlap])


def trained_proposer(
    data: Path,
    photos: Sequence[CaptionedPhoto],
    rows: np.ndarray,
    network: EfficientNetLite,
    epochs: int,
    log: Callable[[str], None] = print,
) -> RegionProposer:
    """Train a proposer on the photographs ``rows`` of a pack and set the overlap of its boxes.

    A fifteenth of them is held out of the training; the overlap is chosen on it.
    """
    device = network.stem.weight.device
    pixels = read_pixels(data, photos).to(device)
    boxes = [photo.all_boxes for photo in photos]
    order = np.random.default_rng(0).permutation(rows)
    held, learnt = np.sort(order[: len(rows) // 15 + 1]), np.sort(order[len(rows) // 15 + 1 :])
    config = ProposerConfig(shapes=anchor_shapes(np.concatenate([boxes[row] for row in learnt])))
    batch = min(64, len(learnt))
    steps = max(1, epochs * len(learnt) // batch)
    model = train_proposer(
        network, pixels, boxes, learnt, config,
        schedule=lambda step: step / steps, batch=batch, log=log,
    )  # fmt: skip
    overlap = best_overlap(model, network, pixels[held], [boxes[row] for row in held], log)
    model.config = replace(model.config, overlap=overlap)
    return model.cpu()

"""How well a map between two photographs segments, detects and colours, with baselines.

Material: a folder with ``photos.jsonl``, one photograph a line: ``file``, ``w``, ``h``, ``boxes``
(list of ``label``, ``box`` x0, y0, x1, y1 as shares of the sides, ``iscrowd``; or null).

For every ordered pair of photographs A, B that share a label: the boxes of that label in A are
marked, B asks A.  *Detection*: does the hottest cell of B lie in a box of that label; does the
found box overlap one (IoU >= 0.3)?  *Segmentation*: area under the ROC curve of the carried mask
against the cells in the boxes of B.  Baselines that see no map: the middle of B, and what a cell
drawn at random scores.  *Transfer*: of two crops of one photograph one is greyed; mean error of the
fetched colour, beside grey and the other crop's mean colour.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfuse.data.images import read_image
from crossfuse.encoders.image import FeatureMap, ImageEncoder
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models.feature_map_uses import cell_means, cells_in_box, locate
from crossfuse.training.photo_pairs import random_crop

LONGEST_SIDE = 448
SMALLEST, LARGEST = 0.02, 0.6  # share of the photograph that a marked box may cover
IOU = 0.3

Box = tuple[float, float, float, float]
Pointer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def read_boxed(folder: Path) -> list[tuple[np.ndarray, dict[str, list[Box]]]]:
    """Photographs with boxes: pixels and, for each label, its boxes in pixels.

    Raises:
        CrossfuseError: no photos.jsonl, or a line of it that is not as described above.
    """
    listing = folder / "photos.jsonl"
    if not listing.exists():
        raise CrossfuseError(f"{listing} is missing: there are no boxes to measure with.")
    found = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            path = folder / entry["file"]
            boxes: dict[str, list[Box]] = {}
            for one in entry["boxes"] or []:
                if not one["iscrowd"]:
                    x0, y0, x1, y1 = one["box"]
                    w, h = entry["w"], entry["h"]
                    boxes.setdefault(one["label"], []).append((x0 * w, y0 * h, x1 * w, y1 * h))
        except (KeyError, TypeError, ValueError) as error:
            raise CrossfuseError(
                f"Line {number} of {listing} is not as expected: {error}."
            ) from error
        if boxes:
            found.append((read_image(path.read_bytes()).pixels, boxes))
    return found


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / max(sum(areas) - shared, 1e-9)


def roc_area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive cell scores above a negative one; NaN if one kind is absent."""
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        return float("nan")
    difference = above[:, None] - below[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def boxed_scores(
    photos: list[tuple[np.ndarray, dict[str, list[Box]]]],
    features: list[FeatureMap],
    pointer: Pointer,
) -> dict[str, Any]:
    """Detection and segmentation over all ordered pairs; means over pairs and over labels."""
    names = ("peak", "iou", "roc", "middle_peak", "middle_roc", "random_peak")
    rows: list[list[float]] = []
    labels: list[str] = []
    for i, (pixels, marked) in enumerate(photos):
        for j, (_, wanted) in enumerate(photos):
            if i == j or not set(marked) & set(wanted):
                continue
            a, b = features[i], features[j]
            weights = pointer(b.values[None], a.values[None]).numpy()
            for label in sorted(set(marked) & set(wanted)):
                sized = [box for box in marked[label] if _fits(box, pixels.shape)]
                if sized:
                    rows.append(_one(weights, a.grid, b.grid, sized, wanted[label]))
                    labels.append(label)
    table, kinds = np.array(rows), np.array(labels)
    by_label = [np.nanmean(table[kinds == kind], 0) for kind in sorted(set(labels))]
    return {
        "pairs": len(rows),
        "labels": len(by_label),
        "mean over pairs": dict(zip(names, np.nanmean(table, 0).tolist(), strict=True)),
        "mean over labels": dict(zip(names, np.nanmean(by_label, 0).tolist(), strict=True)),
    }


def _fits(box: Box, shape: tuple[int, ...]) -> bool:
    share = (box[2] - box[0]) * (box[3] - box[1]) / (shape[0] * shape[1])
    return SMALLEST <= share <= LARGEST


def _one(
    weights: np.ndarray, grid_a: ImageGrid, grid_b: ImageGrid, marked: list[Box], wanted: list[Box]
) -> list[float]:
    """The six figures of one pair and label."""
    exemplar = np.clip(sum(cells_in_box(grid_a, box) for box in marked), 0, 1)
    true = np.clip(sum(cells_in_box(grid_b, box) for box in wanted), 0, 1) > 0.5
    found = locate(weights, grid_b, exemplar)
    heat = found.heat.ravel()
    middle = -np.square(grid_b.centres - np.asarray(grid_b.image_size) / 2).sum(1)
    return [
        float(true[heat.argmax()]),
        float(max(overlap(found.box, box) for box in wanted) >= IOU),
        roc_area(heat, true),
        float(true[middle.argmax()]),
        roc_area(middle, true),
        float(true.mean()),
    ]


def colour_scores(
    photos: list[np.ndarray], encoder: ImageEncoder, pointer: Pointer, stride: int, seed: int
) -> dict[str, float]:
    """Mean absolute error of colour (channel minus brightness, 0..255) on greyed crops."""
    generator = np.random.default_rng(seed)
    errors = []
    for photo in photos:
        a, b = (random_crop(photo, generator).pixels for _ in range(2))
        grey = np.repeat(a.mean(2, keepdims=True).round().astype(np.uint8), 3, axis=2)
        one, two = (maps[stride] for maps in encoder.encode([grey, b], (stride,), len(a)))
        truth, source = (
            means - means.mean(1, keepdims=True)
            for means in (cell_means(a, one.grid), cell_means(b, two.grid))
        )
        fetched = pointer(one.values[None], two.values[None]).numpy() @ source
        guesses = (fetched, np.zeros_like(truth), source.mean(0))
        errors.append([np.abs(guess - truth).mean() for guess in guesses])
    means = np.mean(errors, axis=0).tolist()
    return dict(zip(("through the map", "grey", "mean colour"), means, strict=True))


def uses_scores(
    folder: Path, pointers: dict[str, Pointer], encoder: ImageEncoder, stride: int, seed: int
) -> dict[str, Any]:
    """All of the above for each way of pointing, at one stride."""
    photos = read_boxed(folder)
    encoded = encoder.encode([pixels for pixels, _ in photos], (stride,), LONGEST_SIDE)
    features = [maps[stride] for maps in encoded]
    pixels = [photo for photo, _ in photos]
    return {
        name: boxed_scores(photos, features, pointer)
        | {"colour error": colour_scores(pixels, encoder, pointer, stride, seed)}
        for name, pointer in pointers.items()
    }

"""Phrase grounding from attention maps: pointing game, mass in the box, R@1 at IoU .5.

Boxes are (x0, y0, x1, y1) in 0...1 of the frame. A phrase may have several true boxes; a point in
any of them is a hit (pointing game: Zhang et al., IJCV 2018). "Small" phrases are those whose
largest box covers less than a quarter of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfuse.encoders.regions import cover_matrix

SMALL = 0.25
CANVAS = 24  # cells a side, as on the page


@dataclass(frozen=True)
class Phrase:
    """``image``: row of the photograph; ``caption``: row of the sentence; ``words``: its pieces."""

    image: int
    caption: int
    pieces: np.ndarray
    boxes: np.ndarray
    types: tuple[str, ...] = ()

    @property
    def small(self) -> bool:
        return bool(areas(self.boxes).max() < SMALL)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...)."""
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)


def inside(point: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether a point (x, y) lies in any of the boxes (N, 4)."""
    within = (point >= boxes[:, :2]) & (point <= boxes[:, 2:])
    return bool(within.all(1).any())


def paint(weights: np.ndarray, boxes: np.ndarray, side: int = CANVAS) -> np.ndarray:
    """The map as a picture (side, side): the weight of all regions that cover a cell.

    weights: (N,) >= 0; boxes: (N, 4) in 0...1.
    """
    return (weights @ cover_matrix(boxes, side)).reshape(side, side)


def peak(picture: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of the highest plateau of a painted map."""
    y, x = np.nonzero(picture >= picture.max() * (1 - 1e-6))
    return np.array([(x.mean() + 0.5) / picture.shape[1], (y.mean() + 0.5) / picture.shape[0]])


def mass_in(picture: np.ndarray, boxes: np.ndarray) -> float:
    """Share of a painted map inside the union of boxes."""
    side = len(picture)
    centre = (np.arange(side) + 0.5) / side
    x_in = (centre >= boxes[:, 0, None]) & (centre <= boxes[:, 2, None])
    y_in = (centre >= boxes[:, 1, None]) & (centre <= boxes[:, 3, None])
    union = (y_in[:, :, None] & x_in[:, None, :]).any(0)
    return float(picture[union].sum() / max(picture.sum(), 1e-12))


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(4,) x (N, 4) -> (N,)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    return inner / np.maximum(areas(box) + areas(boxes) - inner, 1e-9)


@dataclass(frozen=True)
class Grounding:
    """Per-phrase outcomes; :meth:`figures` sums them up in percent."""

    small: np.ndarray
    top_box: np.ndarray
    painted: np.ndarray
    mass: np.ndarray
    found: np.ndarray
    bound: np.ndarray

    def figures(self) -> dict[str, float]:
        def percent(values: np.ndarray) -> float:
            return 100.0 * float(values.mean()) if len(values) else float("nan")

        table = {}
        for name in ("top_box", "painted", "mass", "found", "bound"):
            values = getattr(self, name)
            table[f"{name}_all"] = percent(values)
            table[f"{name}_small"] = percent(values[self.small])
        return {
            **table,
            "phrases": float(len(self.small)),
            "small_phrases": float(self.small.sum()),
        }


def ground(phrases: list[Phrase], maps: list[np.ndarray], regions: list[np.ndarray]) -> Grounding:
    """Outcomes for phrases with a map over regions each.

    Args:
        maps: of each phrase, (N,) weights over its photograph's regions.
        regions: of each phrase, (N, 4) boxes.

    ``top_box``: the centre of the heaviest region hits; ``painted``: the peak of the painted map
    hits; ``mass``: share of the painted map inside; ``found``: the heaviest region has IoU >= .5
    with a true box; ``bound``: some region has.
    """
    rows = []
    for phrase, weights, boxes in zip(phrases, maps, regions, strict=True):
        best = boxes[int(weights.argmax())]
        picture = paint(weights, boxes)
        overlaps = [iou(true, boxes).max() for true in phrase.boxes]
        rows.append(
            (
                phrase.small,
                inside((best[:2] + best[2:]) / 2, phrase.boxes),
                inside(peak(picture), phrase.boxes),
                mass_in(picture, phrase.boxes),
                iou(best, phrase.boxes).max() >= 0.5,
                max(overlaps) >= 0.5,
            )
        )
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return Grounding(table[:, 0].astype(bool), *table[:, 1:].T)


def baselines(phrases: list[Phrase], regions: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """Pointing without a map, in percent: image centre, centre of the largest region, random."""
    rng = np.random.default_rng(seed)
    small = np.array([phrase.small for phrase in phrases])
    centre = np.array([0.5, 0.5])
    figures: dict[str, float] = {}

    def add(name: str, points: list[np.ndarray]) -> None:
        hits = np.array([inside(p, q.boxes) for p, q in zip(points, phrases, strict=True)])
        figures[f"{name}_all"] = 100.0 * float(hits.mean())
        figures[f"{name}_small"] = 100.0 * float(hits[small].mean())

    def middle(box: np.ndarray) -> np.ndarray:
        return (box[:2] + box[2:]) / 2

    add("centre", [centre] * len(phrases))
    add("largest_region", [middle(boxes[areas(boxes).argmax()]) for boxes in regions])
    add("random_region", [middle(boxes[rng.integers(len(boxes))]) for boxes in regions])
    add("largest_true_box", [middle(q.boxes[areas(q.boxes).argmax()]) for q in phrases])
    return figures

"""What the page makes of one answer of the pipeline: no Streamlit, no model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossfuse.geometry import ClassTokens, Geometry, Joined, PointSegments
from crossfuse.trace import AttentionMap, Trace

# One colour a class, far apart for neighbours in a room; red, green, blue.
COLOURS = np.array(
    [
        (176, 190, 197), (121, 85, 72), (224, 224, 224), (255, 112, 67), (79, 195, 247),
        (255, 193, 7), (67, 160, 71), (0, 121, 107), (229, 57, 53), (126, 87, 194),
        (92, 107, 192), (141, 110, 99), (255, 241, 118), (139, 195, 74), (38, 50, 56),
        (0, 188, 212), (240, 98, 146), (149, 117, 205), (191, 54, 12), (216, 67, 171),
    ],
    np.uint8,
)  # fmt: skip
STRUCTURE = ("wall", "floor", "ceiling")
SURE = 0.5  # a class is ticked at first from this probability on


@dataclass(frozen=True)
class Segmentation:
    """Class (M,) and probability (M,) of every segment, for some set of ticked classes."""

    predicted: np.ndarray
    confidence: np.ndarray


def first_tags(outputs: Mapping[str, Any]) -> list[str]:
    """The classes to tick at first: those given, else those that the model is sure of."""
    if outputs["given_tags"]:
        return list(outputs["given_tags"])
    chance, names = outputs["tags"], outputs["classes"]
    chosen = [names[i] for i in np.flatnonzero(chance >= SURE)]
    return chosen or [names[int(np.argmax(chance))]]


def segmentation(outputs: Mapping[str, Any], ticked: Sequence[str]) -> Segmentation:
    """Softmax over the ticked classes of every segment's logits; over all if none is ticked."""
    names = outputs["classes"]
    allowed = np.array([name in ticked for name in names])
    if not allowed.any():
        allowed[:] = True
    logits = np.where(allowed, outputs["logits"], -np.inf)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return Segmentation(share.argmax(axis=1), share.max(axis=1).astype(np.float32))


def first_segment(outputs: Mapping[str, Any], found: Segmentation) -> int:
    """The segment to show at first: large, surely labelled, and no wall, floor or ceiling."""
    names = np.array(outputs["classes"])[found.predicted]
    size = np.sqrt(outputs["counts"]) * found.confidence
    furniture = np.where(np.isin(names, STRUCTURE), 0, size)
    return int(np.argmax(furniture if furniture.any() else size))


def turns_of(trace: Trace) -> tuple[int, ...]:
    """Who asks in each block of the decoder: 0 the cloud, 1 the photographs."""
    asks = {m.layer: m.query for m in trace.select(stage="decoder") if m.query != "classes"}
    return tuple(0 if asks[layer] == "segments" else 1 for layer in sorted(asks))


def display_geometries(
    trace: Trace,
    found: Segmentation,
    names: Sequence[str],
    called: Callable[[str, int], str],
) -> dict[str, Geometry]:
    """The geometries of the view: segments are called by their present class.

    ``called``: the name of a segment from its class and its number, counted from 1.
    """
    plain = trace.geometries["segments"]
    assert isinstance(plain, Joined)
    segments = plain.parts[0]
    assert isinstance(segments, PointSegments)
    labels = [called(names[c], i + 1) for i, c in enumerate(found.predicted)]
    named = PointSegments(segments.centroids, segments.counts, tuple(labels))
    result = dict(trace.geometries)
    classes = ClassTokens(tuple(names))
    result["classes"] = classes
    result["segments"] = Joined((named,), ("segments",))
    tokens = trace.geometries["tokens_3d"]
    assert isinstance(tokens, Joined)
    result["tokens_3d"] = Joined((classes, named), tokens.part_names)
    return result


def display_maps(trace: Trace) -> list[AttentionMap]:
    """The decoder's maps by head, what its class tokens ask once more in pairs, and its
    self-attention as the mean of the heads.

    In one turn the class tokens ask one side only. Stage ``classes`` puts two turns together, so
    that a class token shows its map on the photographs and on the cloud at once.
    """
    cross = list(trace.select(stage="decoder"))
    own = [
        AttentionMap(
            entry.stage,
            entry.layer,
            entry.direction,
            entry.query,
            entry.key,
            entry.weights.astype(np.float32).mean(axis=0, keepdims=True).astype(np.float16),
            heads=("mean",),
        )
        for entry in trace.select(stage="self")
    ]
    pairs = [
        replace(entry, stage="classes", layer=entry.layer // 2)
        for entry in cross
        if entry.query == "classes"
    ]
    return [*cross, *pairs, *own]


def class_table(
    outputs: Mapping[str, Any], found: Segmentation, scores: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """One row a class that is likely, found or there: tag probability, segments, points, IoU."""
    counts = outputs["counts"]
    names = outputs["classes"]
    rows = []
    for c, name in enumerate(names):
        mine = found.predicted == c
        truth = scores["present"][c] if scores else False
        if outputs["tags"][c] < 0.05 and not mine.any() and not truth:
            continue
        row = {
            "class": name,
            "probability": float(outputs["tags"][c]),
            "segments": int(mine.sum()),
            "points": float(counts[mine].sum() / max(counts.sum(), 1)),
        }
        if scores:
            value = scores["iou"][c]
            row["iou"] = None if np.isnan(value) else float(value)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["probability"])


def scores_of(outputs: Mapping[str, Any], found: Segmentation) -> dict[str, Any] | None:
    """IoU by class, their mean and the accuracy, where the input has labels of our classes."""
    if "labels" not in outputs or list(outputs["label_names"]) != list(outputs["classes"]):
        return None
    truth = outputs["labels"].astype(np.int64)
    known = truth >= 0
    if not known.any():
        return None
    answer = found.predicted[outputs["segment"].astype(np.int64)]
    size = len(outputs["classes"])
    table = np.bincount(truth[known] * size + answer[known], minlength=size * size)
    table = table.reshape(size, size)
    hit = np.diag(table)
    present = table.sum(1) > 0
    iou = np.where(present, hit / np.maximum(table.sum(0) + table.sum(1) - hit, 1), np.nan)
    return {
        "iou": iou,
        "present": present,
        "miou": float(np.nanmean(iou)),
        "accuracy": float(hit.sum() / table.sum()),
    }


def coloured_ply(outputs: Mapping[str, Any], found: Segmentation) -> bytes:
    """The drawn points as a binary PLY: position, class colour, class index, probability."""
    segment = outputs["segment"].astype(np.int64)
    label = found.predicted[segment]
    names = ", ".join(f"{i} {name}" for i, name in enumerate(outputs["classes"]))
    head = (
        "ply\nformat binary_little_endian 1.0\n"
        f"comment classes: {names}\nelement vertex {len(segment)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "property uchar label\nproperty float confidence\nend_header\n"
    )
    rows = np.zeros(
        len(segment),
        [("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "u1"), ("confidence", "<f4")],
    )
    rows["xyz"], rows["rgb"] = outputs["positions"], COLOURS[label % len(COLOURS)]
    rows["label"], rows["confidence"] = label, found.confidence[segment]
    return head.encode() + rows.tobytes()


def segments_csv(trace: Trace, outputs: Mapping[str, Any], found: Segmentation) -> bytes:
    """One line a segment: centre, points, class, probability."""
    plain = trace.geometries["segments"]
    assert isinstance(plain, Joined)
    segments = plain.parts[0]
    assert isinstance(segments, PointSegments)
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(["segment", "x_m", "y_m", "z_m", "points", "class", "probability"])
    for i, (c, p) in enumerate(zip(found.predicted, found.confidence, strict=True)):
        x, y, z = (f"{v:.3f}" for v in segments.centroids[i])
        name = outputs["classes"][c]
        table.writerow([i + 1, x, y, z, int(segments.counts[i]), name, f"{p:.4f}"])
    return buffer.getvalue().encode("utf-8-sig")

"""Scores of MIT: mIoU, point accuracy and tag average precision over whole scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crossfuse.models.mit import MIT
from crossfuse.models.mit_answers import segment_logits, tag_probabilities, with_tags
from crossfuse.training.mit_pooled import PooledScan, pooled_answer


def confusion(histogram: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(K, K) points of true class (row) by predicted class, from (M, K + 1) and (M,)."""
    classes = histogram.shape[1] - 1
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table.T, predicted, histogram[:, :-1])
    return table


def iou(table: np.ndarray) -> np.ndarray:
    """(K,) intersection over union; NaN for classes absent from the ground truth."""
    hit = np.diag(table).astype(np.float64)
    union = table.sum(0) + table.sum(1) - hit
    return np.where(table.sum(1) > 0, hit / np.maximum(union, 1), np.nan)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall steps of one class; NaN without a positive."""
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


@torch.inference_mode()
def score(model: MIT, scans: Sequence[PooledScan]) -> dict[str, Any]:
    """Percent mIoU and accuracy with predicted and with given tags, and tag mAP in 0..1."""
    names = model.config.classes
    tables = {key: np.zeros((len(names),) * 2, np.int64) for key in ("predicted", "given", "cam")}
    chance, truth, answered = [], [], []
    for scan in scans:
        out = pooled_answer(model, scan)
        tags = torch.from_numpy(scan.tags)[None].float()
        logits = segment_logits(out)
        guessed = tag_probabilities(out)
        ways = ((logits, guessed), (logits, tags), (out.cam_3d, tags))
        answered.append([with_tags(*way)[0].argmax(-1) for way in ways])
        chance.append(guessed[0])
        truth.append(scan.tags)
    for scan, answers in zip(scans, answered, strict=True):
        for key, labels in zip(tables, answers, strict=True):
            tables[key] += confusion(scan.histogram, labels.cpu().numpy())
    by_class = {key: iou(table) for key, table in tables.items()}
    found, wanted = torch.stack(chance).cpu().numpy(), np.array(truth)
    precision = [average_precision(found[:, c], wanted[:, c]) for c in range(len(names))]
    table = tables["predicted"]
    return {
        "scans": len(scans),
        "miou": round(100 * float(np.nanmean(by_class["predicted"])), 2),
        "miou_given_tags": round(100 * float(np.nanmean(by_class["given"])), 2),
        "miou_cam_given_tags": round(100 * float(np.nanmean(by_class["cam"])), 2),
        "accuracy": round(100 * float(np.diag(table).sum() / max(table.sum(), 1)), 2),
        "tag_map": round(float(np.nanmean(precision)), 4),
        "iou_by_class": {
            name: None if np.isnan(v) else round(100 * float(v), 1)
            for name, v in zip(names, by_class["predicted"], strict=True)
        },
        "tag_ap_by_class": {
            name: None if np.isnan(v) else round(float(v), 3)
            for name, v in zip(names, precision, strict=True)
        },
    }

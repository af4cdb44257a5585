"""The table of MIT's evaluation: variants over seeds, what they differ by, and a trivial answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossfuse.training.mit_pooled import PooledScan
from crossfuse.training.mit_score import confusion, iou

FIGURES = ("miou", "miou_given_tags", "miou_cam_given_tags", "accuracy", "tag_map")


def trivial(scans: Sequence[PooledScan]) -> dict[str, float]:
    """Scores of answering the most frequent class everywhere, and of ranking tags by chance."""
    total = sum(scan.histogram[:, :-1].sum(0) for scan in scans)
    usual = int(np.argmax(total))
    table = sum(confusion(s.histogram, np.full(len(s.histogram), usual)) for s in scans)
    tags = np.stack([scan.tags for scan in scans])
    return {
        "miou": round(100 * float(np.nanmean(iou(np.asarray(table)))), 2),
        "accuracy": round(100 * float(total[usual] / total.sum()), 2),
        "tag_map": round(float(tags[:, tags.any(0)].mean()), 4),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over seeds of rows with ``variant`` and the figures; and the differences.

    ``share_of_bound``: mIoU of 'interlaced' over the best supervised one; ``over_only_3d`` and
    ``over_not_interlaced`` in points of mIoU. Spread: sample standard deviation, None for one seed.
    """
    table: dict[str, Any] = {}
    for name in dict.fromkeys(str(row["variant"]) for row in rows):
        own = [row for row in rows if row["variant"] == name]
        table[name] = {"seeds": len(own)} | {
            figure: {
                "mean": round(float(np.mean([row[figure] for row in own])), 4),
                "sd": round(float(np.std([row[figure] for row in own], ddof=1)), 4)
                if len(own) > 1
                else None,
            }
            for figure in FIGURES
        }
    means = {name: entry["miou"]["mean"] for name, entry in table.items()}
    out: dict[str, Any] = {"variants": table}
    bounds = [value for name, value in means.items() if name.startswith("supervised")]
    if "interlaced" in means and bounds:
        out["share_of_bound"] = round(means["interlaced"] / max(*bounds, 1e-9), 3)
    for other in ("only_3d", "not_interlaced"):
        if {"interlaced", other} <= set(means):
            out[f"over_{other}"] = round(means["interlaced"] - means[other], 2)
    return out

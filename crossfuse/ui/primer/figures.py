"""Measured figures of the learnt projections, from their cards, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import streamlit as st

from crossfuse.ui.text import t
from crossfuse.weights import card

CARDS = {8: "feature_map_8", 16: "feature_map", 32: "feature_map_32"}
WAYS = ("trained", "frozen features", "random projections", "chance")


@lru_cache(maxsize=16)
def _measured(stride: int, data: str) -> tuple[str, Mapping[str, Any]]:
    """The figures on the data whose name begins so, with its full name."""
    metrics: Mapping[str, Any] = card(CARDS[stride])["metrics"]
    name = next(name for name in metrics if name.startswith(data))
    return name, metrics[name]


def correspondence_table(stride: int) -> None:
    """Finding the same place again, held-out crops and a stereo pair: learnt beside baselines."""
    found = [_measured(stride, data)[1] for data in ("crops", "stereo")]
    lines = [
        (
            t(f"primer.way_{way.split()[0]}"),
            *(
                f"{100 * figures[way][figure]:.0f} %"
                for figures in found
                for figure in ("hit_1", "mass_1")
            ),
        )
        for way in WAYS
    ]
    _table(["way", "crops_hit", "crops_mass", "stereo_hit", "stereo_mass"], lines)
    st.caption(t("primer.figures_correspondence", stride=stride))


def uses_table() -> None:
    """Segmentation, detection and transfer measured on photographs with boxes."""
    data, found = _measured(16, "uses")
    lines = []
    for way in ("frozen features", "trained"):
        one = found[way]
        lines.append(
            (
                t(f"primer.way_{way.split()[0]}"),
                f"{one['roc']:.2f}",
                f"{100 * one['peak']:.0f} %",
                f"{100 * one['iou']:.0f} %",
                f"{one['colour error']['through the map']:.1f}",
            )
        )
    base = found["trained"]
    errors = base["colour error"]
    lines += [
        (
            t("primer.way_middle"),
            f"{base['middle_roc']:.2f}",
            f"{100 * base['middle_peak']:.0f} %",
            "–",
            t("primer.way_grey", error=f"{errors['grey']:.1f}"),
        ),
        (
            t("primer.way_chance"),
            "0.50",
            f"{100 * base['random_peak']:.0f} %",
            "–",
            t("primer.way_mean", error=f"{errors['mean colour']:.1f}"),
        ),
    ]
    _table(["way", "segment", "detect", "box", "transfer"], lines)
    st.caption(t("primer.figures_uses", pairs=data.partition(" photo pairs")[0].split()[-1]))


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    head = [t(f"primer.figure_{name}") for name in columns]
    rule = ["---", *("--:" for _ in head[1:])]
    with st.container(key=f"figures_{columns[1]}"):
        st.markdown("\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines)))

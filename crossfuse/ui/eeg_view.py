"""The linked views of the EEG page, built from one result."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from crossfuse.geometry import Channels
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import MatrixPanel, ScalpPanel, TimeFrequencyPanel
from crossfuse.ui.text import t

if TYPE_CHECKING:
    from crossfuse.engine import Result

BOTH = ("DE asks PSD", "PSD asks DE")


def methods(result: Result) -> tuple[str, ...]:
    """Directions of the relevance maps that this result holds."""
    assert result.trace is not None
    return tuple(entry.direction for entry in result.trace.select(stage="relevance"))


def peak(result: Result) -> tuple[int, int]:
    """(band, window) of the cell with the largest effect on the score."""
    cells = effects(result)
    band, window = np.unravel_index(np.abs(cells).argmax(), cells.shape)
    return int(band), int(window)


def effects(result: Result) -> np.ndarray:
    """(bands, windows): effect of each cell on the score, or its departure from the baseline."""
    assert result.trace is not None
    shape = result.outputs["de"].shape[1:]
    if "cells" in result.outputs:
        found: np.ndarray = result.outputs["cells"]
        return found
    departure = result.trace.select(stage="relevance")[0].weights[0]
    summed: np.ndarray = departure.sum(-1).reshape(shape)
    return summed


def strongest_first(entry: AttentionMap, cells: np.ndarray) -> AttentionMap:
    """The same map with its rows ordered by effect: a view that is not pinned shows the first."""
    rows = np.arange(entry.weights.shape[1]) if entry.rows is None else entry.rows
    order = np.argsort(-np.abs(cells.ravel()[rows]), kind="stable")
    return AttentionMap(
        entry.stage,
        entry.layer,
        entry.direction,
        entry.query,
        entry.key,
        entry.weights[:, order],
        rows[order],
        entry.heads,
        entry.kind,
    )


def relevance_view(result: Result, method: str) -> Selection | None:
    """Bands x windows beside the head: what the score rests on."""
    assert result.trace is not None
    channels = cast(Channels, result.trace.geometries["channels"])
    cells = effects(result)
    entry = strongest_first(result.trace.select(stage="relevance", direction=method)[0], cells)
    total = entry.weights[0].sum(0)
    classified = "probability" in result.outputs
    return linked_view(
        "eeg_relevance",
        [
            TimeFrequencyPanel(
                "cells",
                title=t("eeg.cells_title"),
                base=cells,
                base_label=t("eeg.cells_base" if classified else "eeg.cells_departure"),
                line=result.outputs.get("probability"),
                line_label=t("eeg.probability"),
                span=result.outputs["baseline"],
                span_label=t("eeg.baseline_span"),
                width=1.75,
            ),
            ScalpPanel(
                "channels",
                title=t("eeg.scalp_title"),
                positions=channels.positions,
                base=total,
                base_label=t("eeg.scalp_base"),
            ),
        ],
        [entry],
        result.trace.geometries,
        title=t("eeg.relevance_file"),
        height=400,
        settings={"scale": "row", "top": 1},
        texts={
            "unit_relevance": t("eeg.unit_relevance"),
            "unit_departure": t("eeg.unit_departure"),
            "stage.relevance": t("eeg.stage_relevance"),
            "direction.occlusion": t("eeg.method_occlusion"),
            "direction.gradient": t("eeg.method_gradient"),
            "direction.departure": t("eeg.method_departure"),
        },
        model="mca_eeg",
        trace_meta=result.trace.meta,
    )


def fusion_view(result: Result, window: int, channel: int | None) -> Selection | None:
    """Channel x channel: whom a sensor asks, DE -> PSD beside PSD -> DE."""
    assert result.trace is not None
    channels = cast(Channels, result.trace.geometries["channels"])
    held = sorted({entry.layer for entry in result.trace.select(stage="fusion")})
    nearest = min(held, key=lambda one: abs(one - window))
    maps = result.trace.select(stage="fusion", layer=nearest)
    panels: list[MatrixPanel | ScalpPanel] = []
    for direction, name in zip(BOTH, ("de_psd", "psd_de"), strict=True):
        fixed = {"direction": direction}
        panels.append(
            ScalpPanel(
                "channels",
                title=t(f"eeg.scalp_{name}"),
                positions=channels.positions,
                fixed=fixed,
            )
        )
        panels.append(MatrixPanel("channels", title=t(f"eeg.matrix_{name}"), fixed=fixed))
    return linked_view(
        "eeg_fusion",
        panels,
        maps,
        {"channels": channels},
        title=t("eeg.fusion_file"),
        layout=[[0, 2], [1, 3]],
        height=360,
        selection=None if channel is None else Selection("channels", channel),
        settings={"scale": "row", "top": 3, "head": 0},
        texts={
            "axis_head": t("eeg.band"),
            "stage.fusion": t("eeg.stage_fusion"),
            "direction.DE asks PSD": t("eeg.direction_de_psd"),
            "direction.PSD asks DE": t("eeg.direction_psd_de"),
        },
        model="mca_eeg",
        trace_meta=result.trace.meta,
    )

"""The linked views of the EEG page, built from one result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from crossfuse.data.eeg.simulated import PLANT, Plant
from crossfuse.geometry import Channels, TimeFrequency
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


@dataclass(frozen=True)
class Strongest:
    """The cell with the largest effect, its electrode, and the share of all effects (absolute)
    that lies in the planted time."""

    band: str
    start: float
    stop: float
    channel: str
    share: float


def strongest(result: Result) -> Strongest:
    """Where relevance by occlusion is highest."""
    assert result.trace is not None
    cells = np.abs(effects(result))
    band, window = peak(result)
    times = result.outputs["times"]
    row = result.trace.select(stage="relevance")[0].row(band * cells.shape[1] + window)
    assert row is not None
    truth = planted(result) or PLANT
    inside = (times[:, 1] > truth.start) & (times[:, 0] < truth.stop)
    axis = cast(TimeFrequency, result.trace.geometries["cells"])
    return Strongest(
        axis.bands[band],
        float(times[window, 0]),
        float(times[window, 1]),
        result.trace.geometries["channels"].labels[int(np.abs(row).argmax())],
        float(cells[:, inside].sum() / cells.sum()),
    )


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


def _spans(result: Result) -> tuple[tuple[float, float, str], ...]:
    spans = []
    if result.outputs["baseline"] is not None:
        start, stop = result.outputs["baseline"]
        spans.append((start, stop, t("eeg.baseline_span")))
    if truth := planted(result):
        spans.append((truth.start, truth.stop, t("eeg.planted_span")))
    return tuple(spans)


def planted(result: Result) -> Plant | None:
    """What was planted in the simulated recording; None for any other."""
    assert result.trace is not None
    return PLANT if result.trace.meta["recording"]["format"] == "simulated" else None


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
                spans=_spans(result),
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


def nearest(result: Result, stage: str, window: int) -> tuple[int, tuple[AttentionMap, ...]]:
    """The held window next to this one, and the stage's maps of it."""
    assert result.trace is not None
    held = {entry.layer for entry in result.trace.select(stage=stage)}
    found = min(sorted(held), key=lambda one: abs(one - window))
    return found, tuple(result.trace.select(stage=stage, layer=found))


def fusion_view(result: Result, window: int, channel: int | None) -> Selection | None:
    """Channel x channel: whom a sensor asks, DE -> PSD beside PSD -> DE."""
    assert result.trace is not None
    channels = cast(Channels, result.trace.geometries["channels"])
    _, maps = nearest(result, "fusion", window)
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


def scaling_view(result: Result, window: int, channel: int | None) -> Selection | None:
    """DE asks PSD under three scales of the same features: where decibels saturate the softmax."""
    assert result.trace is not None
    _, maps = nearest(result, "scaling", window)
    facts = result.outputs["saturation_by_scale"]
    channels = cast(Channels, result.trace.geometries["channels"])
    panels: list[MatrixPanel | ScalpPanel] = []
    for name, (top, _) in facts.items():
        fixed = {"direction": name}
        title = t(f"eeg.scaling_{name}", top=f"{top:.2f}")
        panels.append(MatrixPanel("channels", title=title, fixed=fixed))
        panels.append(ScalpPanel("channels", positions=channels.positions, fixed=fixed))
    return linked_view(
        "eeg_scaling",
        panels,
        maps,
        {"channels": channels},
        title=t("eeg.scaling_file"),
        layout=[[0, 2, 4], [1, 3, 5]],
        height=330,
        selection=None if channel is None else Selection("channels", channel),
        settings={"scale": "map", "top": 3, "head": 0},
        texts={
            "axis_head": t("eeg.band"),
            "stage.scaling": t("eeg.stage_scaling"),
            **{f"direction.{name}": t(f"eeg.normalise_{name}") for name in facts},
        },
        model="mca_eeg",
        trace_meta=result.trace.meta,
        on_select="ignore",
    )


def time_view(result: Result, window: int) -> Selection | None:
    """Windows x windows, the extension: which moments a moment resembles, in both directions."""
    assert result.trace is not None
    windows = cast(TimeFrequency, result.trace.geometries["windows"])
    start = result.outputs["times"][window, 0]
    step = int(np.searchsorted(windows.times[:, 0], start, side="right")) - 1
    panels: list[MatrixPanel | TimeFrequencyPanel] = []
    for direction, name in zip(BOTH, ("de_psd", "psd_de"), strict=True):
        fixed = {"direction": direction}
        panels.append(MatrixPanel("windows", title=t(f"eeg.time_matrix_{name}"), fixed=fixed))
        panels.append(
            TimeFrequencyPanel(
                "windows", title=t(f"eeg.time_{name}"), fixed=fixed, spans=_spans(result)
            )
        )
    return linked_view(
        "eeg_time",
        panels,
        result.trace.select(stage="time"),
        {"windows": windows},
        title=t("eeg.time_file"),
        layout=[[0, 2], [1], [3]],
        height=360,
        selection=Selection("windows", max(0, min(step, len(windows) - 1))),
        settings={"scale": "row", "top": 3, "head": 0},
        texts={
            "axis_head": t("eeg.band"),
            "stage.time": t("eeg.stage_time"),
            "direction.DE asks PSD": t("eeg.direction_de_psd"),
            "direction.PSD asks DE": t("eeg.direction_psd_de"),
        },
        model="mca_eeg",
        trace_meta=result.trace.meta,
        on_select="ignore",
    )

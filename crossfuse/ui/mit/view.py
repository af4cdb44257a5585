"""The linked view of a room: turns of the decoder, the cloud, the photographs, the class tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossfuse.engine import Result
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import PhotosPanel, PointsPanel, TurnsPanel, WordsPanel
from crossfuse.ui.mit.answer import (
    COLOURS,
    Segmentation,
    display_geometries,
    display_maps,
    first_segment,
    turns_of,
)
from crossfuse.ui.text import t


def points_panel(
    outputs: Mapping[str, Any],
    found: Segmentation,
    names: Sequence[str],
    *,
    title: str = "",
    labelled: bool = False,
) -> PointsPanel:
    """The cloud, coloured by its segments; ``labelled``: its labels mean these classes."""
    return PointsPanel(
        ("segments", "tokens_3d"),
        part="segments",
        title=title,
        width=1.35,
        positions=outputs["positions"],
        colours=outputs["colours"],
        segment=outputs["segment"],
        classes=tuple(names),
        class_colours=COLOURS,
        predicted=found.predicted,
        confidence=found.confidence,
        labels=outputs["labels"] if labelled else None,
    )


def draw_view(result: Result, found: Segmentation, *, labelled: bool) -> None:
    """Panels and maps of one answer, with the classes as they are ticked now."""
    trace, outputs = result.trace, result.outputs
    assert trace is not None
    names = [t(f"mit.class_{name}") for name in outputs["classes"]]
    panels = [
        TurnsPanel(
            title=t("mit.panel_turns"),
            stage="decoder",
            turns=turns_of(trace),
            sides=(t("mit.side_points"), t("mit.side_photos")),
        ),
        points_panel(outputs, found, names, title=t("mit.panel_points"), labelled=labelled),
        PhotosPanel(
            ("photos", "tokens_2d"),
            title=t("mit.panel_drawn" if outputs["drawn"] else "mit.panel_photos"),
            images=outputs["photos"],
        ),
        WordsPanel("classes", title=t("mit.panel_classes")),
    ]
    linked_view(
        "mit",
        panels,
        display_maps(trace),
        display_geometries(trace, found, names, _segment_name),
        title=t("mit.heading"),
        layout=[[0], [1, 2], [3]],
        height=520,
        settings={"stage": "decoder", "layer": 0, "scale": "row"},
        resting=Selection("segments", first_segment(outputs, found)),
        texts=_words(),
        model="mit",
        trace_meta=trace.meta,
        on_select="ignore",
    )


def _words() -> dict[str, str]:
    """What the view calls the stages, the turns of the decoder, and the directions."""
    keys = (
        "stage.decoder", "stage.classes", "stage.self",
        "layer.0", "layer.1", "layer.2", "layer.3", "layer.classes.0", "layer.classes.1",
        "direction.points->photos", "direction.photos->points", "direction.classes->photos",
        "direction.classes->points", "direction.points->points", "direction.photos->photos",
    )  # fmt: skip
    return {key: t(f"mit.{key.replace('.', '_').replace('->', '_')}") for key in keys} | {
        "axis_layer": t("mit.turn"),
        "turn_says.0": t("mit.turn_says_points"),
        "turn_says.1": t("mit.turn_says_photos"),
    }


def _segment_name(name: str, number: int) -> str:
    return t("mit.segment_name", name=name, number=number)

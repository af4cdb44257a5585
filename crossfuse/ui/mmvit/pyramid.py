"""The pyramid: views side by side at every stage, a cell asked, and the mass between views."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.data.images import Photo
from crossfuse.engine.messages import Result
from crossfuse.geometry import Geometry, Joined
from crossfuse.trace import Trace
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import ImageGridPanel, WordsPanel
from crossfuse.ui.shell import downloads
from crossfuse.ui.text import t
from crossfuse.viz.small_maps import heat_table

CLASS_TOKEN = "class token"


def draw(result: Result, photo: Photo, key: str = "mmvit_pyramid") -> None:
    """Asking views above, asked views below, for the stage and block that the reader chooses."""
    trace = result.trace
    assert trace is not None
    maps = [entry for entry in trace if entry.kind == "attention"]
    queries = {entry.query: trace.geometries[entry.query] for entry in maps}
    keys = {entry.key: trace.geometries[entry.key] for entry in maps}
    views = sorted({p for g in keys.values() for p in parts(g) if p != CLASS_TOKEN})
    panels = []
    for role, names in (("query", queries), ("key", keys)):
        for view in views:
            panels.append(
                ImageGridPanel(
                    with_part(names, view),
                    title=t(f"mmvit.panel_{role}", view=view_name(view)),
                    part=view,
                    role=role,  # type: ignore[arg-type]
                    image=photo.pixels,
                )
            )
        panels.append(
            WordsPanel(
                with_part(names, CLASS_TOKEN),
                title=t(f"mmvit.panel_{role}_class"),
                part=CLASS_TOKEN,
                role=role,  # type: ignore[arg-type]
                width=0.32,
            )
        )
    count = len(views) + 1
    first = next(entry for entry in maps if entry.direction == "across views")
    linked_view(
        key,
        panels,
        maps,
        trace.geometries,
        title=t("mmvit.pyramid"),
        layout=[range(count), range(count, 2 * count)],
        height=300,
        selection=Selection(first.query, middle(trace.geometries[first.query])),
        settings={"stage": first.stage, "direction": first.direction, "scale": "row"},
        texts=direction_texts(trace),
        model=trace.model,
        trace_meta=trace.meta,
        on_select="ignore",
    )
    st.caption(t("mmvit.pyramid_note"))
    downloads(
        {t("mmvit.trace"): ("mmvit_trace.npz", "application/octet-stream", trace.to_bytes)},
        key=key,
    )


def between(result: Result) -> None:
    """How much each view looks at each view, beside what an even spread would give."""
    outputs = result.outputs
    columns = st.columns(len(outputs["mass"]) or 1, gap="large")
    for column, mass, base, name in zip(
        columns, outputs["mass"], outputs["base"], outputs["mass_blocks"], strict=False
    ):
        views = [t("mmvit.view", number=i + 1) for i in range(len(base))]
        rows = [*(t("mmvit.asks", view=v) for v in views[: len(mass)]), t("mmvit.even")]
        with column:
            stage, layer, _ = name.split("/")
            st.markdown(f"**{stage_name(stage)}**, {t('mmvit.block', number=int(layer) + 1)}")
            table = np.vstack([mass, base])
            st.html(heat_table(table, rows, views, caption=t("mmvit.mass_alt"), unit_range=True))
    if not outputs["mass"]:
        st.caption(t("mmvit.one_view"))


def parts(geometry: Geometry) -> tuple[str, ...]:
    return geometry.part_names if isinstance(geometry, Joined) else ()


def with_part(geometries: dict[str, Geometry], part: str) -> tuple[str, ...]:
    return tuple(name for name, geometry in geometries.items() if part in parts(geometry))


def middle(geometry: Geometry) -> int:
    """The cell in the middle of the first view of a joined geometry."""
    assert isinstance(geometry, Joined)
    span = geometry.span("view 1")
    grid = geometry.parts[geometry.part_names.index("view 1")]
    return span.start + (grid.rows // 2) * grid.columns + grid.columns // 2  # type: ignore[attr-defined]


def view_name(part: str) -> str:
    return t("mmvit.view", number=int(part.removeprefix("view ")))


def stage_name(stage: str) -> str:
    return t("mmvit.stage", number=int(stage.removeprefix("stage ")))


def direction_texts(trace: Trace) -> dict[str, str]:
    """Names of stages and directions in the reader's language."""
    words = {"direction.across views": t("mmvit.across")}
    for entry in trace:
        if entry.stage.startswith("stage "):
            words[f"stage.{entry.stage}"] = stage_name(entry.stage)
        if entry.direction.startswith("view "):
            words[f"direction.{entry.direction}"] = view_name(entry.direction)
    return words

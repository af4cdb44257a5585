"""The pyramid: views side by side at every stage, a cell asked, and the mass between views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import streamlit as st

from crossfuse.data.images import Photo
from crossfuse.engine.messages import Result
from crossfuse.geometry import ClassTokens, Geometry, ImageGrid, Joined
from crossfuse.trace import AttentionMap, Trace
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import ImageGridPanel, WordsPanel
from crossfuse.ui.shell import downloads
from crossfuse.ui.state import choose
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
                    lines=role == "query",
                )
            )
        panels.append(
            WordsPanel(
                with_part(names, CLASS_TOKEN),
                title=t(f"mmvit.panel_{role}_class"),
                part=CLASS_TOKEN,
                role=role,  # type: ignore[arg-type]
                width=0.4,
            )
        )
    count = len(views) + 1
    first = next(entry for entry in maps if entry.direction == "across views")
    linked_view(
        key,
        panels,
        maps,
        spoken(trace.geometries),
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


def whole(result: Result, photo: Photo, key: str = "mmvit_whole") -> None:
    """All stages at once, from fine to coarse: who asks above, who is asked below."""
    trace = result.trace
    assert trace is not None
    maps = last_crossings(trace)
    panels: list[ImageGridPanel] = []
    lines: list[list[int]] = []
    roles: tuple[Literal["query", "key"], ...] = ("query", "key")
    for role in roles:
        names = [entry.query if role == "query" else entry.key for entry in maps]
        for view in sorted({p for n in names for p in parts(trace.geometries[n])} - {CLASS_TOKEN}):
            line = []
            for entry, name in zip(maps, names, strict=True):
                geometry = trace.geometries[name]
                if view not in parts(geometry):
                    continue
                grid = part_of(geometry, view)
                line.append(len(panels))
                panels.append(
                    ImageGridPanel(
                        name,
                        title=t(
                            f"mmvit.whole_{role}",
                            stage=stage_name(entry.stage),
                            view=view_name(view),
                            grid=f"{grid.columns} × {grid.rows}",
                        ),
                        part=view,
                        role=role,
                        fixed=place_of(entry),
                        image=photo.pixels,
                        lines=True,
                    )
                )
            lines.append(line)
    first = maps[min(1, len(maps) - 1)]
    linked_view(
        key,
        panels,
        maps,
        spoken(trace.geometries),
        title=t("mmvit.section_pyramid"),
        layout=lines,
        height=220,
        resting=Selection(first.query, middle(trace.geometries[first.query])),
        settings={"scale": "row", "read": "row"},
        texts=direction_texts(trace),
        model=trace.model,
        trace_meta=trace.meta,
        on_select="ignore",
    )


def heads(result: Result, photo: Photo) -> None:
    """Every head of one stage's cross block as pictures of its own."""
    trace = result.trace
    assert trace is not None
    maps = last_crossings(trace)
    stage = choose(
        t("mmvit.of_stage"),
        [entry.stage for entry in maps],
        key="mmvit_heads_stage",
        format_func=stage_name,
    )
    entry = next(e for e in maps if e.stage == stage)
    views = [p for p in parts(trace.geometries[entry.query]) if p != CLASS_TOKEN]
    asked = [p for p in parts(trace.geometries[entry.key]) if p != CLASS_TOKEN]
    panels = [
        ImageGridPanel(
            entry.query,
            title=t("mmvit.panel_query", view=view_name(view)),
            part=view,
            role="query",
            image=photo.pixels,
            lines=True,
        )
        for view in views
    ]
    lines = [list(range(len(views)))]
    for view in asked:
        for start in range(0, len(entry.heads), 4):
            line = []
            for head in range(start, min(start + 4, len(entry.heads))):
                line.append(len(panels))
                panels.append(
                    ImageGridPanel(
                        entry.key,
                        title=t("mmvit.head_of", head=head + 1, view=view_name(view)),
                        part=view,
                        role="key",
                        fixed={"head": head},
                        image=photo.pixels,
                    )
                )
            lines.append(line)
    linked_view(
        f"mmvit_heads_{entry.layer}",
        panels,
        [entry],
        spoken(trace.geometries),
        title=t("mmvit.section_heads"),
        layout=lines,
        height=220,
        resting=Selection(entry.query, middle(trace.geometries[entry.query])),
        settings={"scale": "row", **place_of(entry)},
        texts=direction_texts(trace),
        model=trace.model,
        trace_meta=trace.meta,
        on_select="ignore",
    )


def last_crossings(trace: Trace) -> list[AttentionMap]:
    """The last block of every stage in which the views meet (or view 1 asks, with one view)."""
    attention = [entry for entry in trace if entry.kind == "attention"]
    crossing = [entry for entry in attention if entry.direction == "across views"]
    return list({entry.stage: entry for entry in crossing or attention}.values())


def place_of(entry: AttentionMap) -> dict[str, str | int]:
    """The choices that lead to one map."""
    return {"stage": entry.stage, "layer": entry.layer, "direction": entry.direction}


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


def part_of(geometry: Geometry, view: str) -> ImageGrid:
    """The grid of one view in a joined geometry."""
    assert isinstance(geometry, Joined)
    grid = geometry.parts[geometry.part_names.index(view)]
    assert isinstance(grid, ImageGrid)
    return grid


def middle(geometry: Geometry) -> int:
    """The cell in the middle of the first view of a joined geometry."""
    assert isinstance(geometry, Joined)
    grid = part_of(geometry, "view 1")
    return geometry.span("view 1").start + (grid.rows // 2) * grid.columns + grid.columns // 2


def view_name(part: str) -> str:
    return t("mmvit.view", number=int(part.removeprefix("view ")))


def stage_name(stage: str) -> str:
    return t("mmvit.stage", number=int(stage.removeprefix("stage ")))


def direction_texts(trace: Trace) -> dict[str, str]:
    """Names of stages and directions in the reader's language."""
    words = {
        "direction.across views": t("mmvit.across"),
        "direction.class token": t("mmvit.class_token_item"),
        "direction.rollout": t("mmvit.carry_rollout"),
        "direction.relevance": t("mmvit.carry_relevance"),
    }
    for entry in trace:
        if entry.stage.startswith("stage "):
            words[f"stage.{entry.stage}"] = stage_name(entry.stage)
        if entry.direction.startswith("view "):
            words[f"direction.{entry.direction}"] = view_name(entry.direction)
    return words | part_texts(trace.geometries)


def part_texts(geometries: Mapping[str, Geometry]) -> dict[str, str]:
    """Names of the views in the reader's language, for read-outs."""
    views = {p for geometry in geometries.values() for p in parts(geometry)} - {CLASS_TOKEN}
    return {f"part.{view}": view_name(view) for view in views}


def spoken(geometries: Mapping[str, Geometry]) -> dict[str, Geometry]:
    """The geometries with the class token named in the reader's language."""
    named = ClassTokens((t("mmvit.class_token_item"),))
    return {
        name: Joined(
            tuple(named if isinstance(part, ClassTokens) else part for part in geometry.parts),
            geometry.part_names,
        )
        if isinstance(geometry, Joined)
        else geometry
        for name, geometry in geometries.items()
    }

"""What the decision rests on: class-token maps, and maps carried back to the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from crossfuse.data.images import Photo
from crossfuse.engine.messages import Request, Result
from crossfuse.geometry import Geometry, Joined, Tokens
from crossfuse.trace import AttentionMap, Trace
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import ImageGridPanel
from crossfuse.ui.mmvit.picture import mirrored, short
from crossfuse.ui.mmvit.pyramid import (
    CLASS_TOKEN,
    direction_texts,
    last_crossings,
    parts,
    place_of,
    stage_name,
    view_name,
)
from crossfuse.ui.shell import run_job
from crossfuse.ui.text import t

ASKER = "decision"


def draw(result: Result, photo: Photo) -> None:
    """Rollout and relevance over the picture, then the class token's row at every stage."""
    trace = result.trace
    assert trace is not None
    carried = [replace(entry, query=ASKER) for entry in trace if entry.query == "prediction"]
    titles = [t(f"mmvit.carry_{entry.direction}") for entry in carried]
    _grids("mmvit_carried", trace, carried, titles, photo, t("mmvit.carried"), one_line=True)
    st.markdown(t("mmvit.about_class_token"))
    rows = class_rows(trace)
    titles = [stage_name(entry.stage) for entry in rows]
    _grids("mmvit_class_token", trace, rows, titles, photo, t("mmvit.class_token"))


def _grids(
    key: str,
    trace: Trace,
    maps: list[AttentionMap],
    titles: list[str],
    photo: Photo,
    title: str,
    *,
    one_line: bool = False,
) -> None:
    """Every map on every view's grid; one line a view, or all in one."""
    geometries = {**trace.geometries, ASKER: Tokens((t("mmvit.decision"),))}
    views = sorted({p for e in maps for p in parts(geometries[e.key]) if p != CLASS_TOKEN})
    lines: list[list[int]] = []
    panels: list[ImageGridPanel] = []
    for view in views:
        line = []
        for entry, name in zip(maps, titles, strict=True):
            line.append(len(panels))
            panels.append(
                ImageGridPanel(
                    entry.key,
                    title=f"{name} · {view_name(view)}",
                    part=view,
                    role="key",
                    fixed=place_of(entry),
                    image=photo.pixels,
                )
            )
        lines.append(line)
    linked_view(
        key,
        panels,
        maps,
        geometries,
        title=title,
        layout=[[i for line in lines for i in line]] if one_line else lines,
        height=230,
        selection=Selection(ASKER, 0),
        settings={"scale": "row"},
        texts=direction_texts(trace),
        model=trace.model,
        trace_meta=trace.meta,
        on_select="ignore",
    )


def class_rows(trace: Trace) -> list[AttentionMap]:
    """The class token's row of the last cross block of every stage, all heads."""
    return [
        replace(
            entry, query=ASKER, direction="class token", weights=entry.weights[:, :1], rows=None
        )
        for entry in last_crossings(trace)
    ]


def stability(inputs: dict[str, Any], options: dict[str, Any], photo: Photo, base: Result) -> None:
    """The same class when the picture is mirrored, moved or seen closer."""
    request = Request(
        "mmvit",
        inputs,
        {
            **options,
            "flip": False,
            "zoom": 1.0,
            "variations": True,
            "target": base.outputs["target"],
        },
        page="mmvit/stable",
    )
    result = run_job(request)
    if result is None or result.trace is None:
        return
    trace, outputs = result.trace, result.outputs
    upright, turned = photo, mirrored(photo)
    if options["flip"]:
        upright, turned = turned, upright
    panels, maps = [], []
    geometries: dict[str, Geometry] = {"prediction": trace.geometries["prediction"]}
    for name, best, share in zip(
        outputs["variations"], outputs["best"], outputs["probability"], strict=True
    ):
        entry = trace.select(direction=name)[0]
        cells = trace.geometries[entry.key]
        assert isinstance(cells, Joined)
        # The finest view alone, as shares of its own sum: the same scale for every change.
        weights = entry.weights[..., cells.span("view 1")]
        maps.append(replace(entry, weights=weights / max(float(weights.sum()), 1e-12)))
        geometries[entry.key] = cells.parts[cells.part_names.index("view 1")]
        image = turned if name == "mirrored" else upright
        panels.append(
            ImageGridPanel(
                entry.key,
                title=f"{t(f'mmvit.change_{slug(name)}')} · {short(best)} {100 * share:.0f} %",
                role="key",
                fixed={"direction": name},
                image=image.pixels,
            )
        )
    linked_view(
        "mmvit_stable",
        panels,
        maps,
        geometries,
        title=t("mmvit.section_stable"),
        layout=[range(3), range(3, len(panels))],
        height=230,
        selection=Selection("prediction", 0),
        settings={"scale": "row"},
        texts={f"direction.{n}": t(f"mmvit.change_{slug(n)}") for n in outputs["variations"]},
        on_select="ignore",
    )
    same = sum(best == outputs["best"][0] for best in outputs["best"][1:])
    st.caption(t("mmvit.stable_said", same=same, all=len(panels) - 1))


def slug(name: str) -> str:
    """The name of a change as part of a text key."""
    return name.replace(" ", "_")

"""What learnt projections change against the raw features, on the same two photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from crossfuse.engine import Request, Result
from crossfuse.explain.controls import own_place, sharpness
from crossfuse.geometry import ImageGrid
from crossfuse.trace import AttentionMap, Trace
from crossfuse.ui.linked_view import Selection
from crossfuse.ui.primer.figures import correspondence_table
from crossfuse.ui.shell import run_job
from crossfuse.ui.text import t
from crossfuse.viz.blocks import tint_cells

# What the reader's temperature is multiplied by: the learnt scores have a tenth built in.
PROJECTIONS = {"features": 1.0, "trained": 10.0}


def draw(request: Request, result: Result, pinned: Selection | None, stride: int) -> None:
    """The pinned cell's row both ways, what they agree on, and what was measured."""
    st.subheader(t("primer.learnt"), anchor="learnt")
    st.markdown(t("primer.learnt_text"))
    answers = {str(request.options["projections"]): result}
    for name in PROJECTIONS:
        if name not in answers:
            other = run_job(_other(request, name), slot="primer_learnt")
            if other is None:
                return
            answers[name] = other
    traces = {name: answers[name].trace for name in PROJECTIONS}
    maps = {name: _entry(trace, pinned, stride) for name, trace in traces.items() if trace}
    one = maps["features"]
    assert traces["features"] is not None
    asking, asked = (traces["features"].geometries[name] for name in (one.query, one.key))
    assert isinstance(asking, ImageGrid)
    assert isinstance(asked, ImageGrid)
    item = pinned.item if pinned and pinned.geometry == one.query else _middle(asking)
    _pictures(maps, result.outputs[f"photo_{one.key[0]}"], asked, item)
    agree = _agreement(maps["features"], maps["trained"], asked)
    st.markdown(t("primer.learnt_agree", share=f"{100 * agree:.0f}", stride=one.stage[7:]))
    drawn = st.session_state.get("other") == "drawing"
    if drawn:
        shares = {n: f"{100 * own_place(entry, asking, asked):.0f}" for n, entry in maps.items()}
        st.markdown(t("primer.learnt_drawing", chance=f"{100 * 9 / len(asked):.0f}", **shares))
    correspondence_table(int(one.stage.rpartition(" ")[2]))


def _other(request: Request, name: str) -> Request:
    """The same request with the other way to queries and keys."""
    options = dict(request.options)
    factor = PROJECTIONS[name] / PROJECTIONS[str(options["projections"])]
    options |= {"projections": name, "temperature": float(options["temperature"]) * factor}
    return replace(request, options=options, page="primer/learnt")


def _entry(trace: Trace, pinned: Selection | None, stride: int) -> AttentionMap:
    """The map in which the pinned cell asks; else the first of the stride."""
    if pinned is not None:
        for entry in trace:
            if entry.query == pinned.geometry and entry.row(pinned.item) is not None:
                return entry
    return next(entry for entry in trace if entry.stage == f"stride {stride}")


def _middle(grid: ImageGrid) -> int:
    return grid.rows // 2 * grid.columns + grid.columns // 2


def _pictures(
    maps: dict[str, AttentionMap], photo: np.ndarray, asked: ImageGrid, item: int
) -> None:
    columns = st.columns([3, 3, 4], gap="small")
    for column, (name, entry) in zip(columns, maps.items(), strict=False):
        row = entry.row(item)
        if row is None:  # a large map holds evenly spaced rows only
            row = entry.weights[:, 0].astype(np.float32).mean(axis=0)
        column.image(tint_cells(photo, asked, row), width="stretch")
        column.markdown(
            t(
                f"primer.learnt_{name}",
                best=f"{100 * float(row.max()):.1f}",
                peak=f"{sharpness(entry):.1f}",
            )
        )


def _agreement(one: AttentionMap, two: AttentionMap, asked: ImageGrid) -> float:
    """Share of the rows whose strongest keys lie at most one cell apart."""
    best = [entry.weights.astype(np.float32).mean(axis=0).argmax(axis=-1) for entry in (one, two)]
    if best[0].shape != best[1].shape:
        return float("nan")
    apart = np.abs(asked.centres[best[0]] - asked.centres[best[1]]) / np.asarray(asked.cell)
    return float((apart.max(axis=1) <= 1.01).mean())

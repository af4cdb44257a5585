"""Chapter 2: two photographs look at each other through frozen features."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.engine import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.explain.controls import sharpness
from crossfuse.geometry import ImageGrid
from crossfuse.trace import Trace
from crossfuse.ui.jobs import asking
from crossfuse.ui.linked_view import ImageGridPanel, Selection, linked_view
from crossfuse.ui.linked_view.print_figures import print_figures
from crossfuse.ui.primer import learnt, uses
from crossfuse.ui.primer.photographs import choose_photo
from crossfuse.ui.shell import notes, run_job, show_error, trace_downloads, user_id
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

STRIDES = (8, 16, 32)
SIDE = 256  # pixels of the longer side that the encoder sees: 32 cells of 8 pixels
# The cell pinned at first, as shares of width and height: something worth asking about.
FIRST = {"astronaut": (0.44, 0.25), "chelsea": (0.33, 0.40), "camera": (0.42, 0.28)}


def draw() -> None:
    """Choices, the linked view, and what to try with it."""
    st.markdown(t("primer.photos_intro"))
    request = _ask()
    if request is None:
        return
    result = run_job(request, slot="primer_photos")
    if result is None or result.trace is None:
        return
    pinned = _view(result, result.trace, str(st.session_state["photo_a"]))
    with st.container(horizontal=True, vertical_alignment="center"):
        images = {name: result.outputs[f"photo_{name[0]}"] for name in result.trace.geometries}
        print_figures(
            "photographs", result.trace.maps, result.trace.geometries, pinned, images=images
        )
        trace_downloads(result.trace, "photographs")
    notes(result.notes)
    _controls_said(result.trace)
    st.divider()
    st.markdown(t("primer.photos_read"))
    if asking("primer_photos").fresh:
        st.divider()
        learnt.draw(request, result, pinned, STRIDES[1])
    if "photo_b" in result.outputs:
        st.divider()
        uses.draw(result, result.trace, STRIDES[1])


def _ask() -> Request | None:
    first, second, third = st.columns([3, 3, 4], gap="medium")
    with first:
        a = choose_photo("photo_a", t("primer.photo_asks"), "astronaut")
    with second:
        b = choose_photo("photo_b", t("primer.photo_asked"), "camera")
    with third:
        treatment = choose(
            t("primer.treatment"),
            ["asis", "shuffle", "blank", "self", "drawing"],
            key="other",
            format_func=lambda name: t(f"primer.treatment_{name}"),
            style="select",
            help=t("primer.treatment_help"),
        )
    left, middle, right = st.columns([3, 3, 4], gap="medium", vertical_alignment="bottom")
    with left:
        temperature = st.slider(
            t("primer.photo_temperature"), 0.02, 0.5, 0.1, 0.02, key="sharp",
            bind="query-params", help=t("primer.photo_temperature_help"),
        )  # fmt: skip
    with right:
        projections = choose(
            t("primer.projections_of"), list(learnt.PROJECTIONS), key="projections",
            format_func=lambda name: t(f"primer.projections_{name}"),
            help=t("primer.projections_help"),
        )  # fmt: skip
    with middle:
        heads = choose(
            t("primer.heads"), ["1", "2", "4"] if projections == "features" else ["2"],
            key="photo_heads" if projections == "features" else "learnt_heads",
            help=t("primer.photo_heads_help"),
        )  # fmt: skip
    inputs: dict[str, str | bytes | np.ndarray] = {"a": a.source}
    try:
        if treatment == "drawing":
            inputs["b"] = a.treated(treatment)
        elif treatment != "self":
            inputs["b"] = b.treated(treatment)
    except CrossfuseError as error:
        show_error(error)
        return None
    options = {
        "strides": STRIDES,
        "longest_side": SIDE,
        "heads": int(heads),
        "temperature": temperature * learnt.PROJECTIONS[projections],
        "projections": projections,
    }
    return Request("feature_map", inputs, options, user=user_id(), page="primer/photos")


def _view(result: Result, trace: Trace, photo: str) -> Selection | None:
    asks = tuple(name for name in trace.geometries if name.startswith("a"))
    asked = tuple(name for name in trace.geometries if name.startswith("b"))
    photo_a = result.outputs["photo_a"]
    middle = f"a{STRIDES[1]}"
    if asked:
        panels = [
            ImageGridPanel(asks, title=t(f"primer.photo_{photo}"), image=photo_a),
            ImageGridPanel(asked, title=t("primer.panel_asked"), image=result.outputs["photo_b"]),
        ]
    else:
        panels = [
            ImageGridPanel(asks, title=t("primer.panel_asks"), image=photo_a, role="query"),
            ImageGridPanel(asks, title=t("primer.panel_itself"), image=photo_a, role="key"),
        ]
    texts = {f"stage.stride {stride}": t("primer.stride", stride=stride) for stride in STRIDES}
    texts |= {
        f"direction.{way}": t(f"primer.direction_{way[0]}{way[-1]}")
        for way in ("a->b", "b->a", "a->a")
    }
    pinned = linked_view(
        "photos",
        panels,
        trace.maps,
        trace.geometries,
        title=t("primer.chapter_photos"),
        height=430,
        selection=_pin_of_link(trace) or _first_pin(trace, middle, photo),
        settings={"stage": f"stride {STRIDES[1]}"},
        texts=texts,
        model=trace.model,
        trace_meta=trace.meta,
    )
    if pinned is not None:
        st.query_params["at"] = f"{pinned.geometry}.{pinned.item}"
    return pinned


def _pin_of_link(trace: Trace) -> Selection | None:
    """The cell named in ``?at=a16.34``, if these photographs have it."""
    name, _, item = str(st.query_params.get("at", "")).partition(".")
    known = name in trace.geometries and item.isdecimal() and len(item) < 7
    if known and int(item) < len(trace.geometries[name]):
        return Selection(name, int(item))
    return None


def _first_pin(trace: Trace, name: str, photo: str) -> Selection:
    grid = trace.geometries[name]
    assert isinstance(grid, ImageGrid)
    wanted = np.array(FIRST.get(photo, (0.5, 0.5))) * grid.image_size
    return Selection(name, int(((grid.centres - wanted) ** 2).sum(axis=1).argmin()))


def _controls_said(trace: Trace) -> None:
    """How peaked the map is at each stride: the control of a blank photograph gives 1."""
    columns = st.columns(len(STRIDES))
    for column, stride in zip(columns, STRIDES, strict=True):
        entry = next(entry for entry in trace if entry.stage == f"stride {stride}")
        column.metric(
            t("primer.sharpness", stride=stride),
            f"{sharpness(entry):.1f} ×",
            help=t("primer.sharpness_help"),
            border=True,
        )

"""Draws the page of MIT: collect a room, ask the engine, place the views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from crossfuse.data.sample_rooms import sample_facts, sample_names
from crossfuse.engine import Request, Result
from crossfuse.ui.mit.answer import (
    Segmentation,
    class_table,
    coloured_ply,
    first_tags,
    scores_of,
    segmentation,
    segments_csv,
)
from crossfuse.ui.mit.view import draw_view
from crossfuse.ui.shell import (
    downloads,
    notes,
    page_header,
    run_job,
    run_page,
    trace_files,
    upload_files,
    user_id,
)
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

OWN = "own"
CLOUDS = (
    "ply", "pcd", "xyz", "txt", "csv", "pts", "las", "laz", "npz", "npy", "obj", "glb", "stl",
    "off", "zip",
)  # fmt: skip
PHOTOS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
UNITS = ("auto", "metres", "centimetres", "millimetres")
UPS = ("auto", "z", "-z", "y", "-y", "x", "-x")
MEANINGS = ("auto", "crossfuse", "nyu40", "scannet20", "s3dis")
FIRST = "living_room"
FOUND = "_mit_found"  # how the last upload was read: unit, up axis, whether its labels are known


def draw() -> None:
    """The whole page."""
    page_header("mit")
    run_page(_body)


def _body() -> None:
    request = _collect()
    if request is None:
        return
    result = run_job(request)
    if result is None or result.trace is None:
        return
    _remember(result, request)
    outputs = result.outputs
    view = st.container()  # above the tags, which decide what it shows
    found = segmentation(outputs, _tags(result))
    scores = scores_of(outputs, found)
    with view:
        draw_view(result, found, labelled=scores is not None)
    st.caption(t("mit.one_vector"))
    notes(result.notes)
    _below(outputs, found, scores)
    _take_away(result, found, request)


def _collect() -> Request | None:
    """The request that the reader's choices describe; None until there is a cloud."""
    rooms = [*sorted(sample_names(), key=lambda name: name != FIRST), OWN]
    with st.container(horizontal=True, vertical_alignment="center"):
        room = choose(
            t("mit.room"), rooms, key="room", format_func=lambda name: t(f"mit.room_{name}"),
            label_visibility="collapsed",
        )  # fmt: skip
        if room != OWN:
            facts = sample_facts(room)
            st.caption(t("mit.sample_note", count=len(facts["meshes"])), width="content")
    if room != OWN:
        return Request("mit", {"cloud": room}, user=user_id(), page="mit")
    left, right = st.columns(2)
    with left:
        clouds = upload_files(t("mit.cloud"), key="mit_cloud", types=CLOUDS, limit_mb=200)
    with right:
        photos = upload_files(
            t("mit.photos"), key="mit_photos", types=PHOTOS, limit_mb=20, several=True,
            help=t("mit.photos_help"),
        )  # fmt: skip
    if not clouds:
        st.session_state.pop(FOUND, None)
        st.info(t("mit.bring"), icon=":material/view_in_ar:")
        return None
    inputs: dict[str, Any] = {"cloud": clouds[0].data, "cloud_name": clouds[0].name}
    if photos:
        inputs["photos"] = tuple(photo.data for photo in photos)
        inputs["photo_names"] = tuple(photo.name for photo in photos)
    return Request("mit", inputs, _how_to_read(clouds[0].digest), user=user_id(), page="mit")


def _how_to_read(digest: str) -> dict[str, Any]:
    """Unit, up axis and meaning of the labels: what was found is shown, and can be changed."""
    found = st.session_state.get(FOUND, {})
    found = found if found.get("digest") == digest else {}

    def unit_name(name: str) -> str:
        if name == "auto" and found:
            return t("mit.found", value=t(f"mit.unit_{found['unit']}"))
        return t(f"mit.unit_{name}")

    def up_name(name: str) -> str:
        if name == "auto":
            return t("mit.found", value=found["up"]) if found else t("mit.unit_auto")
        return name

    with st.container(horizontal=True):
        unit = choose(
            t("mit.unit"), UNITS, key="unit", format_func=unit_name, style="select",
            help=t("mit.unit_help"),
        )  # fmt: skip
        up = choose(t("mit.up"), UPS, key="up", style="select", format_func=up_name)
        meaning = "auto"
        if found.get("labels"):
            meaning = choose(
                t("mit.labels"), MEANINGS, key="labels", style="select", help=t("mit.labels_help"),
                format_func=lambda name: t(f"mit.labels_{name}"),
            )  # fmt: skip
    return {"unit": unit, "up": up, "labels": meaning}


def _remember(result: Result, request: Request) -> None:
    """Keep how an upload was read, and draw its choices once more with it."""
    if "cloud_name" not in request.inputs:
        return
    read = result.outputs["read_as"]
    digest = next(u.digest for u in st.session_state["_uploads_mit_cloud"] if u is not None)
    now = {"digest": digest, **read}
    if st.session_state.get(FOUND) != now:
        st.session_state[FOUND] = now
        st.rerun()


def _tags(result: Result) -> list[str]:
    """Classes to tick; the segmentation follows at once, without the model."""
    outputs = result.outputs
    chance = dict(zip(outputs["classes"], outputs["tags"], strict=True))
    listed = sorted(outputs["classes"], key=lambda name: -chance[name])
    mark = hash(outputs["logits"].tobytes())
    ticked = st.pills(
        t("mit.tags"),
        listed,
        selection_mode="multi",
        default=first_tags(outputs),
        format_func=lambda name: f"{t(f'mit.class_{name}')} {chance[name]:.0%}",
        key=f"_mit_tags_{mark}",
        help=t("mit.tags_help"),
    )
    return list(ticked)


def _below(
    outputs: Mapping[str, Any], found: Segmentation, scores: Mapping[str, Any] | None
) -> None:
    left, right = st.columns([3, 2], gap="large")
    with left:
        rows = class_table(outputs, found, scores)
        shown = [{**row, "class": t(f"mit.class_{row['class']}")} for row in rows]
        percent = st.column_config.ProgressColumn
        st.dataframe(
            shown,
            hide_index=True,
            column_config={
                "class": t("mit.column_class"),
                "probability": percent(t("mit.column_tag"), format="percent", max_value=1.0),
                "segments": t("mit.column_segments"),
                "points": st.column_config.NumberColumn(t("mit.column_points"), format="percent"),
                "iou": st.column_config.NumberColumn("IoU", format="percent"),
            },
        )
    with right:
        if scores:
            with st.container(horizontal=True):
                st.metric("mIoU", f"{scores['miou']:.1%}", help=t("mit.miou_help"))
                st.metric(t("mit.accuracy"), f"{scores['accuracy']:.1%}")
        with st.container(horizontal=True):
            st.metric(t("mit.segments"), len(outputs["counts"]))
            st.metric(t("mit.points"), f"{int(np.sum(outputs['counts'])):,}")
        x, y, z = (f"{side:.1f}" for side in outputs["size_m"])
        st.caption(t("mit.size", x=x, y=y, z=z))
        st.caption(t("mit.honest"))


def _take_away(result: Result, found: Segmentation, request: Request) -> None:
    assert result.trace is not None
    trace, outputs = result.trace, result.outputs
    name = request.inputs["cloud"] if isinstance(request.inputs["cloud"], str) else "room"
    downloads(
        {
            "PLY": (
                f"{name}-labelled.ply",
                "application/octet-stream",
                lambda: coloured_ply(outputs, found),
            ),
            t("mit.segments_csv"): (
                f"{name}-segments.csv",
                "text/csv",
                lambda: segments_csv(trace, outputs, found),
            ),
            **trace_files(trace, f"mit-{name}"),
        },
        key="mit",
    )

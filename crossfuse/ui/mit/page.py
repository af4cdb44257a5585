"""Draws the page of MIT: collect a room, ask the engine, place the views."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.data.sample_rooms import sample_facts, sample_names
from crossfuse.engine import Request, Result
from crossfuse.ui.linked_view import linked_view
from crossfuse.ui.linked_view.panels import PhotosPanel, PointsPanel, WordsPanel
from crossfuse.ui.mit.answer import (
    COLOURS,
    Segmentation,
    class_table,
    coloured_ply,
    display_geometries,
    display_maps,
    first_tags,
    scores_of,
    segmentation,
    segments_csv,
)
from crossfuse.ui.shell import (
    downloads,
    notes,
    page_header,
    run_job,
    run_page,
    trace_downloads,
    upload_files,
    user_id,
)
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

OWN = "own"
CLOUDS = ("ply", "pcd", "xyz", "txt", "csv", "pts", "las", "laz", "npz", "npy", "obj", "glb", "stl")
PHOTOS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")
FIRST = "living_room"


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
    ticked = _tags(result)
    found = segmentation(result.outputs, ticked)
    _legend(result, found)
    _view(result, found)
    notes(result.notes)
    _below(result, found)
    _take_away(result, found, request)


def _collect() -> Request | None:
    """The request that the reader's choices describe; None until there is a cloud."""
    rooms = [*sorted(sample_names(), key=lambda name: name != FIRST), OWN]
    room = choose(
        t("mit.room"), rooms, key="room", format_func=lambda name: t(f"mit.room_{name}"),
        label_visibility="collapsed",
    )  # fmt: skip
    if room != OWN:
        facts = sample_facts(room)
        st.caption(t("mit.sample_note", count=len(facts["meshes"])))
        return Request("mit", {"cloud": room}, user=user_id(), page="mit")
    left, right = st.columns(2)
    with left:
        clouds = upload_files(t("mit.cloud"), key="mit_cloud", types=CLOUDS, limit_mb=200)
    with right:
        photos = upload_files(
            t("mit.photos"), key="mit_photos", types=PHOTOS, limit_mb=20, several=True
        )
    with st.container(horizontal=True):
        unit = choose(
            t("mit.unit"), ["auto", "metres", "centimetres", "millimetres"], key="unit",
            format_func=lambda name: t(f"mit.unit_{name}"), style="select",
        )  # fmt: skip
        up = choose(
            t("mit.up"), ["auto", "z", "-z", "y", "-y", "x", "-x"], key="up", style="select",
            format_func=lambda name: t("mit.unit_auto") if name == "auto" else name,
        )  # fmt: skip
    if not clouds:
        st.info(t("mit.bring"), icon=":material/view_in_ar:")
        return None
    inputs = {"cloud": clouds[0].data, "cloud_name": clouds[0].name}
    if photos:
        inputs["photos"] = tuple(photo.data for photo in photos)
        inputs["photo_names"] = tuple(photo.name for photo in photos)
    return Request("mit", inputs, {"unit": unit, "up": up}, user=user_id(), page="mit")


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


def _legend(result: Result, found: Segmentation) -> None:
    """The colours of the classes that are there."""
    present = np.unique(found.predicted)
    chips = "".join(
        '<span style="display:inline-flex;align-items:center;gap:6px;margin:0 14px 4px 0">'
        f'<span style="width:11px;height:11px;border-radius:3px;background:rgb{tuple(int(v) for v in COLOURS[c])}"></span>'  # noqa: E501
        f"{t('mit.class_' + result.outputs['classes'][c])}</span>"
        for c in present
    )
    st.html(f'<div style="font-size:13px">{chips}</div>')


def _view(result: Result, found: Segmentation) -> None:
    trace, outputs = result.trace, result.outputs
    assert trace is not None
    names = [t(f"mit.class_{name}") for name in outputs["classes"]]
    labels = outputs.get("labels") if scores_of(outputs, found) else None
    panels = [
        PointsPanel(
            ("segments", "tokens_3d"),
            part="segments",
            title=t("mit.panel_points"),
            width=1.35,
            positions=outputs["positions"],
            colours=outputs["colours"],
            segment=outputs["segment"],
            classes=tuple(names),
            class_colours=COLOURS,
            predicted=found.predicted,
            confidence=found.confidence,
            labels=labels,
        ),
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
        display_geometries(trace, found, names),
        title=t("mit.heading"),
        layout=[[0, 1], [2]],
        height=520,
        settings={"stage": "decoder", "layer": 0, "scale": "row"},
        texts=_words(),
        model="mit",
        trace_meta=trace.meta,
        on_select="ignore",
    )
    st.caption(t("mit.one_vector"))


def _words() -> dict[str, str]:
    """What the view calls the stages, the turns of the decoder, and the directions."""
    keys = (
        "stage.decoder", "stage.self", "layer.0", "layer.1", "layer.2", "layer.3",
        "direction.points->photos", "direction.photos->points", "direction.classes->photos",
        "direction.classes->points", "direction.points->points", "direction.photos->photos",
    )  # fmt: skip
    return {key: t(f"mit.{key.replace('.', '_').replace('->', '_')}") for key in keys} | {
        "axis_layer": t("mit.turn")
    }


def _below(result: Result, found: Segmentation) -> None:
    outputs = result.outputs
    scores = scores_of(outputs, found)
    left, right = st.columns([3, 2], gap="large")
    with left:
        rows = class_table(outputs, found)
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
        },
        key="mit",
    )
    trace_downloads(trace, f"mit-{name}")

"""Two pictures side by side: the relevance of each one's own prediction."""

from __future__ import annotations

from typing import Any

import streamlit as st

from crossfuse.data.images import Photo
from crossfuse.engine.messages import Request, Result
from crossfuse.geometry import Geometry, Tokens
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import ImageGridPanel
from crossfuse.ui.mmvit.decision import ASKER
from crossfuse.ui.mmvit.picture import choose_picture, seen_photo, short
from crossfuse.ui.mmvit.pyramid import part_texts, parts, view_name
from crossfuse.ui.shell import run_job
from crossfuse.ui.text import t


def draw(result: Result, photo: Photo, options: dict[str, Any]) -> None:
    """Choose a second picture; both are drawn on one colour scale, each on its own grid."""
    first = st.session_state.get("mmvit_picture")
    second = choose_picture("mmvit_second", first="chelsea" if first == "coffee" else "coffee")
    if second is None:
        return
    other = run_job(Request("mmvit", second[0], options, page="mmvit/pair"))
    if other is None:
        return
    geometries: dict[str, Geometry] = {ASKER: Tokens((t("mmvit.decision"),))}
    maps: list[AttentionMap] = []
    panels = []
    for name, answer, picture in (
        ("first", result, photo),
        ("second", other, seen_photo(second[1], options)),
    ):
        assert answer.trace is not None
        entry = answer.trace.select(direction="relevance")[0]
        geometries[name] = answer.trace.geometries[entry.key]
        maps.append(
            AttentionMap(
                entry.stage, entry.layer, name, ASKER, name, entry.weights, kind="relevance"
            )
        )
        best = short(answer.outputs["classes"][0])
        for view in parts(geometries[name]):
            panels.append(
                ImageGridPanel(
                    name,
                    title=f"{best} {100 * answer.outputs['probabilities'][0]:.0f} % · "
                    f"{view_name(view)}",
                    part=view,
                    role="key",
                    fixed={"direction": name},
                    image=picture.pixels,
                )
            )
    linked_view(
        "mmvit_pair",
        panels,
        maps,
        geometries,
        title=t("mmvit.section_pair"),
        height=260,
        selection=Selection(ASKER, 0),
        settings={"scale": "map"},
        texts={
            "direction.first": t("mmvit.first"),
            "direction.second": t("mmvit.second"),
            **part_texts(geometries),
        },
        on_select="ignore",
    )
    st.caption(t("mmvit.pair_note"))

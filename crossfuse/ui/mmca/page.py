"""The MMCA page: a photograph, a sentence, and where each word looks."""

from __future__ import annotations

from typing import Any

import streamlit as st

from crossfuse.data.images import Photo
from crossfuse.data.sample_sentences import SWAPS
from crossfuse.engine.messages import Request, Result
from crossfuse.ui.mmca import card, compare, gallery, views
from crossfuse.ui.mmca.inputs import (
    FILE,
    KINDS,
    choose_photo,
    choose_regions,
    choose_sentence,
    region_file,
    variation,
)
from crossfuse.ui.shell import notes, page_header, run_job
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

SECTIONS = ("sentences", "heads", "gallery", "regions", "card")


def draw() -> None:
    """The whole page."""
    page_header("mmca")
    chosen = choose_photo()
    if chosen is None:
        return
    name, data, photo = chosen
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kind = choose_regions()
        sentence = choose_sentence(name)
    changed = variation(name, sentence)
    inputs: dict[str, Any] = {
        "photo": data,
        "text": sentence,
        "others": compare.others(sentence, changed),
    }
    if kind == FILE:
        inputs["features"] = region_file()
        if inputs["features"] is None:
            return
    request = Request("mmca", inputs, {} if kind == FILE else {"regions": kind}, page="mmca")
    result = run_job(request)
    if result is None:
        return
    notes((*photo.notes, *result.notes))
    word = SWAPS.get(name, ("", ""))[0]
    views.draw(result, photo, word)
    scores(result)
    section = choose(
        t("mmca.section"),
        SECTIONS,
        key="mmca_section",
        format_func=lambda s: t(f"mmca.section_{s}"),
        label_visibility="collapsed",
    )
    st.markdown(t(f"mmca.about_{section}"))
    draw_section(section, result, photo, word, changed, kind)


def draw_section(
    section: str, result: Result, photo: Photo, word: str, changed: str | None, kind: str
) -> None:
    """One of the sections below the view."""
    if section == "sentences":
        compare.draw(result, changed)
    elif section == "heads":
        views.heads(result, photo, word)
    elif section == "gallery":
        gallery.draw(str(result.outputs["sentences"][0]), kind if kind in KINDS else KINDS[0])
    elif section == "regions":
        views.regions(result, photo)
    else:
        card.draw()


def scores(result: Result) -> None:
    """S and its two terms, each with its meaning."""
    outputs = result.outputs
    rank = int((outputs["similarity"] > outputs["similarity"][0]).sum()) + 1
    shown: dict[str, str] = {
        "s": f"{outputs['similarity'][0]:.3f}",
        "separable": f"{outputs['separable'][0]:.3f}",
        "crossed": f"{outputs['crossed'][0]:.3f}",
        "rank": f"{rank} / {len(outputs['similarity'])}",
    }
    with st.container(horizontal=True, gap="large"):
        for key, value in shown.items():
            st.metric(
                t(f"mmca.score_{key}"), value, help=t(f"mmca.score_{key}_help"), width="content"
            )
    st.latex(rf"S = i_0\!\cdot c_0 + \alpha\, i_1\!\cdot c_1, \quad \alpha = {outputs['alpha']:g}")

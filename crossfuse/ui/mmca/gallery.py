"""A gallery search: a sentence, and the pictures in the order of their match."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from crossfuse.data.images import sample_photos
from crossfuse.data.sample_sentences import SENTENCES
from crossfuse.engine.messages import Request
from crossfuse.ui.mmca.inputs import OWN, sample_bytes, uploads
from crossfuse.ui.shell import notes, run_job
from crossfuse.ui.text import t

COLUMNS = 4


def draw(sentence: str, kind: str) -> None:
    """All samples and uploads, best first; a sample can be opened with its alignment."""
    text = st.text_input(
        t("mmca.search"), value=sentence, key="mmca_search", max_chars=4000, persist_state="session"
    )
    names = [name for name in SENTENCES if name in sample_photos()]
    own = uploads()
    files = [sample_bytes(name) for name in names] + [file.data for file in own]
    titles = [t(f"mmca.sample_{name}") for name in names] + [file.name for file in own]
    request = Request(
        "mmca",
        {"photos": tuple(files), "text": text},
        {"task": "gallery", "regions": kind},
        page="mmca/gallery",
    )
    result = run_job(request)
    if result is None:
        return
    notes(result.notes)
    columns: list[DeltaGenerator] = []
    for place, index in enumerate(result.outputs["order"]):
        if place % COLUMNS == 0:  # a line of its own, so that a phone shows them in order
            columns = st.columns(COLUMNS)
        with columns[place % COLUMNS]:
            st.image(files[index], width="stretch")
            st.text(f"{place + 1}. {titles[index]}")
            st.caption(f"S {result.outputs['similarity'][index]:.3f}")
            name = names[index] if index < len(names) else OWN
            st.button(
                t("mmca.open"),
                key=f"_open_{place}_{index}",
                type="tertiary",
                icon=":material/zoom_in:",
                on_click=_open,
                args=(name, text),
            )


def _open(name: str, text: str) -> None:
    """Show a picture of the gallery with the sentence that was searched for."""
    st.session_state["photo"] = name
    st.session_state["text"] = text
    st.session_state["_mmca_sentence_of"] = name

"""The traces of every channel of the file, and the channels that are bad or look it."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.engine.messages import Result
from crossfuse.ui.eeg.inputs import mark_bad, marked_bad
from crossfuse.ui.shell import escape_markdown
from crossfuse.ui.text import notice_words, t
from crossfuse.ui.traces import envelope, traces

PICKED = "_eeg_bad"


def draw(result: Result, digest: str, window: int) -> None:
    """Traces with a scrubber; a click on a channel's name marks it bad, another takes it back."""
    st.subheader(t("eeg.raw"), anchor="raw")
    bad_channels(result)
    _traces(result, digest, window)
    st.caption(t("eeg.raw_says"))


def bad_channels(result: Result) -> None:
    """What the criteria propose, each to be accepted or refused, and any other channel."""
    out = result.outputs
    eeg = [
        name
        for name, kind in zip(out["signal_names"], out["signal_kinds"], strict=True)
        if kind in ("eeg", "ref") and name not in out["bad_in_file"]
    ]
    proposed = {name: notice_words(why) for name, why in out["proposed"].items()}
    marked = tuple(name for name in marked_bad() if name in eeg)
    if proposed:
        # A pill is on while its channel is marked; the widget follows marks made elsewhere.
        st.session_state[PICKED] = [name for name in proposed if name in marked]
        st.pills(
            t("eeg.proposed"),
            list(proposed),
            selection_mode="multi",
            key=PICKED,
            format_func=lambda name: f"{escape_markdown(name)}: {proposed[name]}",
            help=t("eeg.proposed_help"),
            on_change=lambda: _accept(tuple(proposed)),
        )
    else:
        st.caption(f":material/check: {t('eeg.proposed_none')}")
    st.session_state["_eeg_marked"] = list(marked)
    st.multiselect(
        t("eeg.bad"),
        eeg,
        key="_eeg_marked",
        help=t("eeg.bad_help"),
        placeholder=t("eeg.bad_none"),
        on_change=lambda: mark_bad(tuple(st.session_state["_eeg_marked"])),
    )
    if out["bad_in_file"]:
        st.caption(t("eeg.bad_in_file", names=escape_markdown(", ".join(out["bad_in_file"]))))


def _accept(proposed: tuple[str, ...]) -> None:
    others = tuple(name for name in marked_bad() if name not in proposed)
    mark_bad((*others, *st.session_state[PICKED]))


@st.cache_data(max_entries=4, show_spinner=False)
def _overview(_signal: np.ndarray, digest: str) -> np.ndarray:
    return envelope(_signal)


@st.fragment
def _traces(result: Result, digest: str, window: int) -> None:
    out = result.outputs
    marks = zip(
        out["annotation_onsets"], out["annotation_durations"], out["annotation_texts"], strict=True
    )
    names = tuple(out["signal_names"])
    marked, left = marked_bad(), (*out["bad_in_file"], *out["bad_left"])
    state = {
        name: "marked" if name in marked else "bad" if name in left else "proposed"
        for name in names
        if name in marked or name in left or name in out["proposed"]
    }
    clicked = traces(
        "eeg_traces",
        out["signal"],
        out["signal_factors"],
        out["rate"],
        names,
        overview=_overview(out["signal"], digest),
        digest=digest,
        line=out.get("probability"),
        times=out["times"],
        window=window,
        follows=("eeg_relevance", "cells"),
        annotations=tuple((float(a), float(b), str(c)) for a, b, c in marks),
        states=state,
        apart=frozenset(
            name
            for name, kind in zip(names, out["signal_kinds"], strict=True)
            if kind not in ("eeg", "ref")
        ),
    )
    if clicked is not None and clicked in names and clicked not in out["bad_in_file"]:
        mark_bad(
            tuple(name for name in marked if name != clicked)
            if clicked in marked
            else (*marked, clicked)
        )
        st.rerun()  # the whole page: what is analysed has changed

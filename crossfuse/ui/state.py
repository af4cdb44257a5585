"""Choices that live in the URL and survive a change of page.

Streamlit's own ``bind="query-params"`` suits sliders, numbers, toggles and texts. For widgets
with translated labels it would write the *label* into the URL, so that a link made in one
language would not open in the other. ``choose`` writes the option itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import streamlit as st

Style = Literal["segments", "select", "pills", "radio"]


def _adopt_from_url(key: str, options: Sequence[str]) -> None:
    """Take over a value of the URL that this session has not written itself."""
    asked = st.query_params.get(key)
    if asked is None or asked == st.session_state.get(f"_url_{key}"):
        return
    if asked in options:
        st.session_state[key] = asked
    st.session_state[f"_url_{key}"] = asked


def _write_to_url(key: str, value: str, default: str) -> None:
    shown = None if value == default else value
    if st.query_params.get(key) == shown:
        return
    if shown is None:
        del st.query_params[key]
    else:
        st.query_params[key] = shown
    st.session_state[f"_url_{key}"] = shown


def choose(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    format_func: Callable[[str], str] = str,
    default: str | None = None,
    style: Style = "segments",
    label_visibility: Literal["visible", "hidden", "collapsed"] = "visible",
    help: str | None = None,
    on_change: Callable[[], None] | None = None,
) -> str:
    """One choice out of several, bound to ``?key=option`` and kept over page changes.

    Options are short language-independent names; ``format_func`` turns them into labels. A value
    in the URL that is no option is ignored. The default (first option unless given) is left out
    of the URL.
    """
    initial = default if default is not None else options[0]
    _adopt_from_url(key, options)
    if st.session_state.get(key) not in options:
        st.session_state[key] = initial
    shared: dict[str, Any] = {
        "key": key,
        "format_func": format_func,
        "label_visibility": label_visibility,
        "help": help,
        "persist_state": "session",
    }
    if on_change is not None:
        shared["on_change"] = on_change
    names = list(options)
    if style == "segments":
        value = st.segmented_control(label, names, required=True, **shared)
    elif style == "pills":
        value = st.pills(label, names, required=True, **shared)
    elif style == "radio":
        value = st.radio(label, names, **shared)
    else:
        value = st.selectbox(label, names, **shared)
    value = value if value in options else initial
    _write_to_url(key, value, initial)
    return value


def choose_several(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    format_func: Callable[[str], str] = str,
    help: str | None = None,
) -> tuple[str, ...]:
    """Any number of options, bound to ``?key=one.two`` and kept over page changes.

    Options must not contain a full stop. None is chosen at first.
    """
    asked = st.query_params.get(key)
    if asked is not None and asked != st.session_state.get(f"_url_{key}"):
        st.session_state[key] = [name for name in asked.split(".") if name in options]
        st.session_state[f"_url_{key}"] = asked
    value = st.pills(
        label,
        list(options),
        selection_mode="multi",
        key=key,
        format_func=format_func,
        help=help,
        persist_state="session",
    )
    chosen = tuple(name for name in options if name in value)
    _write_to_url(key, ".".join(chosen), "")
    return chosen


LINK = "_link"  # what this session was opened with, until the page of the link has been drawn whole


def keep_link(page: str) -> None:
    """Bring the choices of a link back to a page that was left before its widgets were there.

    Streamlit takes the parameters of widgets that a page does not have out of the URL. Call it
    first in a run of ``page``. Widgets read the URL where a run begins, so that the script runs
    once more if there was something to bring back.
    """
    first = {"page": page, "asked": st.query_params.to_dict(), "left": False}
    link: dict[str, Any] = st.session_state.setdefault(LINK, first)
    if page != link["page"]:
        link["left"] = True
    elif link["left"]:
        lost = {k: v for k, v in link["asked"].items() if k not in st.query_params}
        link.update(asked={}, left=False)
        if lost:
            st.query_params.update(lost)
            st.rerun()


def link_taken(page: str) -> None:
    """The page has drawn all of its widgets: from now on they hold the reader's choices."""
    if st.session_state[LINK]["page"] == page:
        st.session_state[LINK]["asked"] = {}

"""Home: the one idea, alive, and a way into each page."""

from __future__ import annotations

import streamlit as st

from crossfuse.ui.navigation import PAGES, PageEntry
from crossfuse.ui.shell import page_header
from crossfuse.ui.text import t


def live(name: str, height: int) -> None:
    # Imported when the words before it are on their way, because it needs NumPy.
    from crossfuse.ui.home_examples import has_example, show_example

    if has_example(name):
        show_example(name, height=height)


def card(entry: PageEntry) -> None:
    with st.container(border=True, height="stretch"):
        st.page_link(
            entry.script,
            label=f"**{t(f'{entry.name}.heading')}**",
            icon=f":material/{entry.icon}:",
        )
        st.markdown(t(f"{entry.name}.idea"))
        live(entry.name, height=210)


left, right = st.columns([3, 5], gap="large", vertical_alignment="center")
with left:
    page_header("home")
    st.markdown(t("home.gesture"))
    st.page_link("pages/primer.py", label=t("home.start"), icon=":material/arrow_forward:")
with right:
    live("photographs", height=360)

st.space("medium")
shown = [entry for entry in PAGES if entry.name not in ("home", "primer", "about")]
for start in range(0, len(shown), 2):
    for column, entry in zip(st.columns(2), shown[start : start + 2], strict=False):
        with column:
            card(entry)
st.caption(t("home.foot"))

"""Home: what crossfuse shows, and a way into each page."""

from __future__ import annotations

import streamlit as st

from crossfuse.ui.navigation import PAGES
from crossfuse.ui.shell import page_header
from crossfuse.ui.text import t

page_header("home")
for entry in PAGES:
    if entry.name != "home":
        with st.container(border=True):
            st.page_link(
                entry.script, label=t(f"{entry.name}.title"), icon=f":material/{entry.icon}:"
            )
            st.markdown(t(f"{entry.name}.idea"))

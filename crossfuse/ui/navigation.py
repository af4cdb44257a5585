"""The pages of the app, in the order of the navigation bar.

A page needs its script in ``pages/``, the text keys ``title`` (short, for the navigation),
and ``idea`` (one sentence) in ``assets/texts/<language>/<name>.md``, and one line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from crossfuse.ui.text import t

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PageEntry:
    """One page: ``pages/<name>.py``, served under ``/<name>``; a Material icon for its card.

    The navigation bar shows no icons: Streamlit would fetch the page's icon for the browser tab
    from the network.
    """

    name: str
    icon: str

    @property
    def script(self) -> Path:
        return ROOT / "pages" / f"{self.name}.py"


PAGES: tuple[PageEntry, ...] = (
    PageEntry("home", "home"),
    PageEntry("primer", "school"),
    PageEntry("mmca", "translate"),
    PageEntry("eeg", "neurology"),
    PageEntry("mit", "view_in_ar"),
    PageEntry("mmvit", "grid_view"),
    PageEntry("about", "info"),
)


def build_navigation() -> StreamlitPage:
    """Declare every page to Streamlit in the current language; returns the page to run."""
    return st.navigation(
        [
            st.Page(
                entry.script,
                title=t(f"{entry.name}.title"),
                url_path=None if entry.name == "home" else entry.name,
                default=entry.name == "home",
            )
            for entry in PAGES
        ],
        position="top",
    )

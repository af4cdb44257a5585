"""The pages of the app, in the order of the navigation bar.

A page needs its script in ``pages/``, the text keys ``title`` (short, for the navigation),
and ``idea`` (one sentence) in ``assets/texts/<language>/<name>.md``, and one line here.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from crossfuse.ui.text import t


@dataclass(frozen=True)
class PageEntry:
    """One page: ``pages/<name>.py``, served under ``/<name>``, with a Material icon."""

    name: str
    icon: str

    @property
    def script(self) -> str:
        return f"pages/{self.name}.py"


PAGES: tuple[PageEntry, ...] = (
    PageEntry("home", "home"),
    PageEntry("about", "info"),
)


def build_navigation() -> object:
    """Declare every page to Streamlit in the current language; returns the page to run."""
    return st.navigation(
        [
            st.Page(
                entry.script,
                title=t(f"{entry.name}.title"),
                icon=f":material/{entry.icon}:",
                url_path=None if entry.name == "home" else entry.name,
                default=entry.name == "home",
            )
            for entry in PAGES
        ],
        position="top",
    )

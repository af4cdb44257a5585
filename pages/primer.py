"""How cross-attention works: a textbook that runs."""

from __future__ import annotations

from importlib import import_module

from crossfuse.ui.shell import page_header
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

CHAPTERS = ["steps", "photos", "bugs", "cost"]

page_header("primer")
chapter = choose(
    t("primer.chapter"),
    CHAPTERS,
    key="chapter",
    format_func=lambda name: t(f"primer.chapter_{name}"),
    label_visibility="collapsed",
)
import_module(f"crossfuse.ui.primer.{chapter}").draw()

"""About: sources, licences, limits."""

from __future__ import annotations

from crossfuse.ui.shell import page_header

page_header("about")

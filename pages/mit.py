"""A room and its pictures: MIT, live and linked."""

from __future__ import annotations

from crossfuse.ui.mit import page

page.draw()

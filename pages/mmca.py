"""Words and image regions: MMCA, live and linked."""

from __future__ import annotations

from crossfuse.ui.mmca import page

page.draw()

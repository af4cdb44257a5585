"""Several views of one picture: the pyramid of MMViT, live and linked."""

from __future__ import annotations

from crossfuse.ui.mmvit import page

page.draw()

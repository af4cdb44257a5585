"""EEG: mutual cross-attention of two features, its classifier, and what both rest on."""

from __future__ import annotations

from crossfuse.ui.eeg import page
from crossfuse.ui.shell import run_page

run_page(page.draw)

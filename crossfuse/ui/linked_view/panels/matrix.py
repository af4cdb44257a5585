"""The map itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class MatrixPanel(Panel):
    """Draws the chosen map as a heat map, rows asking and columns being asked; no geometry."""

    kind: ClassVar[str] = "matrix"

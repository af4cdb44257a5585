"""Every layer and head at once, small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class OverviewPanel(Panel):
    """Small multiples, layers down and heads across, to see and to choose from; no geometry.

    Where the present item looks at an image grid each small picture is that row over the grid;
    otherwise it is the whole map.
    """

    kind: ClassVar[str] = "overview"

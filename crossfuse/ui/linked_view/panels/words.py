"""Words as chips in reading order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class WordsPanel(Panel):
    """Draws ``Words``, and any geometry of which only the labels matter (class tokens, names).

    ``stacked`` puts one item on a line.
    """

    kind: ClassVar[str] = "words"

    stacked: bool = False

    def options(self) -> dict[str, Any]:
        return {"stacked": self.stacked}

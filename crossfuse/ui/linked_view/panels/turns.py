"""A stepper through layers in which two sides ask each other in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class TurnsPanel(Panel):
    """Whose turn it is to be the query: one step a layer, drawn as an arrow between two lanes.

    ``stage``: the stage whose layers are the steps; ``turns``: side 0 or 1 that asks, one entry a
    layer; ``sides``: the names of the two lanes. What a step does is said in the texts
    ``turn_says.0`` and ``turn_says.1`` of the view. The bar leaves its choice of layer to this
    panel while that stage is shown.
    """

    kind: ClassVar[str] = "turns"

    stage: str = ""
    turns: tuple[int, ...] = ()
    sides: tuple[str, str] = ("", "")

    def options(self) -> dict[str, Any]:
        return {"steps": self.stage, "turns": list(self.turns), "sides": list(self.sides)}

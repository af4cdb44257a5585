"""Bands x time windows, with the prediction over time above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class TimeFrequencyPanel(Panel):
    """Draws a ``TimeFrequency`` geometry.

    ``base``: (bands * windows,) what is shown while no map lies on the panel, ``base_label`` what
    it is called. ``line``: (windows,) in 0..1, a curve above the cells, called ``line_label``.
    ``spans``: (start, stop, label) of stretches marked above the cells, seconds.
    """

    kind: ClassVar[str] = "time_frequency"

    base: np.ndarray | None = None
    base_label: str = ""
    line: np.ndarray | None = None
    line_label: str = ""
    spans: tuple[tuple[float, float, str], ...] = ()

    def options(self) -> dict[str, Any]:
        return {
            "base_label": self.base_label,
            "line_label": self.line_label,
            "spans": [[float(start), float(stop), label] for start, stop, label in self.spans],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        given = {"base": self.base, "line": self.line}
        return {
            name: np.ascontiguousarray(values, dtype=np.float32).ravel()
            for name, values in given.items()
            if values is not None
        }

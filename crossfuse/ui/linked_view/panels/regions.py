"""Boxes on a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Panel, encode_photo


@dataclass(frozen=True, eq=False)
class RegionsPanel(Panel):
    """Draws ``Regions``. ``image``: the upright photo, (H, W, 3) uint8."""

    kind: ClassVar[str] = "regions"

    image: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        return encode_photo(self.image)

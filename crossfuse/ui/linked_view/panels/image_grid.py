"""A photograph with the cells of a feature map over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Panel, encode_photo


@dataclass(frozen=True, eq=False)
class ImageGridPanel(Panel):
    """Draws an ``ImageGrid``.

    ``image``: the upright photo, (H, W, 3) uint8; None draws the cells only. ``lines``: also the
    edges of all cells.
    """

    kind: ClassVar[str] = "image_grid"

    image: np.ndarray | None = None
    lines: bool = False

    def options(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def arrays(self) -> dict[str, np.ndarray]:
        return encode_photo(self.image)

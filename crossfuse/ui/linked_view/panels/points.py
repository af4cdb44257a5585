"""A point cloud, coloured by its supervoxels; drawn by the graphics card (WebGL 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class PointsPanel(Panel):
    """Draws ``PointSegments``: 14 bytes a point go to the browser, once.

    ``positions`` (N, 3) metres, z up, in random order (any prefix is a fair thinning); ``colours``
    (N, 3) uint8; ``segment`` (N,) index of each point's segment; ``classes`` names with
    ``class_colours`` (K, 3) uint8; ``predicted`` (M,) class of each segment and ``confidence`` (M,)
    in 0..1; ``labels`` (N,) true class or negative, where known. ``colour`` is what is shown
    first: "attention", "photo", "class", "confidence" or "error".
    """

    kind: ClassVar[str] = "points"

    positions: np.ndarray | None = None
    colours: np.ndarray | None = None
    segment: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    class_colours: np.ndarray | None = None
    predicted: np.ndarray | None = None
    confidence: np.ndarray | None = None
    labels: np.ndarray | None = None
    colour: str = "attention"

    def options(self) -> dict[str, Any]:
        assert self.positions is not None
        low, high = self.positions.min(axis=0), self.positions.max(axis=0)
        return {
            "count": len(self.positions),
            "low": [float(v) for v in low],
            "extent": [float(v) for v in np.maximum(high - low, 1e-3)],
            "classes": list(self.classes),
            "colour": self.colour,
            "labelled": self.labels is not None,
            "own_scale": "several",
            "cut": self._cut(),
        }

    def _cut(self) -> float:
        """Share of the height to show at first: below the ceiling, where there is one."""
        assert self.positions is not None
        z = self.positions[:, 2]
        low, high = np.percentile(z, [0.5, 99.5])
        top = float((z > high - 0.06 * (high - low)).mean())
        return 0.9 if top > 0.1 else 1.0

    def arrays(self) -> dict[str, np.ndarray]:
        assert self.positions is not None
        assert self.colours is not None
        assert self.segment is not None
        low = self.positions.min(axis=0)
        extent = np.maximum(np.ptp(self.positions, axis=0), 1e-3)
        place = np.zeros((len(self.positions), 4), np.uint16)
        place[:, :3] = np.round((self.positions - low) / extent * 65535)
        colour = np.full((len(self.positions), 4), 255, np.uint8)
        colour[:, :3] = self.colours
        arrays: dict[str, np.ndarray] = {
            "place": place.ravel(),
            "colour": colour.ravel(),
            "segment": self.segment.astype(np.uint16),
        }
        if self.class_colours is not None:
            arrays["palette"] = np.asarray(self.class_colours, np.uint8).ravel()
        if self.predicted is not None:
            arrays["predicted"] = self.predicted.astype(np.uint8)
        if self.confidence is not None:
            arrays["confidence"] = self.confidence.astype(np.float32)
        if self.labels is not None:
            arrays["labels"] = np.where(self.labels < 0, 255, self.labels).astype(np.uint8)
        return arrays

"""A point cloud, coloured by its supervoxels; drawn by the graphics card (WebGL 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Kept, Panel


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
        cloud = self._cloud()
        return {
            "count": len(cloud.place) // 4,
            "low": cloud.low,
            "extent": cloud.extent,
            "classes": list(self.classes),
            "colour": self.colour,
            "labelled": self.labels is not None,
            "own_scale": "several",
            "cut": cloud.cut,
        }

    def _cloud(self) -> _Cloud:
        assert self.positions is not None
        return _clouds.of(self.positions, _packed)

    def arrays(self) -> dict[str, np.ndarray]:
        assert self.colours is not None
        assert self.segment is not None
        arrays: dict[str, np.ndarray] = {
            "place": self._cloud().place,
            "colour": _colours.of(self.colours, _opaque),
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


@dataclass(frozen=True)
class _Cloud:
    """``place`` (4 N,) uint16: positions in 65,535ths of ``extent`` from ``low``, metres.

    ``cut``: share of the height to show at first, below the ceiling where there is one.
    """

    place: np.ndarray
    low: list[float]
    extent: list[float]
    cut: float


_clouds: Kept[_Cloud] = Kept()
_colours: Kept[np.ndarray] = Kept()


def _packed(positions: np.ndarray) -> _Cloud:
    low, high = positions.min(axis=0), positions.max(axis=0)
    extent = np.maximum(high - low, 1e-3)
    place = np.zeros((len(positions), 4), np.uint16)
    place[:, :3] = np.round((positions - low) / extent * 65535)
    z = positions[:, 2]
    bottom, top = np.percentile(z, [0.5, 99.5])
    ceiling = float((z > top - 0.06 * (top - bottom)).mean()) > 0.1
    return _Cloud(place.ravel(), low.tolist(), extent.tolist(), 0.9 if ceiling else 1.0)


def _opaque(colours: np.ndarray) -> np.ndarray:
    colour = np.full((len(colours), 4), 255, np.uint8)
    colour[:, :3] = colours
    return colour.ravel()

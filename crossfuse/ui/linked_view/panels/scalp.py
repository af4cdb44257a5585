"""EEG sensors on a head seen from above."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from crossfuse.ui.linked_view.panels.base import Panel

GRID = 44  # side of the square of interpolated points
REACH = 1.18  # the square reaches so far beyond the head's outline
CENTRE = (0.0, -0.016, 0.005)  # of the sphere that fits the 10-20 electrodes, metres


@dataclass(frozen=True, eq=False)
class ScalpPanel(Panel):
    """Draws a ``Channels`` geometry: sensors, an interpolated map and its contour lines.

    ``positions``: (channels, 3) metres, those of the geometry; sensors without a place are listed
    below the head. ``base``: (channels,) what is shown while no map lies on the panel.
    """

    kind: ClassVar[str] = "scalp"

    positions: np.ndarray | None = None
    base: np.ndarray | None = None
    base_label: str = ""

    def options(self) -> dict[str, Any]:
        return {"grid": GRID, "reach": REACH, "base_label": self.base_label}

    def arrays(self) -> dict[str, np.ndarray]:
        if self.positions is None:
            return {}
        places = np.asarray(self.positions, np.float64)
        flat, matrix = interpolation(places.tobytes(), len(places))
        arrays = {"flat": flat, "matrix": matrix}
        if self.base is not None:
            arrays["base"] = np.ascontiguousarray(self.base, dtype=np.float32).ravel()
        return arrays


def flatten(positions: np.ndarray) -> np.ndarray:
    """(N, 3) metres -> (N, 2), x right, y up, 1 = the head's equator: azimuthal equidistant."""
    offset = np.asarray(positions, float) - CENTRE
    length = np.linalg.norm(offset, axis=1)
    angle = np.arccos(np.clip(offset[:, 2] / length, -1, 1))
    around = np.arctan2(offset[:, 1], offset[:, 0])
    return (angle / (np.pi / 2))[:, None] * np.stack([np.cos(around), np.sin(around)], 1)


@lru_cache(maxsize=8)
def interpolation(raw: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat places (N * 2) and the thin-plate matrix (GRID * GRID * placed sensors), float32.

    The matrix maps the weights of the sensors that have a place to a square of points from
    (-REACH, REACH) at the upper left; it passes through every sensor. Empty for fewer than four.
    """
    flat = flatten(np.frombuffer(raw, np.float64).reshape(count, 3))
    placed = flat[np.isfinite(flat).all(axis=1)]
    none = np.zeros(0, np.float32)
    if len(np.unique(placed.round(4), axis=0)) < max(4, len(placed)):
        return flat.astype(np.float32).ravel(), none
    steps = (np.arange(GRID) + 0.5) / GRID * 2 * REACH - REACH
    x, y = np.meshgrid(steps, -steps)
    points = np.stack([x.ravel(), y.ravel()], 1)
    return flat.astype(np.float32).ravel(), thin_plate(placed, points).astype(np.float32).ravel()


def thin_plate(placed: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The matrix (P, N) from values at ``placed`` (N, 2) to the spline's values at ``points``.

    f(p) = sum_i w_i |p - p_i|² log |p - p_i| + a + b·p through all values, with the least bending
    (Duchon 1977). scipy.interpolate.RBFInterpolator gives the same, but importing it would take
    the home page longer than all the rest.
    """

    def bend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        return 0.5 * square * np.log(np.where(square > 0, square, 1.0))

    count = len(placed)
    plane, plane_of_points = (np.c_[np.ones(len(p)), p] for p in (placed, points))
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = bend(placed, placed)
    system[:count, count:], system[count:, :count] = plane, plane.T
    weights = np.linalg.solve(system, np.eye(count + 3, count))
    return np.c_[bend(points, placed), plane_of_points] @ weights

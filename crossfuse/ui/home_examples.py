"""Small live examples for the home page: real maps, computed beforehand and kept small.

``assets/home/<name>.npz`` is a trace that a page's own pipeline computed and
:mod:`crossfuse.ui.home_recipes` reduced. Its ``meta`` says where to begin (``first``: geometry and
item) and what photograph lies below a geometry (``photos``: a sample's key, or a file beside it).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from crossfuse.data.images import read_image, sample_photo
from crossfuse.geometry import (
    Channels,
    Geometry,
    ImageGrid,
    Joined,
    PointSegments,
    Regions,
)
from crossfuse.trace import Trace, load
from crossfuse.ui.linked_view import (
    ImageGridPanel,
    Panel,
    RegionsPanel,
    Selection,
    WordsPanel,
    linked_view,
)
from crossfuse.ui.linked_view.panels import PointsPanel, ScalpPanel

HOME = Path(__file__).resolve().parents[2] / "assets" / "home"


def has_example(name: str) -> bool:
    """Whether there is something live to show for a page."""
    return (HOME / f"{name}.npz").is_file()


def show_example(name: str, *, height: int = 240) -> None:
    """Draw the linked view of an example."""
    trace, images = _stored(name)
    first = trace.meta.get("first")
    linked_view(
        f"home_{name}",
        [
            panel
            for key, geometry in trace.geometries.items()
            for panel in _panels(name, key, geometry, images.get(key))
        ],
        trace.maps,
        trace.geometries,
        height=height,
        selection=Selection(first[0], int(first[1])) if first else None,
        compact=True,
        on_select="ignore",
        model=trace.model,
    )


def _panels(example: str, name: str, geometry: Geometry, image: np.ndarray | None) -> list[Panel]:
    if isinstance(geometry, Joined):  # views of one photograph
        return [ImageGridPanel(name, part=part, image=image) for part in geometry.part_names]
    if isinstance(geometry, PointSegments):
        return [_points(example, name)]
    if isinstance(geometry, Regions):
        return [RegionsPanel(name, image=image)]
    if isinstance(geometry, ImageGrid):
        return [ImageGridPanel(name, image=image)]
    if isinstance(geometry, Channels):
        return [ScalpPanel(name, positions=geometry.positions)]
    return [WordsPanel(name)]


@lru_cache(maxsize=2)
def _points(example: str, name: str) -> Panel:
    with np.load(HOME / f"{example}_points.npz", allow_pickle=False) as stored:
        return PointsPanel(
            name,
            positions=stored["positions"].astype(np.float32),
            colours=stored["colours"],
            segment=stored["segment"],
        )


@lru_cache(maxsize=16)
def _stored(name: str) -> tuple[Trace, dict[str, np.ndarray]]:
    trace = load(HOME / f"{name}.npz")
    images = {}
    for geometry, photo in trace.meta.get("photos", {}).items():
        path = HOME / photo
        images[geometry] = (
            read_image(path.read_bytes()) if path.is_file() else sample_photo(photo)
        ).pixels
    return trace, images

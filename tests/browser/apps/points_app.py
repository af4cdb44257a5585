"""A small cloud and three pictures with made-up attention, for the browser tests."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.geometry import ImageGrid, Joined, PointSegments, ViewStack
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import linked_view
from crossfuse.ui.linked_view.panels import PhotosPanel, PointsPanel

st.set_page_config(layout="wide")
rng = np.random.default_rng(0)
POINTS = 30_000
kind = rng.integers(0, 3, POINTS)  # a red floor, a green wall, a blue box
positions = rng.uniform(0, 1, (POINTS, 3)) * [4, 3, 2]
positions[kind == 0, 2] = 0
positions[kind == 1, 1] = 3
positions[kind == 2] = positions[kind == 2] * 0.2 + [1.5, 1.2, 0.2]
colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)[kind]
centroids = np.stack([positions[kind == k].mean(0) for k in range(3)])
segments = PointSegments(centroids, np.bincount(kind), ("floor", "wall", "box"))
images = [np.full((60, 80, 3), shade, np.uint8) for shade in (90, 140, 190)]
grids = [ImageGrid.regular(3, 4, (80, 60)) for _ in images]
geometries = {
    "segments": Joined((segments,), ("segments",)),
    "photos": Joined(
        (ViewStack(("a.jpg", "b.jpg", "c.jpg"), np.array([[80, 60]] * 3)), *grids),
        ("views", "photo 1", "photo 2", "photo 3"),
    ),
}


def shares(rows: int, columns: int) -> np.ndarray:
    weights = rng.exponential(1, (2, rows, columns)).astype(np.float32)
    return weights / weights.sum(-1, keepdims=True)


maps = [
    AttentionMap("decoder", 0, "cloud asks", "segments", "photos", shares(3, 39)),
    AttentionMap("decoder", 1, "photos ask", "photos", "segments", shares(39, 3)),
]
pin = linked_view(
    "points",
    [
        PointsPanel(
            "segments",
            part="segments",
            title="Cloud",
            positions=positions,
            colours=colours,
            segment=kind,
            classes=("floor", "wall", "box"),
            class_colours=np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], np.uint8),
            predicted=np.array([0, 1, 2]),
            confidence=np.array([0.9, 0.5, 0.1]),
            labels=kind,
            colour="photo",
        ),
        PhotosPanel("photos", title="Pictures", images=images),
    ],
    maps,
    geometries,
    settings={"stage": "decoder", "layer": 0},
)
st.text(f"pinned: {pin.geometry} {pin.item}" if pin else "pinned: nothing")

"""A page of linked views over made-up maps; ``?case=`` chooses one."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.geometry import ImageGrid, Joined, Regions, Words
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import (
    ImageGridPanel,
    MatrixPanel,
    OverviewPanel,
    RegionsPanel,
    Selection,
    WordsPanel,
    linked_view,
    print_figures,
)


@st.cache_data
def photo(seed: int, width: int = 480, height: int = 320) -> np.ndarray:
    """A smooth landscape of coloured blobs, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / height
    image = np.stack([0.55 + 0.35 * y, 0.5 + 0.3 * (1 - y), 0.75 - 0.45 * y], axis=-1)
    for _ in range(14):
        centre, radius = rng.uniform([0, 0.2], [width / height, 1]), rng.uniform(0.05, 0.22)
        blob = np.exp(-((((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2) ** 3))
        image = image * (1 - blob[..., None]) + blob[..., None] * rng.uniform(0.1, 0.95, 3)
    return (255 * image.clip(0, 1)).astype(np.uint8)


def softmax(scores: np.ndarray) -> np.ndarray:
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (exp / exp.sum(axis=-1, keepdims=True)).astype(np.float32)


def attention(seed: int, heads: int, rows: int, columns: int, sharp: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(heads, rows, 6))
    key = rng.normal(size=(heads, columns, 6))
    return softmax(sharp * query @ key.transpose(0, 2, 1) / np.sqrt(6))


def near(seed: int, heads: int, grid: ImageGrid, other: ImageGrid) -> np.ndarray:
    """Cells look at cells near the same place, each head a little elsewhere."""
    rng = np.random.default_rng(seed)
    a = grid.centres / np.array(grid.image_size)
    b = other.centres / np.array(other.image_size)
    maps = []
    for _ in range(heads):
        shift, width = rng.normal(0, 0.15, 2), rng.uniform(0.08, 0.2)
        distance = ((a[:, None] + shift - b[None]) ** 2).sum(-1)
        maps.append(softmax(-distance / (2 * width**2)))
    return np.stack(maps)


WORDS = Words(("a", "small", "dog", "jumps", "over", "the", "<b>fallen</b>", "tree", "狗"))
BOXES = np.array(
    [
        [20, 30, 210, 200],
        [60, 60, 140, 130],
        [250, 90, 460, 300],
        [300, 20, 420, 110],
        [10, 220, 240, 310],
        [330, 150, 400, 240],
    ],
    dtype=np.float32,
)
REGIONS = Regions(BOXES, (480, 320), ("dog", "head", "tree", "sky", "grass", "branch"))


def grids() -> None:
    one, two = ImageGrid.regular(10, 15, (480, 320)), ImageGrid.regular(7, 7, (360, 320))
    maps = [
        AttentionMap("late", layer, "first→second", "one", "two", near(layer, 4, one, two))
        for layer in range(3)
    ] + [
        AttentionMap("late", layer, "second→first", "two", "one", near(9 + layer, 4, two, one))
        for layer in range(3)
    ]
    pinned = linked_view(
        "grids",
        [
            ImageGridPanel("one", photo(1), title="First photograph"),
            ImageGridPanel("two", photo(2, 360), title="Second photograph"),
            MatrixPanel(title="The map"),
            OverviewPanel(title="Layers and heads"),
        ],
        maps,
        {"one": one, "two": two},
        layout=[[0, 1], [2, 3]],
        title="Two photographs",
        model="made up",
    )
    report(pinned)


def sentence() -> None:
    joined = Joined((REGIONS, WORDS), ("regions", "words"))
    size = len(joined)
    maps = [
        AttentionMap("encoder", layer, "all", "tokens", "tokens", attention(layer, 12, size, size))
        for layer in range(4)
    ]
    pinned = linked_view(
        "sentence",
        [
            RegionsPanel("tokens", photo(1), part="regions", title="Photograph", width=1.2),
            WordsPanel("tokens", part="words", title="Sentence"),
            MatrixPanel(title="The map"),
            OverviewPanel(title="Layers and heads"),
        ],
        maps,
        {"tokens": joined},
        layout=[[0, 1], [2, 3]],
        title="Regions and words",
        selection=Selection("tokens", 8) if "pin" in st.query_params else None,
    )
    report(pinned)
    images = {"tokens/regions": photo(1)}
    print_figures("sentence", maps, {"tokens": joined}, pinned, images=images)


def relevance() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 9, 6)).astype(np.float32)
    linked_view(
        "relevance",
        [
            RegionsPanel("regions", photo(1), title="Photograph"),
            WordsPanel("words", title="Words"),
            MatrixPanel(),
        ],
        [AttentionMap("explained", 0, "w→r", "words", "regions", weights, kind="relevance")],
        {"words": WORDS, "regions": REGIONS},
        title="Signed relevance",
        on_select="ignore",
    )


def on_demand() -> None:
    grid = ImageGrid.regular(24, 36, (480, 320))
    held = st.session_state.setdefault("held", [5])
    full = near(3, 2, grid, grid)
    rows = AttentionMap("self", 0, "self", "cells", "cells", full[:, held], rows=np.array(held))
    pinned = linked_view(
        "on_demand",
        [
            ImageGridPanel("cells", photo(1), title="Asks", role="query"),
            ImageGridPanel("cells", photo(1), title="Is looked at", role="key"),
        ],
        [rows],
        {"cells": grid},
    )
    report(pinned)
    if pinned and pinned.missing and pinned.item not in held:
        st.session_state["held"] = [*held, pinned.item]
        st.rerun()


def scales() -> None:
    fine, coarse = ImageGrid.regular(10, 15, (480, 320)), ImageGrid.regular(4, 6, (480, 320))
    words = AttentionMap("fine", 0, "d", "fine", "words", attention(1, 2, 150, 9))
    others = AttentionMap("coarse", 0, "d", "coarse", "words", attention(2, 2, 24, 9))
    pinned = linked_view(
        "scales",
        [ImageGridPanel(("fine", "coarse"), photo(1), title="Photograph"), WordsPanel("words")],
        [words, others],
        {"fine": fine, "coarse": coarse, "words": WORDS},
    )
    report(pinned)


def large() -> None:
    side = int(st.query_params.get("side", 56))
    grid = ImageGrid.regular(side, side, (480, 320))
    rng = np.random.default_rng(0)
    weights = rng.random((1, side * side, side * side), dtype=np.float32)
    weights /= weights.sum(-1, keepdims=True)
    linked_view(
        "large",
        [ImageGridPanel("cells", photo(1), title="Cells"), MatrixPanel(title="The map")],
        [AttentionMap("self", 0, "self", "cells", "cells", weights)],
        {"cells": grid},
        on_select="ignore",
    )


def report(pinned: Selection | None) -> None:
    st.session_state["runs"] = st.session_state.get("runs", 0) + 1
    st.text(f"pinned: {(pinned.geometry, pinned.item) if pinned else None}")
    st.text(f"runs: {st.session_state['runs']}")


CASES = {
    "grids": grids,
    "sentence": sentence,
    "relevance": relevance,
    "on_demand": on_demand,
    "scales": scales,
    "large": large,
}
st.set_page_config(layout="wide")
CASES[st.query_params.get("case", "grids")]()

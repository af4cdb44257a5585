"""Figures: the common look of charts, and maps and rows for print."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid, Joined, Regions, Words
from crossfuse.trace import AttentionMap
from crossfuse.viz import figures, paper
from crossfuse.viz.small_maps import bar_table

# A bare machine may have no Chinese font at all; where one is found it must be used.
CHINESE = (
    "狗" if any(name not in ("Noto Sans", "DejaVu Sans") for name in paper.families()) else "x"
)
WORDS = Words(("a", "dog", CHINESE, "a"))
GRID = ImageGrid.regular(3, 4, (80, 60))
REGIONS = Regions([[0, 0, 40, 30], [20, 10, 80, 60]], (80, 60), ("dog", "tree"))
PHOTO = np.full((60, 80, 3), 120, np.uint8)


def a_map(key: str, columns: int, **extra) -> AttentionMap:
    weights = np.random.default_rng(0).random((2, 4, columns)).astype(np.float32)
    weights /= weights.sum(-1, keepdims=True)
    return AttentionMap("s", 0, "d", "words", key, weights, **extra)


GEOMETRIES = {
    "words": WORDS,
    "grid": GRID,
    "regions": REGIONS,
    "both": Joined((GRID, WORDS), ("grid", "words")),
}


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        (a_map("grid", 12), {"image": PHOTO}),
        (a_map("grid", 12), {"head": 1}),
        (a_map("grid", 12), {"reading": "column"}),
        (a_map("regions", 2), {"image": PHOTO}),
        (a_map("both", 16), {"part": "grid", "image": PHOTO}),
        (a_map("both", 16, kind="relevance"), {"part": "words"}),
    ],
)
def test_rows_become_figures_with_every_glyph(entry, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        figure = paper.row_figure(entry, GEOMETRIES, 1, **options)
        png = paper.to_bytes(figure, "png", dpi=60)
    assert np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).std() > 5


def test_figures_save_as_vectors():
    figure = paper.matrix_figure(a_map("words", 4), GEOMETRIES)
    assert paper.to_bytes(figure, "pdf").startswith(b"%PDF")
    assert b"<svg" in paper.to_bytes(figure, "svg")[:1000]


def test_a_row_that_is_not_held_is_refused():
    weights = np.ones((1, 1, 12), np.float32) / 12
    entry = AttentionMap("s", 0, "d", "words", "grid", weights, rows=np.array([2]))
    with pytest.raises(CrossfuseError, match="does not hold the row"):
        paper.row_figure(entry, GEOMETRIES, 1)
    column = paper.row_figure(entry, GEOMETRIES, 0, reading="column")
    assert column.axes


def test_charts_share_one_look():
    charts = [
        figures.lines([1, 2], {"x": [1, 2], "y": [2, 3]}, x_title="n", y_title="s", log_x=True),
        figures.heat(np.array([[1.0, -2.0], [np.nan, 0.5]]), ["a", "b"], ["c", "d"], unit="w"),
    ]
    assert {chart.layout.font.family for chart in charts} == {figures.FONTS}
    assert {chart.layout.paper_bgcolor for chart in charts} == {"rgba(0,0,0,0)"}
    assert (charts[1].data[0].zmin, charts[1].data[0].zmax) == (-2, 2)


def test_a_table_of_scores_has_a_bar_a_line_from_zero():
    columns = {"S": np.array([0.5, -0.25]), "rest": np.array([0.1, 0.2])}
    html = bar_table(["<b>one</b>", "two"], columns, head="Sentence", caption="scores", marked=1)
    assert "&lt;b&gt;one" in html
    assert html.count("<tr") == 3
    assert '<tr class="marked"><th scope="row">two' in html
    assert "left:33.3%;width:66.7%" in html  # 0.5 to the right of zero
    assert "left:0.0%;width:33.3%" in html  # 0.25 to the left of it
    assert "−0.250" in html

"""Tables and blocks of small maps say the numbers they hold."""

from __future__ import annotations

import re

import numpy as np

from crossfuse.geometry import ImageGrid
from crossfuse.viz.blocks import (
    colour_blocks,
    frame_box,
    mark_cell,
    tint_cells,
    weight_blocks,
)
from crossfuse.viz.cost_chart import growth_chart
from crossfuse.viz.small_maps import heat_table


def test_every_number_is_written_and_no_label_becomes_markup() -> None:
    values = np.array([[0.25, -np.inf, -0.004], [1.0, 2.0, 3.0]])
    table = heat_table(values, ["<b>", "b"], ["x", "y", "z"], caption='say "it"', mark=(0, 1))
    assert re.findall(r"<td style=[^>]*>([^<]*)</td>", table) == [
        "0.25", "−∞", "0.00", "1.00", "2.00", "3.00"
    ]  # fmt: skip
    assert "<b>" not in table
    assert 'aria-label="say &quot;it&quot;"' in table
    assert table.count("box-shadow") == 3


def test_an_even_map_is_tinted_alike() -> None:
    table = heat_table(np.full((2, 2), 0.5), ["a", "b"], ["x", "y"], caption="")
    assert len(set(re.findall(r"rgba\([^)]*\)", table))) == 1


def test_blocks_keep_colours_and_scale() -> None:
    colours = np.array([[[0, 0.5, 1], [2, -1, np.nan]]], dtype=float)
    blocks = colour_blocks(colours, 4)
    assert blocks.shape == (4, 8, 3)
    assert blocks[0, 0].tolist() == [0, 128, 255]
    assert blocks[0, 4].tolist() == [255, 0, 0]
    heat = weight_blocks(np.array([[0.0, 0.5]]), 2)
    assert heat.shape == (2, 4, 3)
    assert (heat[0, 0] != heat[0, 2]).any()
    assert weight_blocks(np.zeros((1, 1)), 1).shape == (1, 1, 3)


def test_a_marked_photograph_is_a_copy() -> None:
    photo = np.zeros((40, 60, 3), dtype=np.uint8)
    marked = mark_cell(photo, 0, 4, 6)
    assert not photo.any()
    assert marked.any()
    assert not marked[30:, 40:].any()


def test_growth_has_a_line_a_way() -> None:
    figure = growth_chart(
        [4, 16], [("naive", [1, 4], "#111111"), ("ours", [1, 2], "#222222")],
        x_title="cells", y_title="seconds",
    )  # fmt: skip
    assert [trace.name for trace in figure.data] == ["naive", "ours"]


def test_cells_are_tinted_where_they_lie_and_boxes_framed() -> None:
    photo = np.full((40, 60, 3), 90, dtype=np.uint8)
    grid = ImageGrid.regular(2, 3, (600, 400))
    tinted = tint_cells(photo, grid, np.array([0.0, 0, 0, 0, 0, 5]))
    assert tinted.shape == photo.shape
    assert (tinted[0, 0] == tinted[19, 19]).all()
    assert (tinted[25, 45] != tinted[0, 0]).any()
    framed = frame_box(photo, (100, 100, 300, 300), (600, 400))
    assert (framed[10, 10:30] == 255).all()
    assert (framed[20, 20] == 90).all()

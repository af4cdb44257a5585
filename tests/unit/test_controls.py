"""Controls do what they promise, so that a map can be held against them."""

from __future__ import annotations

import numpy as np
import pytest

from crossfuse.explain.controls import blank, drawing, own_place, sharpness, shuffle_tiles
from crossfuse.geometry import ImageGrid
from crossfuse.trace import AttentionMap


def test_tiles_are_shuffled_and_none_is_lost() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 99, 3), dtype=np.uint8)
    mixed = shuffle_tiles(pixels, 16)
    assert mixed.shape == pixels.shape
    assert not np.array_equal(mixed, pixels)
    assert np.array_equal(np.sort(mixed[:64, :96], axis=None), np.sort(pixels[:64, :96], axis=None))
    assert np.array_equal(mixed[64:], pixels[64:])
    assert np.array_equal(shuffle_tiles(pixels, 16), mixed)


def test_blank_has_one_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    assert len(np.unique(blank(pixels).reshape(-1, 3), axis=0)) == 1


def test_sharpness_of_known_maps() -> None:
    even = AttentionMap("s", 0, "a->b", "a", "b", np.full((2, 3, 5), 0.2, dtype=np.float32))
    one = AttentionMap("s", 0, "a->b", "a", "b", np.eye(5, dtype=np.float32)[None, :3])
    assert sharpness(even) == pytest.approx(1)
    assert sharpness(one) == pytest.approx(5)


def test_a_drawing_has_lines_where_the_brightness_changes() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = (200, 120, 40)
    lines = drawing(pixels)
    assert lines.shape == pixels.shape
    assert lines.dtype == np.uint8
    assert (lines[..., 0] == lines[..., 2]).all()
    assert lines[:, 29:31].max() < 80
    assert lines[:, 5:25].min() > 250
    assert drawing(np.full((9, 9, 3), 7, dtype=np.uint8)).min() == 255  # nothing to draw


def test_own_place_counts_rows_that_look_within_one_cell_of_themselves() -> None:
    grid = ImageGrid.regular(4, 5, (50, 40))
    itself = AttentionMap("s", 0, "a->b", "a", "b", np.eye(20, dtype=np.float32)[None])
    assert own_place(itself, grid, grid) == 1
    beside = AttentionMap(
        "s", 0, "a->b", "a", "b", np.roll(np.eye(20, dtype=np.float32), 1, 1)[None]
    )
    assert own_place(beside, grid, grid) == pytest.approx(16 / 20)  # line ends are far apart
    half = AttentionMap(
        "s", 0, "a->b", "a", "b", np.eye(20, dtype=np.float32)[None, [0, 0]], rows=[0, 19]
    )
    assert own_place(half, grid, grid) == 0.5
    finer = ImageGrid.regular(8, 10, (100, 80))  # the same places on a picture twice as large
    weights = np.zeros((1, 20, 80), dtype=np.float32)
    rows, columns = np.divmod(np.arange(20), 5)
    weights[0, np.arange(20), rows * 2 * 10 + columns * 2] = 1
    assert own_place(AttentionMap("s", 0, "a->b", "a", "b", weights), grid, finer) == 1

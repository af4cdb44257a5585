"""Controls do what they promise, so that a map can be held against them."""

from __future__ import annotations

import numpy as np
import pytest

from crossfuse.explain.controls import blank, sharpness, shuffle_tiles
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

"""Carrying masks, boxes and colours through a map."""

from __future__ import annotations

import numpy as np
import pytest

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models import feature_map_uses as uses

GRID = ImageGrid.regular(6, 8, (160, 120))  # cells of 20 px


def test_share_of_cells_in_a_box() -> None:
    share = uses.cells_in_box(GRID, (20, 0, 50, 20)).reshape(6, 8)
    np.testing.assert_allclose(share[0], [0, 1, 0.5, 0, 0, 0, 0, 0])
    assert not share[1:].any()
    for nothing in ((50, 0, 20, 20), (500, 500, 600, 600)):
        with pytest.raises(CrossfuseError, match="no area"):
            uses.cells_in_box(GRID, nothing)


def test_a_mask_moves_with_a_permutation() -> None:
    order = np.random.default_rng(0).permutation(48)
    weights = np.eye(48)[order]  # cell i looks at cell order[i] only
    mask = uses.cells_in_box(GRID, (0, 0, 60, 60))
    np.testing.assert_array_equal(uses.propagate_mask(weights, mask), mask[order])
    even = np.full((48, 48), 1 / 48)
    np.testing.assert_allclose(uses.propagate_mask(even, mask), mask.mean(), rtol=1e-5)


def test_an_exemplar_is_found_where_it_is() -> None:
    looks_like = np.zeros((6, 8), int)
    looks_like[3:5, 5:7] = 1  # the object in the asking photograph
    looks_like[0, 0] = 1  # a stray look-alike that does not hang together with it
    exemplar = uses.cells_in_box(GRID, (0, 0, 40, 40))
    weights = np.where(looks_like.reshape(-1, 1) == 1, exemplar * 0.95 / 4 + 0.05 / 48, 1 / 48)
    weights.reshape(6, 8, 48)[3, 5] *= 1.01
    found = uses.locate(weights, GRID, exemplar)
    assert found.box == (100, 60, 140, 100)
    assert found.heat.max() == 1
    assert found.heat[3, 5] == 1


def test_cell_means_and_colour_transfer() -> None:
    photo_a = np.full((120, 160, 3), 90, np.uint8)
    photo_a[:, 80:] = 180
    photo_b = np.zeros((120, 160, 3), np.uint8)
    photo_b[:, :80] = (200, 60, 60)
    photo_b[:, 80:] = (60, 60, 200)
    means = uses.cell_means(photo_b, GRID).reshape(6, 8, 3)
    np.testing.assert_allclose(means[2, 1], (200, 60, 60))
    np.testing.assert_allclose(means[2, 6], (60, 60, 200))
    mirrored = np.eye(48).reshape(6, 8, 48)[:, ::-1].reshape(48, 48)
    result = uses.transfer_colour(mirrored, GRID, GRID, photo_a, photo_b)
    assert result.shape == photo_a.shape
    left, right = result[60, 20].astype(int), result[60, 140].astype(int)
    assert left[2] > left[0] + 60  # left of A looked at the right of B: blue
    assert right[0] > right[2] + 60
    grey = result @ [0.299, 0.587, 0.114]
    assert abs(grey[60, 20] - 90) < 2  # brightness kept
    # A reduced copy for display gives the same picture, reduced.
    small = uses.transfer_colour(mirrored, GRID, GRID, photo_a[::2, ::2], photo_b[::2, ::2])
    assert np.abs(small[30, 10].astype(int) - left).max() < 3

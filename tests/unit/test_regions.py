"""Regions: exact pooling, geometry, the proposer's pieces, features made elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfuse.encoders.regions import (
    RegionSet,
    cell_edges,
    coverage,
    grid_boxes,
    multiscale_boxes,
    pool_regions,
    read_region_features,
    squashed,
)
from crossfuse.errors import CrossfuseError

WHOLE = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
unit = st.floats(0, 1)


def test_edges_lie_half_way_between_cell_centres() -> None:
    edges = cell_edges(10, 32)
    centres = (32 * (torch.arange(10) + 1) - 0.5) / 320
    assert torch.allclose(edges[1:-1], (centres[1:] + centres[:-1]) / 2, atol=2e-3)
    assert edges[0] == 0
    assert edges[-1] == 1


@given(unit, unit, unit, unit)
@settings(max_examples=60, deadline=None)
def test_coverage_sums_to_one(x0: float, y0: float, x1: float, y1: float) -> None:
    box = torch.tensor([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])
    for share in coverage(box, cell_edges(10, 32)):
        assert share.sum().item() == pytest.approx(1, abs=1e-3)


def test_pooling_a_constant_and_a_ramp() -> None:
    ramp = torch.linspace(0, 9, 10).expand(1, 1, 10, 10)
    maps = {32: torch.cat([torch.ones(1, 1, 10, 10), ramp], 1)}
    halves = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]])
    pooled = pool_regions(maps, halves)[0]
    assert torch.allclose(pooled[:, 0], torch.ones(2))
    assert pooled[0, 1] < 3
    assert pooled[1, 1] > 6


def test_fixed_boxes() -> None:
    for boxes in (grid_boxes(), multiscale_boxes()):
        assert boxes.shape == (36, 4)
        assert (boxes >= 0).all()
        assert (boxes <= 1.001).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (grid_boxes()[:, 2:] - grid_boxes()[:, :2]).prod(1).sum() == pytest.approx(1)


def test_geometry_is_in_pixels_of_the_photograph() -> None:
    found = RegionSet(torch.zeros(36, 4), grid_boxes(), (600, 300), "cells").geometry
    assert np.allclose(found.boxes[-1], [500, 250, 600, 300])
    assert found.labels[0] == "cell 1"


def test_squashing_needs_a_photograph() -> None:
    assert squashed(np.zeros((3, 1000, 3), np.uint8)).shape == (320, 320, 3)
    with pytest.raises(CrossfuseError):
        squashed(np.zeros((3, 3), np.uint8))


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_bottom_up_features() -> None:
    boxes = np.array([[0, 0, 50, 40], [10, 10, 100, 80]])
    found = read_region_features(
        npz(features=np.ones((2, 2048)), boxes=boxes, image_size=[100, 80])
    )
    assert np.allclose(found.geometry.boxes, boxes)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no zip",
        npz(boxes=np.zeros((2, 4))),
        npz(features=np.ones((2, 7, 7)), boxes=np.zeros((2, 4)), image_size=[9, 9]),
        npz(features=np.ones((2, 2048)), boxes=np.full((2, 4), 500.0), image_size=[9, 9]),
        npz(features=np.full((2, 2048), np.nan), boxes=np.zeros((2, 4)), image_size=[9, 9]),
        npz(features=np.array([{}] * 2), boxes=np.zeros((2, 4)), image_size=[9, 9]),
    ],
)
def test_bad_region_files_are_refused(raw: bytes) -> None:
    with pytest.raises(CrossfuseError):
        read_region_features(raw)

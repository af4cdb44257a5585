"""MMCA's second pair of embeddings: what it adds, what it leaves alone, its share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crossfuse.models.mmca import MMCA, MMCAConfig
from crossfuse.training.mmca_evaluation import Encoded
from crossfuse.training.mmca_scene import choose_share, set_share, with_scene


def network(**changes: object) -> MMCA:
    return MMCA(replace(MMCAConfig.tiny(), **changes)).eval()


@pytest.fixture
def pair() -> tuple[MMCA, MMCA]:
    torch.manual_seed(0)
    return network(), network(region_size=5)


@torch.no_grad()
def encoded(model: MMCA, inputs: dict[str, torch.Tensor]) -> Encoded:
    images = model.encode_images(inputs["regions"], inputs["boxes"], inputs["region_mask"])
    sentences = model.encode_sentences(inputs["words"], inputs["word_mask"])
    return Encoded(images, sentences, inputs["boxes"], np.arange(len(inputs["boxes"])))


def test_the_product_is_the_weighted_mean_of_both_cosines(pair: tuple[MMCA, MMCA]) -> None:
    model, scene = pair
    both = with_scene(model, scene)
    inputs = both.example_inputs(both.config, 4)
    parts = inputs["regions"].split([12, 5], -1)
    half = encoded(both, inputs)
    own, other = (
        encoded(m, {**inputs, "regions": part}) for m, part in zip(pair, parts, strict=True)
    )
    for share in (0.0, 0.3, 1.0):
        wanted = (1 - share) * own.separable + share * other.separable
        rescaled = set_share(both, half, share)
        assert np.allclose(rescaled.separable, wanted, atol=1e-5)
        assert np.allclose(encoded(both, inputs).separable, wanted, atol=1e-5)
        assert torch.allclose(rescaled.images.embedding.norm(dim=1), torch.ones(4), atol=1e-5)


def test_the_cross_unit_and_its_maps_do_not_change(pair: tuple[MMCA, MMCA]) -> None:
    model, scene = pair
    both = with_scene(model, scene)
    inputs = both.example_inputs(both.config, 3)
    with torch.no_grad():
        joined = both(**inputs)
        alone = model(**{**inputs, "regions": inputs["regions"][..., :12]})
    assert torch.allclose(joined.crossed, alone.crossed, atol=1e-6)
    assert torch.allclose(joined.region_shares, alone.region_shares, atol=1e-6)


def test_a_second_pair_takes_the_place_of_an_earlier_one(pair: tuple[MMCA, MMCA]) -> None:
    model, scene = pair
    once = with_scene(model, network(region_size=7))
    twice = with_scene(once, scene)
    assert (twice.config.region_size, twice.config.scene_size) == (17, 5)
    kept, first = twice.separable.state_dict(), model.separable.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in first.items())


def test_the_share_goes_to_the_pair_that_knows() -> None:
    """The scene's embeddings pair photographs with their captions; the model's are noise."""
    rng = torch.Generator().manual_seed(0)
    count, width = 12, 16
    truth = torch.nn.functional.normalize(torch.randn(count, width, generator=rng), dim=1)
    noise = torch.nn.functional.normalize(torch.randn(6 * count, width, generator=rng), dim=1)
    captions = truth.repeat_interleave(5, 0)
    mask = torch.ones(count, 1, dtype=torch.bool)
    model = network()
    blank = encoded(model, model.example_inputs(model.config, count))
    for images, sentences, low, high in (
        ([noise[:count], truth], [noise[count:], captions], 0.3, 1.0),
        ([truth, noise[:count]], [captions, noise[count:]], 0.0, 0.3),
    ):
        joined = replace(
            blank,
            images=replace(blank.images, embedding=torch.cat(images, 1) / 2**0.5, mask=mask),
            sentences=replace(blank.sentences, embedding=torch.cat(sentences, 1) / 2**0.5),
        )
        assert low <= choose_share(joined, width) <= high

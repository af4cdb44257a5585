"""Rollout and relevance through pooling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crossfuse.attention import Want
from crossfuse.errors import CrossfuseError
from crossfuse.explain.multiview import carried_maps, decision, layers_of, mass_between_views
from crossfuse.explain.relevance import relevance_rows, weighted_maps
from crossfuse.explain.rollout import Layer, pooling_operator, rollout, row_normalised
from crossfuse.models.mmvit import MMViT, MMViTConfig

RNG = np.random.default_rng(0)


def attention(rows: int, columns: int) -> np.ndarray:
    return row_normalised(RNG.random((rows, columns)))


def test_identity_attention_rolls_out_to_the_identity() -> None:
    np.testing.assert_allclose(rollout([Layer(np.eye(5))] * 3), np.eye(5))


def test_uniform_attention_is_half_itself_half_the_mean() -> None:
    expected = 0.5 * np.eye(4) + 0.5 * np.full((4, 4), 0.25)
    np.testing.assert_allclose(rollout([Layer(np.full((4, 4), 0.25))]), expected)


def test_rows_of_a_rollout_through_pools_sum_to_one_and_one_row_is_enough() -> None:
    keys, half = pooling_operator(5, 7, 2, special=1), pooling_operator(5, 7, 2, special=1)
    layers = [
        Layer(attention(36, 13), keys),
        Layer(attention(13, 13), keys, half),
        Layer(attention(13, 13)),
    ]
    whole = rollout(layers)
    assert whole.shape == (13, 36)
    np.testing.assert_allclose(whole.sum(1), 1.0)
    np.testing.assert_allclose(rollout(layers, np.eye(13)[4]), whole[4:5], atol=1e-12)


def test_pooling_operators_follow_the_grid_arithmetic_and_keep_special_tokens() -> None:
    operator = pooling_operator(7, 4, 2, special=1)
    assert operator.shape == (1 + 4 * 2, 1 + 28)
    np.testing.assert_allclose(operator.sum(1), 1.0)
    assert operator[0, 0] == 1.0
    # The middle of an inner window is cell (2 i, 2 j); it sees its eight neighbours.
    seen = operator[1 + 1 * 2 + 1, 1:].reshape(7, 4)
    assert set(map(tuple, np.argwhere(seen > 0))) == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


def test_a_chain_with_a_gap_or_a_bare_rectangular_map_is_refused() -> None:
    with pytest.raises(CrossfuseError, match="every layer in between"):
        rollout([Layer(attention(4, 4)), Layer(attention(5, 5))])
    with pytest.raises(CrossfuseError, match="needs both"):
        Layer(attention(3, 5))


def test_relevance_rows_are_rows_of_the_matrix_recursion() -> None:
    layers = [Layer(RNG.random((6, 6))) for _ in range(4)]
    whole = np.eye(6)
    for layer in layers:
        whole = whole + layer.attention @ whole
    np.testing.assert_allclose(relevance_rows(layers, np.eye(6)[2])[0], whole[2], rtol=1e-12)
    nothing = [Layer(np.zeros((6, 6)))] * 3
    np.testing.assert_allclose(relevance_rows(nothing, np.eye(6)[1])[0], np.eye(6)[1])


@pytest.fixture(scope="module")
def traced() -> tuple[MMViT, object, tuple[int, int]]:
    torch.manual_seed(0)
    config = replace(MMViTConfig.tiny(), head="all_views", cross_in_last_stage=True)
    model = MMViT(config).eval()
    images = torch.randn(1, 3, 40, 32, requires_grad=True)
    return model, model(images, want=Want.everything(check=True)), (40, 32)


def test_weighted_maps_are_the_gradient_of_the_map_times_the_map(traced: tuple) -> None:
    _, output, _ = traced
    target = output.logits[0, 2]
    parts = [entry.weights for entry in output.maps]
    true = torch.autograd.grad(target, parts, retain_graph=True)
    output_maps = weighted_maps(output.logits[0, 2], output.maps)
    for entry, gradient, mine in zip(output.maps, true, output_maps, strict=True):
        expected = (gradient * entry.weights).clamp(min=0).mean(1)
        torch.testing.assert_close(mine, expected.detach(), atol=1e-7, rtol=1e-4)


def test_maps_without_a_graph_are_refused() -> None:
    model = MMViT(MMViTConfig.tiny()).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 32, 32), want=Want.everything(check=True))
    with pytest.raises(CrossfuseError, match="with gradients"):
        weighted_maps(output.logits[0, 0], output.maps)


@pytest.mark.parametrize(
    "change", [{}, {"head": "all_views"}, {"fusion": "none", "head": "all_views"}, {"views": 1}]
)
def test_carried_maps_cover_every_token_that_enters_the_pyramid(change: dict) -> None:
    torch.manual_seed(1)
    model = MMViT(replace(MMViTConfig.tiny(), **change)).eval()
    size = (36, 32)
    images = torch.randn(1, 3, *size, requires_grad=True)
    output = model(images, want=Want.everything(check=True))
    start = decision(model, size)
    assert start.sum() == pytest.approx(1.0)
    maps = [entry.weights[0].detach().mean(0).numpy() for entry in output.maps]
    carried = rollout(layers_of(model, maps, size), start)
    tokens = sum(map(len, model.view_layouts(size).values()))
    assert carried.shape == (1, tokens)
    assert carried.sum() == pytest.approx(1.0, abs=1e-5)
    first, second = carried_maps(model, output, output.logits[0, 0], size)
    cells = carried[0, 1:] / carried[0, 1:].sum()  # all but the class token
    np.testing.assert_allclose(first.weights[0, 0], cells, rtol=1e-4)
    assert second.direction == "relevance"
    assert np.isfinite(second.weights).all()


def test_mass_between_views_sums_to_one_beside_its_base_rate(traced: tuple) -> None:
    model, output, size = traced
    found = mass_between_views(output.maps, model.layouts(size))
    assert found["mass_blocks"] == [
        f"{m.stage}/{m.layer}/{m.direction}" for m in output.maps if m.direction == "across views"
    ]
    for mass, base in zip(found["mass"], found["base"], strict=True):
        np.testing.assert_allclose(mass.sum(1), 1.0, rtol=1e-5)
        assert base.sum() == pytest.approx(1.0)

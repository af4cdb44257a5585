"""The 2-D cross-attention block; each of the widespread mistakes has its test."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossfuse.attention import Want
from crossfuse.errors import CrossfuseError
from crossfuse.models.feature_map import (
    FeatureMapAttention,
    FeatureMapConfig,
    FeatureMapPair,
    frozen_heads,
    position_code,
    reduce_keys,
    smallest_reduction,
)

EVERYTHING = Want.everything(check=True)


def block(**changes: object) -> FeatureMapAttention:
    torch.manual_seed(0)
    values = {"query_channels": 8, "key_channels": 8, "width": 16, "heads": 1, "positions": False}
    return FeatureMapAttention(FeatureMapConfig(**{**values, **changes})).eval()


def identity_block(channels: int, sharpness: float = 8.0, **changes: object) -> FeatureMapAttention:
    """Query and key project by (almost) nothing, value and output by nothing at all."""
    made = block(query_channels=channels, key_channels=channels, width=channels, **changes)
    eye = torch.eye(channels)[..., None, None]
    with torch.no_grad():
        for layer in (made.to_query, made.to_key, made.to_value, made.to_output):
            layer.weight.copy_(eye)
            layer.bias.zero_()
        made.to_query.weight.mul_(sharpness * math.sqrt(channels))
    return made


def one_hot_map(rows: int, columns: int) -> Tensor:
    """Every cell has a channel of its own: (1, N, rows, columns)."""
    return torch.eye(rows * columns).reshape(1, rows * columns, rows, columns)


@torch.no_grad()
def weights_of(model: FeatureMapAttention, x: Tensor, y: Tensor | None, **more: object) -> Tensor:
    return model(x, y, want=EVERYTHING, **more).maps[0].weights


def test_the_output_depends_on_what_is_asked() -> None:
    x, y = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2, requires_grad=True)
    block()(x, y).output.sum().backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0


@pytest.mark.parametrize("heads", [1, 4])
def test_agrees_with_the_textbook_formula(heads: int) -> None:
    model = block(heads=heads)
    x, y = torch.randn(2, 8, 3, 4), torch.randn(2, 8, 5, 2)
    with torch.no_grad():
        got = model(x, y, want=EVERYTHING)
        q, k, v = (
            conv(m).flatten(2).transpose(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
            for conv, m in ((model.to_query, x), (model.to_key, y), (model.to_value, y))
        )
        reference = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(got.maps[0].context, reference, atol=1e-6, rtol=1e-5)
        merged = reference.transpose(1, 2).flatten(2).transpose(1, 2).reshape(2, 16, 3, 4)
        torch.testing.assert_close(got.output, x + model.to_output(merged), atol=1e-5, rtol=1e-5)


def test_rows_not_columns_sum_to_one() -> None:
    weights = weights_of(block(), torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2) * 4)
    assert weights.shape == (1, 1, 12, 10)  # N_q rows, N_k columns
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 12))
    assert (weights.sum(-2) - 1).abs().max() > 0.05


def test_a_row_follows_its_key_to_another_row_and_column() -> None:
    model = identity_block(12)
    y = one_hot_map(3, 4)
    x = y[:, :, 1:2, 2:3]  # a single query: looks like cell (1, 2)
    assert weights_of(model, x, y).argmax() == 1 * 4 + 2
    moved = y.roll((1, 1), dims=(2, 3))
    assert weights_of(model, x, moved).argmax() == 2 * 4 + 3


def test_output_is_on_the_query_grid() -> None:
    # 8 x 2 queries against 4 x 4 keys: equal counts, so a wrong reshape would not crash.
    model = identity_block(16)
    y = one_hot_map(4, 4)
    x = torch.zeros(1, 16, 8, 2)
    x[0, 5, 6, 1] = 1.0  # the only cell that looks like key 5
    with torch.no_grad():
        added = model(x, y).output - x
    assert added.shape == x.shape
    assert added[0, 5].flatten().argmax() == 6 * 2 + 1
    assert added[0, 5, 6, 1] > 0.9


def test_the_residual_belongs_to_the_query() -> None:
    model = block(query_channels=6, key_channels=10)
    x, y = torch.randn(2, 6, 3, 7), torch.randn(2, 10, 5, 2)
    with torch.no_grad():
        assert model(x, y).output.shape == x.shape
        model.gamma.zero_()
        assert torch.equal(model(x, y).output, x)


def test_one_hot_values_return_the_map_itself() -> None:
    model = identity_block(12, sharpness=1.0)
    x, y = torch.randn(1, 12, 2, 5), one_hot_map(3, 4)
    with torch.no_grad():
        got = model(x, y, want=EVERYTHING)
    added = (got.output - x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(added, got.maps[0].weights[:, 0], atol=1e-6, rtol=1e-5)


def test_permuting_keys_changes_nothing_and_queries_permute_rows() -> None:
    model = block()
    x, y = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2)
    order = torch.randperm(10)
    shuffled = y.flatten(2)[..., order].unflatten(2, (5, 2))
    with torch.no_grad():
        torch.testing.assert_close(model(x, y).output, model(x, shuffled).output)
    torch.testing.assert_close(weights_of(model, x, y)[..., order], weights_of(model, x, shuffled))
    rows = torch.randperm(12)
    turned = x.flatten(2)[..., rows].unflatten(2, (3, 4))
    torch.testing.assert_close(weights_of(model, x, y)[:, :, rows], weights_of(model, turned, y))


def test_positions_tell_places_apart_and_equal_places_match() -> None:
    flat = torch.ones(1, 8, 6, 6)
    with_places = block(positions=True)
    assert weights_of(with_places, flat, flat).std() > 1e-4
    torch.testing.assert_close(weights_of(block(), flat, flat), torch.full((1, 1, 36, 36), 1 / 36))
    coarse, fine = position_code(2, 2, 32), position_code(6, 6, 32)
    nearest = (coarse @ fine.T).argmax(1)  # centres of the quarters are centres of cells
    assert nearest.tolist() == [7, 10, 25, 28]


def test_temperature_to_zero_copies_the_best_and_one_key_takes_all() -> None:
    model = block()
    x, y = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2)
    cold = weights_of(model, x, y, temperature=1e-4)
    assert torch.equal(cold.argmax(-1), weights_of(model, x, y).argmax(-1))
    assert cold.max(-1).values.min() > 0.99
    assert weights_of(model, x, y[..., :1, :1]).eq(1).all()
    with pytest.raises(CrossfuseError, match="above 0"):
        model(x, y, temperature=0.0)


def test_masked_keys_get_exactly_nothing() -> None:
    model = block()
    x, y = torch.randn(2, 8, 3, 4), torch.randn(2, 8, 4, 4)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[0, :, 3:] = False
    mask[1] = False  # nothing to look at: zeros, not NaN
    weights = weights_of(model, x, y, key_mask=mask).unflatten(-1, (4, 4))
    assert weights[0, ..., 3:].eq(0).all()
    assert weights[1].eq(0).all()
    with torch.no_grad():
        whole = model(x, y, key_mask=mask).output
        cropped = model(x[:1], y[:1, :, :, :3].contiguous()).output
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[:1], cropped)


def test_reduction_keeps_masked_cells_out_and_bounds_the_keys() -> None:
    y = torch.randn(2, 3, 7, 6)
    mask = torch.ones(2, 7, 6, dtype=torch.bool)
    mask[0, :, 4:] = False
    dirty = y.masked_fill(~mask[:, None], 1e6)
    pooled, real = reduce_keys(dirty, mask, 2)
    assert pooled.shape == (2, 3, 4, 3)
    torch.testing.assert_close(pooled[0, :, 0, 0], y[0, :, :2, :2].mean((1, 2)))
    torch.testing.assert_close(pooled[1, :, 3, 0], y[1, :, 6, :2].mean(1))  # half a square
    assert real is not None
    assert real.unflatten(1, (4, 3))[0].tolist() == [[True, True, False]] * 4
    model = block(max_keys=20)
    assert weights_of(model, y.new_zeros(1, 8, 2, 2), torch.randn(1, 8, 9, 30)).shape[-1] <= 20


@given(rows=st.integers(1, 200), columns=st.integers(1, 200), most=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_the_smallest_reduction_that_fits(rows: int, columns: int, most: int) -> None:
    def keys(r: int) -> int:
        return math.ceil(rows / r) * math.ceil(columns / r)

    r = smallest_reduction(rows, columns, most)
    assert keys(r) <= most
    assert r == 1 or keys(r - 1) > most


def test_odd_memory_layouts_and_huge_scores() -> None:
    model = block()
    x, y = torch.randn(1, 8, 4, 3), torch.randn(1, 8, 2, 5)
    with torch.no_grad():
        plain = model(x, y).output
        strided = model(x.transpose(2, 3).contiguous().transpose(2, 3), y.flip(3).flip(3)).output
        last = model(x.contiguous(memory_format=torch.channels_last), y).output
        torch.testing.assert_close(strided, plain)
        torch.testing.assert_close(last, plain)
        half = model.bfloat16()((x * 1e4).bfloat16(), (y * 1e4).bfloat16(), want=Want.everything())
    assert half.output.isfinite().all()
    torch.testing.assert_close(half.maps[0].weights.sum(-1), torch.ones(1, 1, 12))


def test_self_attention_is_asking_oneself() -> None:
    model, x = block(), torch.randn(1, 8, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(x).output, model(x, x).output)


def test_chosen_rows_are_rows_of_the_whole() -> None:
    model = block(heads=4)
    x, y = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 2)
    whole = weights_of(model, x, y)
    with torch.no_grad():
        some = model(x, y, want=Want.of_rows([7, 2])).maps[0]
    assert some.rows is not None
    torch.testing.assert_close(some.weights, whole[:, :, [7, 2]])


def test_the_pair_looks_both_ways_with_weights_of_its_own() -> None:
    torch.manual_seed(0)
    pair = FeatureMapPair(FeatureMapConfig.small())
    x, y = torch.randn(2, 6, 4, 5), torch.randn(2, 10, 3, 2)
    with torch.no_grad():
        got = pair(x, y, want=Want.everything())
    assert (got.x.shape, got.y.shape) == (x.shape, y.shape)
    assert [(m.query, m.key) for m in got.maps] == [("x", "y"), ("y", "x")]
    assert got.maps[0].weights.shape[-2:] == (20, 6)
    assert got.maps[1].weights.shape[2] == 6


def test_the_block_learns_a_known_permutation() -> None:
    """y holds the cells of x, shuffled: trained to restore x from y, A becomes the permutation."""
    torch.manual_seed(0)
    model = FeatureMapAttention(
        FeatureMapConfig(query_channels=8, key_channels=8, width=32, heads=1, positions=False)
    )
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(300):
        x = torch.randn(8, 8, 4, 4)
        y = x.flatten(2)[..., torch.randperm(16)].unflatten(2, (4, 4))
        loss = F.mse_loss(model(x, y).output - x, x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.randn(1, 8, 4, 4)
    order = torch.randperm(16)
    y = x.flatten(2)[..., order].unflatten(2, (4, 4))
    weights = weights_of(model, x, y)[0, 0]
    right = order.argsort()
    assert (weights.argmax(1) == right).float().mean() >= 0.8


def test_frozen_heads_are_cosines_of_standardised_features() -> None:
    x, y = torch.randn(2, 9, 3, 4) * 5 + 7, torch.randn(2, 9, 2, 2) * 5 + 7
    query, key = frozen_heads(x, y, heads=2)
    assert query.shape == (2, 2, 12, 4)
    assert key.shape == (2, 2, 4, 4)
    torch.testing.assert_close(query.norm(dim=-1), torch.ones(2, 2, 12))
    same, _ = frozen_heads(x, x, 1)
    assert (same[0, 0] @ same[0, 0].T).argmax(1).tolist() == list(range(12))
    torch.testing.assert_close(frozen_heads(x * 3 + 1, y * 3 + 1, 2)[0], query)
    with pytest.raises(CrossfuseError, match="same channels"):
        frozen_heads(x, torch.randn(2, 8, 2, 2), 1)
    with pytest.raises(CrossfuseError, match="heads"):
        frozen_heads(x, y, 10)


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(CrossfuseError, match="8 and 8 channels; got 8 and 5"):
        block()(torch.randn(1, 8, 2, 2), torch.randn(1, 5, 2, 2))
    with pytest.raises(CrossfuseError, match="shared by 3 heads"):
        FeatureMapConfig(width=16, heads=3)

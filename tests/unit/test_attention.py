"""The kernel against a float64 reference, over shapes, masks, heads and wishes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossfuse.attention import Want, attend, gradient_weighted_map, map_gradient, map_rows

TOLERANCE = 1e-5


def reference(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = query.double() @ key.double().transpose(-2, -1) / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias.double()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return weights @ value.double(), weights


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Tensor | None]:
    size = st.integers(1, 9)
    batch, heads, queries, keys = (draw(size) for _ in range(4))
    batch, heads = min(batch, 3), min(heads, 4)
    width = draw(st.sampled_from([1, 4, 8, 16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask_kind = draw(st.sampled_from(["none", "keys", "full", "both"]))
    key_mask = torch.rand(batch, keys, generator=generator) < 0.7 if "ke" in mask_kind else None
    mask = None
    if mask_kind in ("full", "both"):
        mask = torch.rand(batch, heads, queries, keys, generator=generator) < 0.7
    if mask_kind == "both":
        key_mask = torch.rand(batch, keys, generator=generator) < 0.7
    bias = normal(heads, queries, keys) if draw(st.booleans()) else None
    return {
        "query": normal(batch, heads, queries, width),
        "key": normal(batch, heads, keys, width),
        "value": normal(batch, heads, keys, width),
        "key_mask": key_mask,
        "mask": mask,
        "bias": bias,
    }


def allowed_of(problem: dict) -> Tensor | None:
    mask, key_mask = problem["mask"], problem["key_mask"]
    if key_mask is None:
        return mask
    padding = key_mask[:, None, None, :]
    return padding if mask is None else mask & padding


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_every_wish_agrees_with_float64(problem: dict, data: st.DataObject) -> None:
    output, weights = reference(
        problem["query"], problem["key"], problem["value"], allowed_of(problem), problem["bias"]
    )
    queries, keys = weights.shape[2:]
    heads = weights.shape[1]

    plain = attend(**problem)
    assert plain.weights is None
    torch.testing.assert_close(plain.output.double(), output, atol=TOLERANCE, rtol=TOLERANCE)

    whole = attend(**problem, want=Want.everything())
    torch.testing.assert_close(whole.output.double(), output, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(whole.weights.double(), weights, atol=TOLERANCE, rtol=0)

    mean = attend(**problem, want=Want.everything(head_mean=True))
    torch.testing.assert_close(mean.output.double(), output, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(
        mean.weights.double(), weights.mean(1, keepdim=True), atol=TOLERANCE, rtol=0
    )

    rows = data.draw(st.lists(st.integers(0, queries - 1), min_size=1, max_size=4))
    chosen = data.draw(st.lists(st.integers(0, heads - 1), min_size=1, max_size=3))
    some = attend(**problem, want=Want.of_rows(rows, heads=chosen))
    torch.testing.assert_close(
        some.weights.double(), weights[:, chosen][:, :, rows], atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(some.output, plain.output)

    labels = torch.tensor(data.draw(st.lists(st.integers(-1, 3), min_size=keys, max_size=keys)))
    labels[0] = 0
    grouped = attend(**problem, want=Want.of_groups(labels))
    count = int(labels.max()) + 1
    expected = torch.stack([weights[..., labels == g].sum(-1) for g in range(count)], -1)
    torch.testing.assert_close(grouped.weights.double(), expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=25, deadline=None)
@given(problems())
def test_gradients_agree_with_the_reference_and_are_never_nan(problem: dict) -> None:
    allowed = allowed_of(problem)
    tensors = [problem[name].double().requires_grad_() for name in ("query", "key", "value")]
    output, _ = reference(*tensors, allowed, problem["bias"])
    upstream = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    grads = torch.autograd.grad((output * upstream).sum(), tensors, materialize_grads=True)
    for want in (Want.nothing(), Want.everything()):
        leaves = [problem[name].clone().requires_grad_() for name in ("query", "key", "value")]
        other = {name: problem[name] for name in ("key_mask", "mask", "bias")}
        result = attend(*leaves, **other, want=want).output
        mine = torch.autograd.grad((result * upstream).sum(), leaves, materialize_grads=True)
        for got, true in zip(mine, grads, strict=True):
            assert torch.isfinite(got).all()
            if torch.isfinite(true).all():  # the plain reference is NaN on rows without a key
                torch.testing.assert_close(got.double(), true, atol=1e-4, rtol=1e-4)


def test_rows_can_differ_by_sample() -> None:
    query, key, value = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    whole = attend(query, key, value, want=Want.everything()).weights
    rows = torch.tensor([[0, 4], [3, 1]])
    some = attend(query, key, value, want=Want.of_rows(rows)).weights
    for sample in range(2):
        torch.testing.assert_close(some[sample], whole[sample][:, rows[sample]])


def test_group_weights_and_more_groups_than_the_head_is_wide() -> None:
    query, key, value = (torch.randn(2, 2, n, 4) for n in (5, 30, 30))
    weights = attend(query, key, value, want=Want.everything()).weights
    membership = torch.rand(2, 30, 11)
    mass = attend(query, key, value, want=Want.of_groups(membership, head_mean=True)).weights
    expected = (weights @ membership[:, None]).mean(1, keepdim=True)
    torch.testing.assert_close(mass, expected, atol=1e-6, rtol=1e-5)


def test_a_query_without_keys_is_zero_and_finite() -> None:
    query, key, value = (torch.randn(2, 1, 3, 4, requires_grad=True) for _ in range(3))
    key_mask = torch.tensor([[True, True, False], [False, False, False]])
    for want in (Want.nothing(), Want.everything(), Want.of_rows([0, 2])):
        result = attend(query, key, value, key_mask=key_mask, want=want)
        assert (result.output[1] == 0).all()
        if result.weights is not None:
            assert (result.weights[1] == 0).all()
            assert (result.weights[0, ..., 2] == 0).all()
        result.output.sum().backward()
        assert all(torch.isfinite(leaf.grad).all() for leaf in (query, key, value))


def test_half_precision_maps_are_float32_and_close() -> None:
    query, key, value = (torch.randn(1, 2, n, 16) for n in (33, 21, 21))
    exact = attend(query, key, value, want=Want.everything()).weights
    half = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), want=Want.everything())
    assert half.output.dtype == torch.bfloat16
    assert half.weights.dtype == torch.float32
    torch.testing.assert_close(half.weights.sum(-1), torch.ones(1, 2, 33))
    torch.testing.assert_close(half.weights, exact, atol=2e-2, rtol=0)


def test_large_scores_do_not_overflow() -> None:
    query = torch.full((1, 1, 2, 4), 1e4)
    key = torch.randn(1, 1, 3, 4) * 1e4
    result = attend(query, key, torch.randn(1, 1, 3, 4), want=Want.everything())
    assert torch.isfinite(result.output).all()
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(1, 1, 2))


def test_map_gradient_is_autograds() -> None:
    query, key, value = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    weights = torch.softmax(query @ key.transpose(-2, -1) / 8**0.5, -1).requires_grad_()
    output = weights @ value
    upstream = torch.randn_like(output)
    (true,) = torch.autograd.grad((output * upstream).sum(), weights)
    torch.testing.assert_close(map_gradient(upstream, value), true)
    rows = torch.tensor([4, 0])
    torch.testing.assert_close(map_gradient(upstream, value, rows), true[:, :, rows])
    expected = (true * weights).clamp(min=0).mean(1).detach()
    torch.testing.assert_close(gradient_weighted_map(query, key, value, upstream), expected)


def test_gradient_weighted_map_works_by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, upstream = (torch.randn(2, 3, 9, 8) for _ in range(4))
    mask = torch.rand(2, 1, 9, 9) < 0.8
    whole = gradient_weighted_map(query, key, value, upstream, mask=mask, positive=False)
    monkeypatch.setattr("crossfuse.attention.gradient.TILE_ELEMENTS", 40)
    tiled = gradient_weighted_map(query, key, value, upstream, mask=mask, positive=False)
    torch.testing.assert_close(tiled, whole)


def test_one_key_means_weight_one() -> None:
    query, key, value = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8)
    result = attend(query, key, value, want=Want.everything())
    assert (result.weights == 1).all()
    torch.testing.assert_close(result.output, value.expand_as(result.output))


@pytest.mark.parametrize(
    ("query", "key", "value", "extra", "said"),
    [
        ((1, 2, 3, 4), (1, 2, 5, 6), (1, 2, 5, 4), {}, "do not fit"),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 6, 4), {}, "do not fit"),
        ((2, 3, 4), (2, 3, 4), (2, 3, 4), {}, "do not fit"),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), {"mask": torch.zeros(3, 5)}, "bool"),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), {"want": Want.of_rows([3])}, "rows 3"),
        (
            (1, 2, 3, 4),
            (1, 2, 5, 4),
            (1, 2, 5, 4),
            {"want": Want.of_rows([0], heads=[2])},
            "heads",
        ),
        (
            (1, 2, 3, 4),
            (1, 2, 5, 4),
            (1, 2, 5, 4),
            {"want": Want.of_groups(torch.zeros(4, dtype=torch.long))},
            "group labels",
        ),
    ],
)
def test_misfits_are_named(query, key, value, extra, said) -> None:
    with pytest.raises(ValueError, match=said):
        attend(torch.zeros(query), torch.zeros(key), torch.zeros(value), **extra)


def test_rows_never_form_the_whole_map() -> None:
    query, key = torch.randn(1, 1, 4096, 8), torch.randn(1, 1, 4096, 8)
    rows = map_rows(query, key, torch.arange(3))
    assert rows.shape == (1, 1, 3, 4096)

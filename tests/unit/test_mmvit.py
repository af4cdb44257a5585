"""MMViT: geometry through pooling and pyramid, the fusion variants, no dead weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from crossfuse.attention import Want
from crossfuse.errors import CrossfuseError
from crossfuse.models import pooling_attention
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.models.mmvit_blocks import plan_blocks
from crossfuse.models.pooling_attention import Layout, RelativePositions, place_codes, pooled
from crossfuse.models.residual_front import ResidualFront, channels_at, settle_norms

TINY = MMViTConfig.tiny()
VARIANTS = {
    "tiny": TINY,
    "one view": replace(TINY, views=1),
    "three views": replace(TINY, views=3, head="all_views"),
    "sequential": replace(TINY, views=3, fusion="sequential", head="all_views"),
    "class token": replace(TINY, fusion="class_token", head="all_views"),
    "apart": replace(TINY, fusion="none", head="all_views"),
    "cross in last stage": replace(TINY, cross_in_last_stage=True),
    "convolutions": replace(TINY, stem="convolutions"),
    "residual": replace(TINY, stem="residual"),
    "lite2": replace(TINY, stem="lite2", stride=8, image_size=64),
}


def build(config: MMViTConfig, seed: int = 0) -> MMViT:
    torch.manual_seed(seed)
    return MMViT(config).eval()


def test_the_paper_has_sixteen_blocks_in_its_order() -> None:
    plans = plan_blocks(MMViTConfig.paper())
    kinds = [plan.kind for plan in plans]
    assert len(kinds) == 16
    assert [i for i, kind in enumerate(kinds) if kind == "scaled"] == [1, 3, 14]
    assert [i for i, kind in enumerate(kinds) if kind == "cross"] == [0, 2, 13]
    assert [plan.width_out for plan in plans][::5] == [96, 384, 384, 768]
    # Nothing of the other view reaches a class-token head after the last cross block.
    assert [plan.outputs for plan in plans[12:]] == [(0, 1), (0,), (0,), (0,)]


@pytest.mark.parametrize("size", [(224, 224), (224, 192), (200, 136), (97, 33)])
def test_grids_follow_the_formula_for_odd_sizes_too(size: tuple[int, int]) -> None:
    model = build(replace(TINY, blocks=(0, 0, 1), key_stride=4))
    view = model.view_layouts(size)
    for number, layout in view.items():
        stride = 4 << number
        assert layout.grid == tuple((side - 1) // stride + 1 for side in size)
    for before, after in pairwise(model.stream_layouts(size)):
        for number in after:
            steps = {a.stride // before[number].stride for a in (after[number],)}
            stride = steps.pop()
            expected = tuple(pooled(cells, stride) for cells in before[number].grid)
            assert after[number].grid in (expected, (0, 0))
    assert [pooled(7, 2), pooled(4, 2), pooled(1, 2)] == [4, 2, 1]


@pytest.mark.parametrize("name", VARIANTS)
def test_maps_have_the_shapes_that_the_layouts_promise(name: str) -> None:
    config = VARIANTS[name]
    model = build(config)
    images = torch.randn(2, 3, config.image_size + 8, config.image_size)
    output = model(images, want=Want.everything(check=True))
    layouts = model.layouts((config.image_size + 8, config.image_size))
    assert len(output.maps) == len(layouts)
    for entry, (key, layout) in zip(output.maps, layouts.items(), strict=True):
        assert key == f"{entry.stage}/{entry.layer}/{entry.direction}"
        shape = sum(map(len, layout.queries.values())), sum(map(len, layout.keys.values()))
        assert tuple(entry.weights.shape[2:]) == shape
        assert entry.value is not None
        assert entry.context is not None
        torch.testing.assert_close(entry.weights.sum(-1), torch.ones(entry.weights.shape[:3]))
        torch.testing.assert_close(entry.weights @ entry.value, entry.context)
    torch.testing.assert_close(output.logits, model(images).logits)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_trained_weight_has_a_gradient(name: str) -> None:
    model = build(VARIANTS[name]).train()
    model(**MMViT.example_inputs(model.config, 4, 0)).logits.square().sum().backward()
    dead = [
        key
        for key, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)
    ]
    assert dead == []


def test_rows_at_chosen_cells_are_rows_of_the_whole_map() -> None:
    model = build(TINY)
    inputs = MMViT.example_inputs(TINY, 1, 0)
    whole = {
        f"{m.stage}/{m.layer}/{m.direction}": m
        for m in model(**inputs, want=Want.everything()).maps
    }
    wants = {name: Want.of_rows([0]) for name in list(whole)[:2]}
    some = model(**inputs, want=wants).maps
    assert len(some) == 2
    for entry in some:
        full = whole[f"{entry.stage}/{entry.layer}/{entry.direction}"]
        torch.testing.assert_close(entry.weights, full.weights[:, :, :1])


@pytest.mark.parametrize("elements", [1, 300, 1 << 18])
@pytest.mark.parametrize("name", VARIANTS)
def test_position_bias_by_tiles_equals_codes_in_the_dot_product(
    name: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients E is added up tile by tile, with them it is part of query and key."""
    monkeypatch.setattr(pooling_attention, "BIAS_ELEMENTS", elements)
    model = build(VARIANTS[name])
    images = MMViT.example_inputs(model.config, 3, 0)["images"][..., :-8]
    with torch.no_grad():
        tiles = model(images)
        rows = model(images, want=Want.of_rows([0]))
        heads = model(images, want=Want.of_rows([0], heads=[1], head_mean=True))
    codes = model(images, want=Want.of_rows([0]))
    torch.testing.assert_close(tiles.logits, codes.logits, atol=1e-5, rtol=0)
    for fast, one, slow in zip(rows.maps, heads.maps, codes.maps, strict=True):
        torch.testing.assert_close(fast.weights, slow.weights, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.weights, slow.weights[:, 1:2], atol=1e-5, rtol=0)


def test_one_view_makes_a_cross_block_a_self_block() -> None:
    crossed = build(replace(TINY, views=1, blocks=(0, 0), cross_in_last_stage=True))
    plain = build(replace(TINY, views=1, blocks=(1, 1), fusion="none"), seed=1)
    state = {
        key.replace(f"blocks.{a}.", f"blocks.{b}."): value
        for key, value in crossed.state_dict().items()
        for a, b in ((0, 0), (1, 2), (2, 3))
        if key.startswith(f"blocks.{a}.")
    }
    kinds = [plan.kind for plan in plan_blocks(plain.config)]
    assert kinds == ["self", "cross", "scaled", "self"]
    rest = {k: v for k, v in crossed.state_dict().items() if not k.startswith("blocks.")}
    missing = plain.load_state_dict(state | rest, strict=False).missing_keys
    del plain.blocks[1]
    assert all(key.startswith("blocks.1.") for key in missing)
    inputs = MMViT.example_inputs(crossed.config, 2, 0)
    torch.testing.assert_close(crossed(**inputs).logits, plain(**inputs).logits)


def test_views_that_may_not_ask_each_other_are_independent() -> None:
    model = build(replace(TINY, fusion="none", head="all_views"))
    images = MMViT.example_inputs(TINY, 1, 0)["images"]
    leaf = model.embeddings["1"](images).detach().requires_grad_(True)

    class Given(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return leaf

    model.embeddings["1"] = Given()
    output = model(images, want=Want.everything(check=True))
    own = next(m for m in output.maps if m.direction == "view 1" and m.layer == 2)
    assert own.context is not None
    (gradient,) = torch.autograd.grad(own.context.sum(), leaf, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_a_token_of_a_patch_stem_lights_exactly_its_pixels() -> None:
    model = build(TINY)
    images = torch.zeros(1, 3, 40, 28, requires_grad=True)
    for view, layout in model.view_layouts((40, 28)).items():
        tokens = model.embeddings[str(view)](images)
        for row, column in ((0, 0), (layout.grid[0] - 1, 1), (1, layout.grid[1] - 1)):
            (gradient,) = torch.autograd.grad(
                tokens[0, :, row, column].sum(), images, retain_graph=True
            )
            seen = gradient[0].abs().sum(0) > 0
            expected = torch.zeros(40, 28, dtype=torch.bool)
            y, x, reach = row * layout.stride, column * layout.stride, layout.stride - 1
            expected[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
            assert torch.equal(seen, expected)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_cell_of_the_residual_stem_lights_exactly_its_pixels(stride: int) -> None:
    """With positive weights nothing cancels and no ReLU closes: what a cell may see, it sees."""
    front = ResidualFront(3, 4, stride).eval()
    for layer in front.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 0.1)
    height, width = 4 * stride + 2, 3 * stride
    images = torch.rand(1, 3, height, width, requires_grad=True)
    (found,) = front(images)
    assert found.shape == (1, channels_at(stride, 4), 5, 3)
    # Each 3 x 3 convolution reaches as far as its input's stride: the halving ones, then blocks.
    reach = {4: 1 + 2 + 2 * 4, 8: 1 + 2 + 2 * 4 + 4 + 4 * 8, 16: 47 + 8 + 2 * 16}[stride]
    for row, column in ((0, 0), (4, 1), (2, 2)):
        (gradient,) = torch.autograd.grad(found[0, :, row, column].sum(), images, retain_graph=True)
        y, x = row * stride, column * stride
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
        assert torch.equal(gradient[0].sum(0) > 0, expected)


def test_settled_norms_have_the_statistics_of_the_pictures_shown() -> None:
    torch.manual_seed(0)
    front = ResidualFront(3, 4, 4)
    pictures = torch.randn(12, 3, 16, 16) * 3 + 1
    settle_norms(front, pictures.split(4))
    assert not any(m.training for m in front.modules() if isinstance(m, torch.nn.BatchNorm2d))
    convolution, norm = front.layers[0]
    values = convolution(pictures)
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, values.var((0, 2, 3)), rtol=0.05, atol=0)
    alone, together = front.eval()(pictures[:1])[0], front(pictures)[0][:1]
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("name", ["tiny", "convolutions", "residual", "lite2"])
def test_a_planted_pixel_comes_back_in_the_cell_that_holds_it(name: str) -> None:
    """The gradient of one cell is centred on the pixel that its layout names."""
    config = VARIANTS[name]
    model = build(config)
    side = 128
    images = torch.rand(1, 3, side, side, requires_grad=True)
    features = images
    if name == "lite2":
        with torch.enable_grad():
            features = _front_with_gradients(model, images)
    elif name == "residual":
        features = model.stem(images)
    for view, layout in model.view_layouts((side, side)).items():
        tokens = model.embeddings[str(view)](features)
        assert tuple(tokens.shape[2:]) == layout.grid
        cell = layout.grid[0] // 2
        (gradient,) = torch.autograd.grad(
            tokens[0, :, cell, cell].square().sum(), images, retain_graph=True
        )
        reach = torch.nonzero(gradient[0].abs().sum(0)).float()
        middle = (reach.min(0).values + reach.max(0).values) / 2
        centre = layout.origin + cell * layout.stride
        clear = reach.min() > 0 and reach.max() < side - 1
        if clear:
            assert (middle - centre).abs().max() <= 1.5
        assert layout.cell_at(centre, centre) == layout.has_class + cell * layout.grid[1] + cell


def _front_with_gradients(model: MMViT, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    from torch.nn import functional as F

    x = F.relu6(model.stem.first(F.pad(images, (0, 1, 0, 1))))
    taps = []
    for index, block in enumerate(model.stem.blocks):
        x = block(x)
        if index in (6, 14, 19):
            taps.append(x)
    return tuple(taps)


def test_position_codes_give_the_bias_without_its_matrix() -> None:
    torch.manual_seed(0)
    asking, asked = Layout((6, 5), 4, 0, (24, 20)), Layout((3, 3), 8, 0, (24, 20))
    positions = RelativePositions(6, 4)
    query = torch.randn(1, 2, 30, 4)
    fast = torch.cat(positions(query, asking, asked), -1) @ place_codes([asked]).T
    for q, k in ((0, 0), (29, 8), (13, 4)):
        offsets = []
        for axis, (qi, ki) in enumerate(((q // 5, k // 3), (q % 5, k % 3))):
            fraction = (qi * 4 - ki * 8) / (24, 20)[axis]
            place = (fraction + 1) * 6 - 1
            low = int(np.clip(np.floor(place), 0, 9))
            table = (positions.rows, positions.columns)[axis]
            offsets.append(
                torch.lerp(table[low], table[low + 1], float(np.clip(place - low, 0, 1)))
            )
        slow = (query[0, :, q] * (offsets[0] + offsets[1])).sum(-1)
        torch.testing.assert_close(fast[0, :, q, k], slow)


def test_too_small_or_too_large_pictures_are_refused_with_a_sentence() -> None:
    with pytest.raises(CrossfuseError, match="8 to 512 pixels"):
        build(TINY)(torch.zeros(1, 3, 4, 40))

"""The sparse U-Net against dense convolutions, and what MIT's sheet of traps asks for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossfuse.attention import Want
from crossfuse.models.mit import MIT, MITConfig
from crossfuse.models.sparse_unet import (
    Grid,
    SparseConv,
    SparseUNet,
    SparseUNetConfig,
    batch_grid,
    upward,
    voxel_keys,
)

either = pytest.mark.parametrize("tables", [False, True], ids=["rulebook", "tables"])


def _full_grid(
    shape: tuple[int, int, int], tables: bool, seed: int = 0
) -> tuple[Grid, torch.Tensor]:
    cells = torch.stack(
        torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1
    ).reshape(-1, 3)
    shuffle = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(1, len(cells), dtype=torch.bool)
    grid, order = batch_grid(cells[shuffle][None], mask, tables)
    return grid, shuffle[order]


def _dense(weight: torch.Tensor, size: int) -> torch.Tensor:
    return weight.reshape(size, size, size, *weight.shape[1:]).permute(4, 3, 0, 1, 2)


@either
@pytest.mark.parametrize("kernel", [3, 5])
def test_submanifold_equals_conv3d_on_a_full_grid(kernel: int, tables: bool) -> None:
    torch.manual_seed(0)
    grid, order = _full_grid((4, 6, 7), tables)
    x = torch.randn(1, 5, 4, 6, 7, requires_grad=True)
    layer = SparseConv(kernel**3, 5, 3)
    rows = x[0].flatten(1).T[order]
    got = layer(rows, grid.rules(kernel), len(grid))
    want = F.conv3d(x, _dense(layer.weight, kernel), padding=kernel // 2)[0].flatten(1).T[order]
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    probe = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * probe).sum(), [x, layer.weight], retain_graph=True),
        torch.autograd.grad((want * probe).sum(), [x, layer.weight]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@either
def test_submanifold_equals_masked_conv3d_on_a_sparse_grid(tables: bool) -> None:
    torch.manual_seed(1)
    occupied = torch.rand(6, 6, 6) < 0.3
    cells = torch.nonzero(occupied)
    grid, order = batch_grid(cells[None], torch.ones(1, len(cells), dtype=torch.bool), tables)
    x = torch.randn(1, 4, 6, 6, 6) * occupied
    layer = SparseConv(27, 4, 4)
    at = cells[order]
    got = layer(x[0, :, at[:, 0], at[:, 1], at[:, 2]].T, grid.rules(3), len(grid))
    dense = F.conv3d(x, _dense(layer.weight, 3), padding=1)
    want = dense[0, :, at[:, 0], at[:, 1], at[:, 2]].T
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@either
def test_strided_and_transposed_equal_conv3d(tables: bool) -> None:
    torch.manual_seed(2)
    grid, order = _full_grid((4, 6, 8), tables)
    x = torch.randn(1, 3, 4, 6, 8)
    coarse, _, _ = grid.coarser()
    down = SparseConv(8, 3, 5)
    got = down(x[0].flatten(1).T[order], grid.octant_rules(), len(coarse))
    want = F.conv3d(x, _dense(down.weight, 2), stride=2)
    torch.testing.assert_close(got, want[0].flatten(1).T, atol=2e-5, rtol=1e-4)
    up = SparseConv(8, 5, 2)
    back = up(got, upward(grid.octant_rules()), len(grid))
    kernel = up.weight.reshape(2, 2, 2, 5, 2).permute(3, 4, 0, 1, 2)
    dense = F.conv_transpose3d(want, kernel, stride=2)
    torch.testing.assert_close(back, dense[0].flatten(1).T[order], atol=2e-5, rtol=1e-4)


def test_tables_and_rulebooks_give_the_same_network_and_gradients() -> None:
    torch.manual_seed(4)
    net = SparseUNet(SparseUNetConfig.small(3)).eval()
    cells = torch.randint(0, 12, (2, 150, 3))
    cells = torch.stack([part.unique(dim=0)[:120] for part in cells])
    mask = torch.rand(2, 120) < 0.9
    results = []
    for tables in (False, True):
        grid, order = batch_grid(cells, mask, tables)
        x = torch.sin(torch.arange(720.0)).view(-1, 3)[order].requires_grad_()
        out = net(x, grid)
        grads = torch.autograd.grad(out.square().sum(), [x, *net.parameters()])
        results.append([out, *grads])
    for rulebook, table in zip(*results, strict=True):
        torch.testing.assert_close(rulebook, table, atol=1e-4, rtol=1e-3)


def test_samples_of_a_batch_do_not_touch() -> None:
    torch.manual_seed(3)
    net = SparseUNet(SparseUNetConfig.small(2)).eval()
    cells = torch.randint(0, 9, (40, 3)).unique(dim=0)
    features = torch.randn(len(cells), 2)
    mask = torch.ones(1, len(cells), dtype=torch.bool)
    grid, order = batch_grid(cells[None], mask)
    alone = net(features[order], grid)
    both, order2 = batch_grid(torch.stack([cells, cells + 1]), mask.expand(2, -1))
    rows = torch.cat([features, features + 3])[order2]
    torch.testing.assert_close(net(rows, both)[: len(cells)], alone, atol=1e-5, rtol=1e-4)


def test_voxel_coordinates_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="voxel coordinates"):
        voxel_keys(torch.tensor([[0, -1, 0, 0]]))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def small() -> MIT:
    torch.manual_seed(0)
    return MIT(MITConfig.small()).eval()


def test_parameter_counts_of_the_published_transformer(small: MIT) -> None:
    assert _count(small.encoder_3d) == _count(small.encoder_2d) == 167_904
    assert _count(small.decoder) == 313_804


def test_maps_are_attention_and_leave_class_tokens_out(small: MIT) -> None:
    inputs = MIT.example_inputs(small.config, 2, 0)
    out = small(**inputs, want=Want.everything(check=True))
    for record in out.maps:
        ones = torch.ones(record.weights.shape[:3])
        torch.testing.assert_close(record.weights.sum(-1), ones)
        assert record.value is not None
        torch.testing.assert_close(
            record.weights @ record.value, record.context, atol=1e-5, rtol=1e-4
        )
    cross = [m for m in out.maps if m.stage == "decoder"]
    assert [m.direction for m in cross] == ["3d->2d", "2d->3d", "3d->2d", "2d->3d"]
    assert cross[0].weights.shape == (2, 4, 20 + 6, 3 + 3 * 4)
    assert cross[1].weights.shape == (2, 4, 20 + 3 + 3 * 4, 6)
    bare = small(**inputs)
    torch.testing.assert_close(bare.class_fused, out.class_fused, atol=1e-5, rtol=1e-4)


def test_first_query_of_paper_and_of_code() -> None:
    model = MIT(MITConfig.small(first_query="2d")).eval()
    out = model(**MIT.example_inputs(model.config, 1, 0), want=Want.everything())
    assert [m.direction for m in out.maps if m.stage == "decoder"][:2] == ["2d->3d", "3d->2d"]


def test_a_block_does_not_read_the_answering_class_tokens(small: MIT) -> None:
    k, block = len(small.config.classes), small.decoder[0]
    a, b = torch.randn(1, k + 5, 96), torch.randn(1, k + 4, 96)
    mask_a, mask_b = torch.ones(1, k + 5).bool(), torch.ones(1, k + 4).bool()
    first = block(a, b, mask_a, mask_b, Want.nothing())
    changed = torch.cat([torch.randn(1, k, 96), b[:, k:]], 1)
    second = block(a, changed, mask_a, mask_b, Want.nothing())
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1])  # the pairing scores do depend on them


def test_one_view_gets_everything() -> None:
    model = MIT(MITConfig.small(("a", "b"), patches=False)).eval()
    inputs = MIT.example_inputs(model.config, 1, 0)
    inputs["view_features"] = inputs["view_features"][:, :1]
    inputs["view_mask"] = inputs["view_mask"][:, :1]
    out = model(**inputs, want=Want.everything())
    first = next(m for m in out.maps if m.stage == "decoder")
    torch.testing.assert_close(first.weights, torch.ones_like(first.weights))


def test_order_of_photographs_and_of_voxels_does_not_matter(small: MIT) -> None:
    inputs = MIT.example_inputs(small.config, 1, 4)
    before = small(**inputs, want=Want.everything())
    views = torch.tensor([2, 0, 1])
    voxels = torch.randperm(inputs["cells"].shape[1])
    moved = dict(inputs)
    for name in ("view_features", "view_mask", "patch_features"):
        moved[name] = inputs[name][:, views]
    for name in ("cells", "voxel_features", "positions", "voxel_mask", "segment"):
        moved[name] = inputs[name][:, voxels]
    after = small(**moved, want=Want.everything())
    torch.testing.assert_close(after.cam_decoded, before.cam_decoded, atol=1e-4, rtol=1e-3)
    one, two = (next(m for m in o.maps if m.stage == "decoder") for o in (before, after))
    torch.testing.assert_close(
        two.weights[..., :3], one.weights[..., :3][..., views], atol=1e-5, rtol=1e-3
    )


def test_an_empty_supervoxel_is_masked_and_finite(small: MIT) -> None:
    inputs = MIT.example_inputs(small.config, 1, 5)
    inputs["segment"] = torch.where(inputs["segment"] == 2, 3, inputs["segment"])
    out = small(**inputs, want=Want.everything())
    assert not out.segment_mask[0, 2]
    assert torch.isfinite(out.cam_3d).all()
    cross = next(m for m in out.maps if m.direction == "2d->3d" and m.stage == "decoder")
    assert cross.weights[..., 2].abs().max() == 0


def test_gradient_reaches_both_sides() -> None:
    model = MIT(MITConfig.small()).train()
    out = model(**MIT.example_inputs(model.config, 2, 0))
    (out.class_fused.sum() + out.cam_3d.sum()).backward()
    assert model.view_in.weight.grad.abs().sum() > 0
    assert model.backbone.shrink[0].weight.grad.abs().sum() > 0


def test_the_decoded_cam_adds_differences_only(small: MIT) -> None:
    model = MIT(small.config).eval()
    model.load_state_dict(small.state_dict())
    last = model.cam_decoded[-1]
    nn.init.normal_(last.weight)
    inputs = MIT.example_inputs(model.config, 2, 0)
    out = model(**inputs)
    assert out.cam_decoded is not None
    added = (out.cam_decoded - out.cam_3d) * out.segment_mask[..., None]
    assert added.abs().max() > 0.1
    torch.testing.assert_close(added.sum(1), torch.zeros(2, 20), atol=1e-4, rtol=0)

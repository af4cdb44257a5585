"""The kernel on a GPU against a float64 reference on the CPU: values, gradients, peak memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crossfuse.attention import (
    Attended,
    Want,
    attend,
    gradient_weighted_map,
    map_gradient,
    map_rows,
)

pytestmark = pytest.mark.gpu

# Of outputs: fp32 as on the CPU; bfloat16 has 8 bits of mantissa. Maps are computed in float32.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
QUERIES, KEYS, HEADS, WIDTH = 65, 130, 4, 64
LABELS = torch.arange(KEYS) % 5  # stays on the CPU: the kernel moves it
WANTS: dict[str, Want] = {
    "nothing": Want.nothing(),
    "everything": Want.everything(),
    "head mean": Want.everything(head_mean=True),
    "rows": Want.of_rows([0, 64, 7], heads=[1, 3]),
    "groups": Want.of_groups(LABELS),
}


def problem(masked: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(3)
    shapes = {"query": QUERIES, "key": KEYS, "value": KEYS}
    parts = {
        name: torch.randn(2, HEADS, count, WIDTH, generator=make).to(dtype)
        for name, count in shapes.items()
    }
    if masked:
        parts["key_mask"] = torch.rand(2, KEYS, generator=make) < 0.7
        parts["bias"] = torch.randn(HEADS, QUERIES, KEYS, generator=make)
        parts["mask"] = torch.rand(2, 1, QUERIES, KEYS, generator=make) < 0.9
        parts["mask"][1, 0, 5] = False  # a query that may attend to nothing
    return parts


def reference(parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = parts["query"].double() @ parts["key"].double().mT / WIDTH**0.5
    if "bias" in parts:
        allowed = parts["mask"] & parts["key_mask"][:, None, None]
        scores = (scores + parts["bias"].double()).masked_fill(~allowed, float("-inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return weights @ parts["value"].double(), weights


def expected(weights: Tensor, kind: str) -> Tensor:
    if kind == "head mean":
        return weights.mean(1, keepdim=True)
    if kind == "rows":
        return weights[:, [1, 3]][:, :, [0, 64, 7]]
    if kind == "groups":
        return torch.stack([weights[..., g == LABELS].sum(-1) for g in range(5)], -1)
    return weights


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", list(WANTS))
def test_every_wish_agrees_with_float64(
    kind: str, masked: bool, dtype: torch.dtype, device: str
) -> None:
    parts = problem(masked, dtype)
    output, weights = reference(parts)
    moved = {name: value.to(device) for name, value in parts.items()}
    got = attend(**moved, want=WANTS[kind])
    off = TOLERANCE[dtype]
    assert got.output.dtype == dtype
    torch.testing.assert_close(got.output.cpu().double(), output, atol=off, rtol=off)
    if kind == "nothing":
        assert got.weights is None
        return
    assert got.weights is not None
    assert got.weights.dtype == torch.float32
    # Groups go through the fused kernel and have its precision.
    near = off if kind == "groups" else 1e-5
    true = expected(weights, kind)
    torch.testing.assert_close(got.weights.cpu().double(), true, atol=near, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["nothing", "everything", "rows"])
def test_gradients_agree_with_float64(kind: str, masked: bool, device: str) -> None:
    parts = problem(masked, torch.float32)
    names = ("query", "key", "value")

    def gradients(run: Callable[[dict[str, Tensor]], Tensor], place: str, wide: bool) -> list:
        moved = {name: value.to(place) for name, value in parts.items()}
        for name in names:
            moved[name] = (moved[name].double() if wide else moved[name]).requires_grad_()
        total = run(moved)
        return [g.cpu() for g in torch.autograd.grad(total, [moved[name] for name in names])]

    def weighed(output: Tensor) -> Tensor:
        upstream = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
        return (output * upstream).sum()

    def ours(moved: dict[str, Tensor]) -> Tensor:
        return weighed(attend(**moved, want=WANTS[kind]).output)

    got = gradients(ours, device, wide=False)
    for mine, true in zip(got, gradients(ours, "cpu", wide=True), strict=True):
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine.double(), true, atol=1e-5, rtol=1e-4)


def test_maps_of_gradients_agree_with_float64(device: str) -> None:
    parts = problem(False, torch.float32)
    query, key, value = (parts[name] for name in ("query", "key", "value"))
    upstream = torch.randn(query.shape)
    _, weights = reference(parts)
    true = upstream.double() @ value.double().mT
    moved = [part.to(device) for part in (query, key, value, upstream)]
    rows = torch.tensor([3, 60])
    got = map_gradient(moved[3], moved[2], rows).cpu().double()
    torch.testing.assert_close(got, true[:, :, rows], atol=1e-4, rtol=1e-5)
    mean = gradient_weighted_map(*moved).cpu().double()
    torch.testing.assert_close(mean, (true * weights).clamp(min=0).mean(1), atol=1e-5, rtol=1e-4)
    some = map_rows(moved[0], moved[1], rows).cpu().double()
    torch.testing.assert_close(some, weights[:, :, rows], atol=1e-5, rtol=0)


def peak(run: Callable[[], object]) -> int:
    """Extra peak bytes of the allocator while ``run`` works."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_only_the_whole_map_takes_the_memory_of_the_map(dtype: torch.dtype, device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("measures the memory of a GPU")
    tokens, heads = 8192, 8
    map_bytes = heads * tokens * tokens * 4
    query, key, value = (
        torch.randn(1, heads, tokens, WIDTH, device=device, dtype=dtype) for _ in range(3)
    )
    labels = torch.arange(tokens, device=device) % 36

    def ask(want: Want) -> Callable[[], Attended]:
        return lambda: attend(query, key, value, want=want)

    with torch.no_grad():
        for run in (ask(Want.nothing()), ask(Want.of_rows([0]))):
            run()  # the first calls set up workspaces
        fused = peak(ask(Want.nothing()))
        assert peak(ask(Want.of_rows(torch.arange(0, tokens, 128)))) - fused < 0.05 * map_bytes
        assert peak(ask(Want.of_groups(labels))) < 0.1 * map_bytes
        assert peak(ask(Want.everything())) >= map_bytes
    leaves = [part.clone().requires_grad_() for part in (query, key, value)]

    def backward() -> object:
        out = attend(*leaves, want=Want.of_rows([0, 4096])).output
        return torch.autograd.grad(out.float().square().sum(), leaves)

    assert peak(backward) < 0.2 * map_bytes

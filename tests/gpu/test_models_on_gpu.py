"""Every registered model, and the engine, on a GPU: what the CPU gives, within tolerance."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossfuse import registry
from crossfuse.attention import Want
from crossfuse.engine import Context, EmbeddedEngine, Request
from crossfuse.engine.ladder import ON_CPU

pytestmark = pytest.mark.gpu

NAMES = tuple(registry.MODELS)
Inputs = dict[str, Any]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model_class = registry.entry(name).model_class()
    return model_class(model_class.Config.small()).eval()  # type: ignore[attr-defined]


def on(device: str, inputs: Inputs) -> Inputs:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}


def tensors(output: Any) -> dict[str, Tensor]:
    """The floating tensors of a model's output, maps aside."""
    assert is_dataclass(output)
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    return {k: v for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_maps_are_those_of_the_cpu(name: str, device: str) -> None:
    model = build(name)
    inputs = model.example_inputs(model.config, 3, 0)  # type: ignore[operator]
    with torch.no_grad():
        here = model(**inputs, want=Want.everything())
        model.to(device)
        there = model(**on(device, inputs), want=Want.everything())
        plain = model(**on(device, inputs))
    assert tensors(here)
    for key, value in tensors(here).items():
        for got in (there, plain):
            torch.testing.assert_close(tensors(got)[key].cpu(), value, atol=1e-4, rtol=1e-3)
    assert len(here.maps) == len(there.maps) > 0
    for got, true in zip(there.maps, here.maps, strict=True):
        assert got.weights.device.type == torch.device(device).type
        torch.testing.assert_close(got.weights.cpu(), true.weights, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_cpu(name: str, device: str) -> None:
    model = build(name)
    inputs = model.example_inputs(model.config, 2, 0)  # type: ignore[operator]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(place: str) -> list[Tensor | None]:
        model.to(place)
        found = tensors(model(**on(place, inputs)))
        total = sum(v.float().square().mean() for v in found.values() if v.requires_grad)
        return list(torch.autograd.grad(total, parameters, allow_unused=True))  # type: ignore[arg-type]

    here = [g.clone() if g is not None else None for g in gradients("cpu")]
    there = gradients(device)
    assert any(g is not None for g in here)
    for got, true in zip(there, here, strict=True):
        assert (got is None) == (true is None)
        if got is not None and true is not None:
            scale = max(float(true.abs().max()), 1e-3)
            torch.testing.assert_close(got.cpu() / scale, true / scale, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast_is_finite_and_near(name: str, device: str) -> None:
    model = build(name).to(device)
    inputs = on(device, model.example_inputs(model.config, 3, 0))  # type: ignore[operator]
    with torch.no_grad():
        exact = tensors(model(**inputs))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            half = model(**inputs, want=Want.everything())
    for key, value in exact.items():
        got = tensors(half)[key].float()
        assert torch.isfinite(got).all()
        off = (got - value).norm() / value.norm().clamp(min=1e-3)
        assert off < 0.1, f"{key} is off by {off:.3f} of its length"
    for entry in half.maps:
        sums = entry.weights.float().sum(-1)
        assert ((sums - 1).abs().lt(1e-2) | (sums == 0)).all()


def two_maps(channels: int, side: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(channels, side, side)).astype(np.float32) for name in "ab"}


def test_a_pipeline_gives_the_trace_of_the_cpu(device: str) -> None:
    pipeline = registry.entry("feature_map").pipeline_module()
    request = Request("feature_map", two_maps(32, 14), {"heads": 4})
    traces = [pipeline.run(request, Context(place)).trace for place in ("cpu", device)]
    assert len(traces[0].maps) == len(traces[1].maps) == 2
    for got, true in zip(traces[1].maps, traces[0].maps, strict=True):
        np.testing.assert_allclose(
            got.weights.astype(np.float32), true.weights.astype(np.float32), atol=2e-3
        )


def test_the_engine_goes_to_the_cpu_when_the_gpu_is_full(device: str) -> None:
    if not device.startswith("cuda"):
        pytest.skip("fills the memory of a GPU")
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() + (64 << 20)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held / total)
    try:
        with EmbeddedEngine(["cuda:0"]) as engine:
            request = Request("feature_map", two_maps(128, 96), {"max_keys": 4096})
            result = engine.submit(request).result(120)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ON_CPU in result.notes
    assert result.trace is not None

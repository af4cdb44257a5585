"""What every registered model keeps, whatever it computes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossfuse import registry
from crossfuse.attention import LayerMap, Want

NAMES = tuple(registry.MODELS)
# A model of one scene at a time says so; the batch tests are about the others.
BATCHED = tuple(n for n in NAMES if getattr(registry.entry(n).model_class(), "batched", True))
TOLERANCE = {"atol": 2e-5, "rtol": 2e-4}

Inputs = dict[str, Any]


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model_class = registry.entry(name).model_class()
    return model_class(model_class.Config.small()).eval()  # type: ignore[attr-defined]


def example(model: nn.Module, batch: int = 3, seed: int = 0) -> Inputs:
    return model.example_inputs(model.config, batch, seed)  # type: ignore[operator]


def run(model: nn.Module, inputs: Inputs, want: Want | None = None) -> Any:
    with torch.no_grad():
        return model(**inputs, **({} if want is None else {"want": want}))


def tensors(output: Any) -> dict[str, Tensor]:
    """The tensors of a model's output, maps aside."""
    assert is_dataclass(output)
    values = {field.name: getattr(output, field.name) for field in fields(output)}
    found = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    assert found
    return found


def pick(inputs: Inputs, samples: list[int]) -> Inputs:
    return {
        name: value[samples] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def close(got: Any, true: Any) -> None:
    for name, value in tensors(true).items():
        torch.testing.assert_close(tensors(got)[name], value, **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_finite_and_repeatable(name: str) -> None:
    model = build(name)
    inputs = example(model)
    first, second = run(model, inputs), run(model, inputs)
    for key, value in tensors(first).items():
        assert torch.isfinite(value.float()).all()
        assert torch.equal(value, tensors(second)[key])


@pytest.mark.parametrize("name", NAMES)
def test_neither_inputs_nor_state_are_written_on(name: str) -> None:
    model = build(name)
    inputs = example(model)
    inputs_before = {k: v.clone() for k, v in inputs.items() if isinstance(v, Tensor)}
    state_before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {id(module): set(vars(module)) for module in model.modules()}
    run(model, inputs, Want.everything())
    for key, value in inputs_before.items():
        assert torch.equal(inputs[key], value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state_before[key])
    assert {id(module): set(vars(module)) for module in model.modules()} == attributes


@pytest.mark.parametrize("name", NAMES)
def test_the_map_path_is_the_fast_path(name: str) -> None:
    model = build(name)
    inputs = example(model)
    fast, mapped = run(model, inputs), run(model, inputs, Want.everything())
    close(mapped, fast)
    assert fast.maps == ()
    assert mapped.maps


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_distributions_and_give_the_output(name: str) -> None:
    model = build(name)
    maps = run(model, example(model), Want.everything(check=True)).maps
    ids = [(entry.stage, entry.layer, entry.direction) for entry in maps]
    assert len(set(ids)) == len(ids)
    for entry in maps:
        assert isinstance(entry, LayerMap)
        assert entry.weights.dtype == torch.float32
        assert (entry.weights >= 0).all()
        sums = entry.weights.sum(-1)
        # A padded query may attend to nothing: its row is zeros.
        assert ((sums - 1).abs().lt(1e-4) | (sums == 0)).all()
        assert entry.value is not None, f"{entry.stage}: Want(check=True) must carry the value"
        assert entry.context is not None
        torch.testing.assert_close(
            entry.weights @ entry.value.float(), entry.context.float(), **TOLERANCE
        )


@pytest.mark.parametrize("name", BATCHED)
def test_a_sample_alone_is_the_sample_in_a_batch(name: str) -> None:
    model = build(name)
    inputs = example(model)
    together = run(model, inputs)
    for sample in range(3):
        alone = run(model, pick(inputs, [sample]))
        for key, value in tensors(together).items():
            torch.testing.assert_close(tensors(alone)[key], value[sample : sample + 1], **TOLERANCE)


@pytest.mark.parametrize("name", BATCHED)
def test_the_order_of_a_batch_is_irrelevant(name: str) -> None:
    model = build(name)
    inputs = example(model)
    order = [2, 0, 1]
    shuffled = run(model, pick(inputs, order))
    for key, value in tensors(run(model, inputs)).items():
        torch.testing.assert_close(tensors(shuffled)[key], value[order], **TOLERANCE)


@pytest.mark.parametrize("name", BATCHED)
def test_nothing_leaks_from_one_sample_into_another(name: str) -> None:
    model = build(name)
    inputs, others = example(model), example(model, seed=1)
    mixed = {
        key: torch.cat([value[:1], others[key][1:]]) if isinstance(value, Tensor) else value
        for key, value in inputs.items()
    }
    if any(mixed[k].shape != v.shape for k, v in inputs.items() if isinstance(v, Tensor)):
        pytest.fail("example inputs of one config must not change their shape with the seed")
    for key, value in tensors(run(model, inputs)).items():
        torch.testing.assert_close(tensors(run(model, mixed))[key][:1], value[:1], **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_config_and_weights_come_back(name: str, tmp_path) -> None:
    from crossfuse.weights import save_weights

    model = build(name, seed=5)
    card = {"model": name, "config": json.loads(json.dumps(asdict(model.config)))}
    save_weights("copy", model, card, folder=tmp_path)
    again = registry.load(name, "copy", folder=tmp_path)
    assert again.config == model.config
    inputs = example(model)
    close(run(again, inputs), run(model, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_two_threads_do_not_mix(name: str) -> None:
    model = build(name)
    inputs = [example(model, seed=seed) for seed in range(2)]
    alone = [run(model, one, Want.everything()) for one in inputs]
    results: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update({i: run(model, inputs[i], Want.everything())})
        )
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        close(results[i], alone[i])
        for got, true in zip(results[i].maps, alone[i].maps, strict=True):
            torch.testing.assert_close(got.weights, true.weights, **TOLERANCE)


def test_every_entry_names_parts_that_exist() -> None:
    for entry in registry.MODELS.values():
        pipeline = entry.pipeline_module()
        for part in ("run", "add_arguments", "request_from_arguments"):
            assert callable(getattr(pipeline, part))
        if entry.recipe:
            recipe = entry.recipe_module()
            for part in ("add_train_arguments", "train", "add_evaluate_arguments", "evaluate"):
                assert callable(getattr(recipe, part))


def test_the_core_does_not_need_the_app_or_heavy_readers() -> None:
    code = """
import importlib, pkgutil, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"streamlit", "open3d", "mne", "transformers"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import crossfuse
for module in pkgutil.walk_packages(crossfuse.__path__, "crossfuse."):
    if not module.name.startswith("crossfuse.ui") and module.name != "crossfuse.__main__":
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_engine_and_the_registry_do_not_import_torch() -> None:
    code = (
        "import sys, crossfuse.engine, crossfuse.registry, crossfuse.weights, crossfuse.trace\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

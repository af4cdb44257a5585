"""Weights with their cards, and models by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from crossfuse import registry, weights
from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FrozenFront


@dataclass(frozen=True)
class TinyConfig:
    width: int = 3
    sizes: tuple[int, ...] = (1, 2)


class Tiny(nn.Module):
    Config = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.width, 2)
        self.config = config


ENTRY = registry.ModelEntry("tiny", "Tiny", "none", f"{__name__}:Tiny", __name__, weights=("tiny",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry.MODELS, "tiny", ENTRY)
    torch.manual_seed(0)
    card = {"model": "tiny", "config": {"width": 3, "sizes": [4, 5]}}
    weights.save_weights("tiny", Tiny(TinyConfig()), card, folder=tmp_path)
    return tmp_path


def test_weights_and_card_come_back(folder: Path) -> None:
    model = registry.load("tiny", folder=folder)
    assert isinstance(model, Tiny)
    assert model.config == TinyConfig(3, (4, 5))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.manual_seed(0)
    torch.testing.assert_close(model.state_dict(), Tiny(TinyConfig()).state_dict())
    assert weights.names(folder) == ("tiny",)
    assert weights.card("tiny", folder)["parameters"] == 8


def test_half_precision_on_disk_is_float32_in_memory(tmp_path: Path) -> None:
    state = {"w": torch.randn(4), "n": torch.tensor(3)}
    weights.save_weights("half", state, {"model": "x"}, folder=tmp_path, half=True)
    loaded, _ = weights.load_weights("half", folder=tmp_path)
    assert loaded["w"].dtype == torch.float32
    assert loaded["n"].dtype == torch.int64
    torch.testing.assert_close(loaded["w"], state["w"], atol=1e-3, rtol=1e-3)


def edit_card(folder: Path, **changes: object) -> None:
    path = folder / "tiny" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(CrossfuseError, match="no weights called 'other'"):
        weights.load_weights("other", folder=folder)
    with pytest.raises(CrossfuseError, match="no weights called"):
        weights.load_weights("../tiny", folder=folder)
    with pytest.raises(CrossfuseError, match="no model 'nothing'"):
        registry.load("nothing")
    edit_card(folder, model="another")
    with pytest.raises(CrossfuseError, match="not of 'tiny'"):
        registry.load("tiny", folder=folder)
    edit_card(folder, model="tiny", config={"depth": 2})
    with pytest.raises(CrossfuseError, match="no field depth"):
        registry.load("tiny", folder=folder)
    edit_card(folder, config={"width": 7})
    with pytest.raises(CrossfuseError, match="do not fit"):
        registry.load("tiny", folder=folder)
    edit_card(folder, sha256="0")
    with pytest.raises(CrossfuseError, match="checksum"):
        registry.load("tiny", folder=folder)
    (folder / "tiny" / "weights.safetensors").unlink()
    with pytest.raises(CrossfuseError, match="missing"):
        registry.load("tiny", folder=folder)
    (folder / "tiny" / "card.json").write_text("{")
    with pytest.raises(CrossfuseError, match="not readable JSON"):
        registry.load("tiny", folder=folder)


def test_a_model_without_a_recipe_says_so() -> None:
    with pytest.raises(CrossfuseError, match="nothing to train"):
        ENTRY.recipe_module()


def test_all_weights_together_stay_small() -> None:
    total = sum(path.stat().st_size for path in weights.WEIGHTS.glob("*/*"))
    assert total < 60e6


def test_a_shared_stem_is_stored_once_and_lent(tmp_path: Path) -> None:
    lender = {"stem.a": torch.ones(3), "head": torch.zeros(2)}
    weights.save_weights("lender", lender, {"model": "x"}, folder=tmp_path)
    card = {"model": "x", "borrowed": {"stem.": "lender"}}
    weights.save_weights("borrower", {"head": torch.ones(2)}, card, folder=tmp_path)
    state, _ = weights.load_weights("borrower", folder=tmp_path)
    assert set(state) == {"stem.a", "head"}
    assert torch.equal(state["head"], torch.ones(2))
    assert torch.equal(state["stem.a"], torch.ones(3))


def test_a_stem_is_read_from_its_package(tmp_path: Path) -> None:
    card = {"model": "x", "borrowed": {"stem.": "efficientnet-lite2"}}
    weights.save_weights("borrower", {"head": torch.ones(2)}, card, folder=tmp_path)
    state, _ = weights.load_weights("borrower", folder=tmp_path)
    assert state["head"].sum() == 2
    FrozenFront().load_state_dict(
        {k.removeprefix("stem."): v for k, v in state.items() if k != "head"}, strict=True
    )

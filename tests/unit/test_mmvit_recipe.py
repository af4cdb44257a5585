"""MMViT's recipes on a miniature of a data set: training, resuming, calibration, evaluation."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossfuse import cli, registry, weights
from crossfuse.data.image_folders import Photographs
from crossfuse.explain.typicality import SCORES, quantiles, score, typicality
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training import (
    augmentation,
    distillation,
    mmvit,
    mmvit_ablation,
    mmvit_sound,
    mmvit_trainer,
)
from crossfuse.training.mmvit_evaluation import (
    calibration_of,
    fit_temperature,
    lower_bound,
    measure,
    naming,
    predict,
    rejection,
)
from crossfuse.training.warm_start import discriminants, warm_start

COLOURS = {"n01": (200, 40, 40), "n02": (40, 180, 60), "n03": (50, 60, 210)}
TRAIN, VAL = 8, 4  # photographs of each class
SCRATCH = ("--stem", "residual", "--side", "32", "--width", "16", "--rate", "0.005")
SHORT = ("--batch", "8", "--threads", "1", "--warm-up", "5", "--colour", "0.1")


def write_photographs(folder: Path, colours: dict[str, tuple[int, int, int]], count: int) -> None:
    generator = np.random.default_rng(len(folder.name))
    for key, colour in colours.items():
        place = folder / key
        place.mkdir(parents=True)
        for number in range(count):
            noise = generator.normal(0, 12, (40, 48, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.jpg")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of one colour each, and a folder with photographs of none of them."""
    root = tmp_path_factory.mktemp("miniature")
    write_photographs(root / "data" / "train", COLOURS, TRAIN)
    write_photographs(root / "data" / "val", COLOURS, VAL)
    write_photographs(root / "outside" / "val", {"grey": (128, 128, 128)}, 3)
    write_photographs(root / "others" / "train", {"black": (10, 10, 10)}, 4)
    (root / "data" / "classes.json").write_text(
        json.dumps({"n01": "tomato", "n02": "lime", "n03": "plum"}), encoding="utf-8"
    )
    return root


def train(root: Path, out: Path, *options: str) -> int:
    """``crossfuse train mmvit`` on the miniature."""
    places = ("--data", str(root / "data"), "--cache", str(root / "cache"), "--out", str(out))
    return cli.main(["train", "mmvit", *places, *SHORT, *options])


def arguments_of(root: Path, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    mmvit.add_train_arguments(parser)
    places = ("--data", str(root / "data"), "--cache", str(root / "cache"), "--out", str(root))
    return parser.parse_args([*places, *SHORT, *options])


def checkpoint(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return found


def in_range(figures: dict[str, Any]) -> bool:
    shares = [v for k, v in figures.items() if k.endswith(("top1", "top5", "ece", "inside"))]
    losses = [v for k, v in figures.items() if k.endswith("log_loss")]
    return all(0 <= v <= 1 for v in shares) and all(0 <= v < math.inf for v in losses)


@pytest.fixture(scope="module")
def scratch(miniature: Path) -> Path:
    """A run from random weights: 10 epochs of three batches."""
    out = miniature / "scratch"
    assert train(miniature, out, *SCRATCH, "--epochs", "10") == 0
    return out


@pytest.fixture(scope="module")
def photographs(miniature: Path) -> Photographs:
    return mmvit.cached_photographs(arguments_of(miniature), "train")


@pytest.fixture(scope="module")
def teacher(photographs: Photographs) -> distillation.Teacher:
    """The teacher, with an output for each of the three colours."""
    found = distillation.Teacher()
    found.match(photographs, 64)
    return found


@pytest.fixture
def run_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let weights be read from, and be written under, a folder that is not the project's."""

    def choose(folder: Path) -> None:
        monkeypatch.setattr(registry, "load", partial(registry.load, folder=folder))
        card = weights.card
        monkeypatch.setattr(weights, "card", lambda name, place=folder: card(name, place))

    return choose


def test_training_from_scratch_learns_and_writes_a_whole_card(scratch: Path) -> None:
    state, card = weights.load_weights("weights", folder=scratch)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert card["classes"] == ["tomato", "lime", "plum"]
    assert card["data"] == "data: 24 photographs, 3 classes, 32 px"
    assert card["recipe"].startswith("Nothing in it was trained elsewhere.")
    assert card["config"]["width"] == 16
    statistics = sum(value.numel() for key, value in state.items() if "running_" in key)
    batches = sum(key.endswith("num_batches_tracked") for key in state)
    assert card["trained_parameters"] == card["parameters"] - statistics - batches
    assert 0.25 <= card["calibration"]["temperature"] <= 4
    assert 0 <= card["calibration"]["threshold"] <= 1
    assert {"top1", "ece", "held_out_top1", "held_out_log_loss"} <= set(card["metrics"])
    assert in_range(card["metrics"])
    assert card["metrics"]["top1"] > 0.6, "three plain colours must be told apart"
    saved = checkpoint(scratch)
    assert (saved["step"], saved["seen"]) == (30, 240)


@pytest.mark.parametrize("extra", [(), ("--muon", "--bf16")], ids=["adam", "muon"])
def test_a_run_resumes_at_the_step_at_which_it_stopped(
    extra: tuple[str, ...], miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*SCRATCH, "--mixup", "0.2", *extra)
    train(miniature, tmp_path, *options, "--epochs", "1")
    first = checkpoint(tmp_path)
    assert first["step"] == 3
    monkeypatch.setattr(mmvit_trainer, "SAVE_EVERY", 0.0)
    train(miniature, tmp_path, *options, "--epochs", "2")
    second = checkpoint(tmp_path)
    assert (second["step"], second["seen"]) == (6, 48)
    assert second["elapsed"] > first["elapsed"]
    # Done already: the same command changes nothing.
    train(miniature, tmp_path, *options, "--epochs", "2")
    third = checkpoint(tmp_path)
    assert third["step"] == 6
    assert all(torch.equal(value, third["average"][k]) for k, value in second["average"].items())


def test_muon_moves_the_matrices_and_adam_the_rest(miniature: Path) -> None:
    given = arguments_of(miniature, *SCRATCH, "--muon", "--rate", "0.01")
    model = MMViT(mmvit.config_of(given, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    optimiser = mmvit_trainer.Optimiser(model, parameters, given)
    before = [p.detach().clone() for p in parameters]
    images = torch.randn(4, 3, 32, 32)
    model(images).logits.square().sum().backward()
    optimiser.step(0.5)
    assert all(p.grad is None for p in parameters)
    assert all(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    own = {id(p) for p in optimiser.matrices}
    assert id(model.head.weight) not in own
    for parameter, old in zip(parameters, before, strict=True):
        if id(parameter) in own:
            # An orthogonal step with entries of about 0.2 rates, less where the gradient is of
            # low rank.
            step = (parameter - old * (1 - 0.005 * mmvit_trainer.DECAY)).detach()
            assert 0.01 < float(step.square().mean().sqrt()) / 0.005 < 0.35


def test_a_run_ends_after_its_minutes(miniature: Path, tmp_path: Path) -> None:
    train(miniature, tmp_path, *SCRATCH, "--minutes", "0.0001")
    assert 1 <= checkpoint(tmp_path)["step"] < 20


def test_training_begins_with_other_weights_where_they_fit(
    miniature: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "load_weights", partial(weights.load_weights, folder=scratch))
    train(miniature, tmp_path, *SCRATCH, "--start", "weights", "--epochs", "0.1", "--rate", "0")
    begun, _ = weights.load_weights("weights")
    state, card = weights.load_weights("weights", folder=tmp_path)
    assert "Begun with the weights weights." in card["recipe"]
    kept = {k: v for k, v in state.items() if "running" not in k and "num_batches" not in k}
    assert all(torch.equal(value, begun[name]) for name, value in kept.items())


def test_evaluation_repeats_the_figures_of_the_card(
    miniature: Path,
    scratch: Path,
    run_folder: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_folder(scratch)
    command = ["evaluate", "mmvit", "--data", str(miniature / "data"), "--weights", "weights"]
    outside = ["--outside", str(miniature / "outside"), "--json"]
    assert cli.main([*command, *outside]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["photographs"] == 3 * VAL
    assert in_range(figures)
    card = weights.card("weights")
    assert figures["top1"] == pytest.approx(card["metrics"]["top1"], abs=0.1)  # float16 on disk
    assert figures["log_loss"] == pytest.approx(card["metrics"]["log_loss"], abs=0.05)
    assert 0 <= figures["rejected_outside"] <= 1

    assert cli.main([*command, "--limit", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["photographs"] == 5

    other = miniature / "outside"
    assert cli.main([*command[:3], str(other), *command[4:]]) == 1
    assert "classes that are not the 3" in capsys.readouterr().err


def test_prepare_only_decodes_and_stops(miniature: Path, tmp_path: Path) -> None:
    assert train(miniature, tmp_path / "nothing", "--prepare-only") == 0
    assert not (tmp_path / "nothing").exists()
    assert (miniature / "cache" / "train_128.npy").exists()


def test_the_teacher_says_what_the_frozen_stem_sees_and_how_sure_it_is(
    photographs: Photographs, teacher: distillation.Teacher
) -> None:
    picture = distillation.to_teacher(torch.from_numpy(photographs.pixels[[0, 20]].copy()), 128)
    opinion = teacher(picture)
    model = MMViT(MMViTConfig.small(3))
    model.stem.load_state_dict(distillation.front_state(distillation.load_lite2().state_dict()))
    for ours, theirs in zip(model.stem(picture), opinion.taps, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(opinion.probabilities.sum(-1), torch.ones(2))
    assert ((opinion.mass > 0) & (opinion.mass <= 1)).all()
    assert (teacher.matched.diff() > 0).all()


def test_classes_are_matched_to_outputs_in_increasing_order() -> None:
    labels = np.array([0, 0, 1, 2])
    scores = np.full((4, 9), -5.0)
    scores[[0, 1, 2, 3], [1, 1, 4, 8]] = -0.1
    scores[2, 0] = -0.05  # better by itself, but before the output of the first class
    assert distillation.match_classes(scores, labels, 3).tolist() == [1, 4, 8]


def test_a_distilled_run_on_the_frozen_stem(miniature: Path, tmp_path: Path) -> None:
    outside = ("--outside", str(miniature / "others"), "--coarse-outside", "16")
    options = ("--distil", "0.5", "--width", "16", "--epochs", "1", "--side", "64", *outside)
    assert train(miniature, tmp_path, *options) == 0
    state, card = weights.load_weights("weights", folder=tmp_path)
    assert "frozen" in card["recipe"]
    assert "Distilled from EfficientNet-Lite2 (weight 0.5)" in card["recipe"]
    assert "(others)" in card["recipe"]
    assert card["borrowed"] == {"stem.": "efficientnet-lite2"}
    assert card["trained_parameters"] == card["parameters"]
    assert card["metrics"]["top1"] > 1 / 3
    assert in_range(card["metrics"])
    stem = distillation.front_state(distillation.load_lite2().state_dict())
    for name, value in stem.items():
        torch.testing.assert_close(state[f"stem.{name}"], value)


def test_maps_of_the_stem_can_be_kept_instead(
    miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = ("--outside", str(miniature / "others"), "--keep-maps")
    options = ("--distil", "0.5", "--width", "16", "--epochs", "1", "--side", "64", *outside)
    assert train(miniature, tmp_path, *options) == 0
    _, card = weights.load_weights("weights", folder=tmp_path)
    assert card["metrics"]["top1"] > 1 / 3
    assert train(miniature, tmp_path / "other", *SCRATCH, "--keep-maps") == 1
    assert "--stem lite2" in capsys.readouterr().err


def test_a_warm_start_tells_the_classes_apart_before_any_step(
    photographs: Photographs, teacher: distillation.Teacher
) -> None:
    torch.manual_seed(0)
    model = MMViT(replace(MMViTConfig.small(3), width=16))
    model.stem.load_state_dict(teacher.front.state_dict())
    pixels = torch.from_numpy(photographs.pixels.copy())
    taps = model.stem(distillation.to_teacher(pixels, 128))
    labels = torch.from_numpy(photographs.labels)
    warm_start(model, taps, labels)
    assert measure(predict(model.eval(), photographs.pixels), labels, 1.0)["top1"] > 0.6


def test_discriminants_separate_classes_and_fill_up_with_principal_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.eye(2).repeat(50, 1)
    features = torch.randn(100, 6, generator=generator)
    features[:, 3] += 8 * truth[:, 0]
    directions = discriminants(features, truth - 0.5, 4)
    assert directions.shape == (6, 4)
    assert torch.isfinite(directions).all()
    scores = (features - features.mean(0)) @ directions[:, 0]
    apart = (scores[::2].mean() - scores[1::2].mean()).abs()
    assert apart > 3 * scores[::2].std()


def test_the_ablation_gives_a_row_for_every_variant_and_repeats_no_run(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {
        name: replace(MMViTConfig.small(3, 64, views), width=16)
        for name, views in (("two views", 2), ("one view", 1))
    }
    monkeypatch.setattr(mmvit_ablation, "variants", lambda classes, side, stem: chosen)
    arguments = arguments_of(miniature, "--epochs", "1", "--side", "64", "--keep-maps")
    arguments.out, arguments.seeds = tmp_path, [0, 1]
    arguments.variants = arguments.stop_after = None
    rows = mmvit_ablation.run(arguments)
    assert [row["variant"] for row in rows] == ["two views", "one view"]
    for row in rows:
        assert 0 <= row["top1"] <= 100
        assert row["spread"] >= 0
        assert row["seeds"] == 2
    assert rows[0]["difference"] == 0
    recorded = (tmp_path / mmvit_ablation.FILE).read_text()
    assert mmvit_ablation.run(arguments) == rows
    assert (tmp_path / mmvit_ablation.FILE).read_text() == recorded


def test_the_ablations_variants_are_of_nearly_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    base = MMViTConfig.from_scratch(10, 96)
    size = mmvit_ablation.parameters_of(base)
    found = mmvit_ablation.with_size(replace(base, views=1), size)
    assert found.width > base.width
    assert mmvit_ablation.parameters_of(found) / size == pytest.approx(1, abs=0.1)
    monkeypatch.setattr(mmvit_ablation, "with_size", lambda config, size: config)
    assert len(set(mmvit_ablation.variants(10, 96).values())) == 6


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_mixed_targets_are_as_the_pictures_are_mixed(mixup: float, cutmix: float) -> None:
    """Pictures that are their own class: the mean pixel says how much of each is left."""
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16)
    targets = torch.eye(4)
    for _ in range(5):
        pictures, mixture = augmentation.mixed(images, targets, mixup, cutmix)
        torch.testing.assert_close(mixture @ torch.arange(4.0), pictures.mean((1, 2, 3)))


def test_augmented_pictures_keep_shape_range_and_what_they_show() -> None:
    torch.manual_seed(0)
    pixels = torch.full((8, 40, 40, 3), 200, dtype=torch.uint8)
    crops = augmentation.random_crops(pixels, 24)
    assert crops.shape == (8, 3, 24, 24)
    torch.testing.assert_close(crops, torch.full_like(crops, 73 / 128))
    changed = augmentation.recoloured(crops)
    assert changed.shape == crops.shape
    assert changed.abs().max() <= 1.5
    assert changed.std((2, 3)).max() < 1e-5, "an even picture stays even"
    coarse = augmentation.coarsened(torch.randn(8, 3, 24, 24), 6, 0.5)
    assert coarse[:4].std() < 0.6 < coarse[4:].std()


def test_crops_grow_over_four_fifths_of_a_run() -> None:
    sides = [mmvit_trainer.side_at(p, 96, 160) for p in (0.0, 0.2, 0.4, 0.8, 1.0)]
    assert sides == [96, 112, 128, 160, 160]
    assert mmvit_trainer.side_at(0.3, 33, 33) == 33


def test_the_sound_recipe_trains_and_evaluates(
    tmp_path: Path,
    run_folder: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = mmvit_sound.made

    def repeated(
        count: int, seed: int, kinds: tuple[str, ...] = mmvit_sound.SOUNDS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Drawing a thousand sounds takes longer than all else: 24 of them, over and over."""
        images, labels = made(24, seed, kinds)
        index = torch.arange(count) % 24
        return images[index], labels[index]

    monkeypatch.setattr(mmvit_sound, "made", repeated)
    parser = argparse.ArgumentParser()
    mmvit_sound.add_train_arguments(parser)
    mmvit_sound.train(
        parser.parse_args(
            ["--out", str(tmp_path), "--steps", "3", "--batch", "16", "--sounds", "24"]
        )
    )
    card = weights.card("weights", tmp_path)
    assert card["model"] == "mmvit_sound"
    assert 0.25 <= card["calibration"]["temperature"] <= 4
    assert in_range(card["metrics"])

    entry = replace(
        registry.entry("mmvit"), name="mmvit_sound", recipe="crossfuse.training.mmvit_sound"
    )
    monkeypatch.setitem(registry.MODELS, "mmvit_sound", entry)
    run_folder(tmp_path)
    parser = argparse.ArgumentParser()
    mmvit_sound.add_evaluate_arguments(parser)
    figures = mmvit_sound.evaluate(parser.parse_args(["--weights", "weights", "--sounds", "24"]))
    assert figures["weights"] == "weights"
    assert in_range(figures)


def test_measures_of_known_logits() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    sure = torch.eye(3)[labels] * 20
    figures = measure(sure, labels, 1.0)
    assert figures["top1"] == 1
    assert figures["ece"] == pytest.approx(0, abs=1e-6)
    wrong = sure.clone()
    wrong[3] = torch.tensor([20.0, 0, 0])
    assert measure(wrong, labels, 1.0)["ece"] == pytest.approx(0.25, abs=1e-5)
    # Too sure of a wrong answer: the temperature goes up.
    assert fit_temperature(wrong, labels) == pytest.approx(4)


def test_what_is_named_is_named_rightly_as_often_as_promised() -> None:
    torch.manual_seed(0)
    labels = torch.randint(5, (4000,))
    logits = 2 * torch.eye(5)[labels] * torch.rand(4000, 1) + torch.randn(4000, 5)
    half = torch.arange(4000) % 2 == 0
    assert measure(logits, labels, 1.0)["top1"] < 0.7
    calibration = calibration_of(logits[half], labels[half])
    shares = naming(logits[~half], labels[~half], calibration)
    assert 0.84 < shares["named_right"] < 0.92
    bound = lower_bound(torch.arange(1, 101.0) * 0.9)
    assert 0.8 < float(bound[-1]) < 0.87, "of ninety in a hundred"
    assert shares["named"] == pytest.approx(1 - calibration["threshold"], abs=0.05)


@pytest.mark.parametrize("name", SCORES)
def test_none_of_these_is_said_of_the_least_typical(name: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    known = 3 * torch.eye(3)[labels] + torch.randn(300, 3)
    calibration = calibration_of(known, labels) | {"score": name}
    calibration["quantiles"] = quantiles(score(known, calibration))
    shares = rejection(known, 0.3 * torch.randn(50, 3) - 1, calibration)
    assert shares["rejected_inside"] == pytest.approx(calibration["threshold"], abs=0.01)
    assert shares["rejected_outside"] > 0.5
    assert shares["auroc"] > 0.9
    assert shares["fpr95"] < 0.5
    with_labels = rejection(known, torch.randn(50, 3), calibration, labels)
    assert with_labels["auroc_right"] >= with_labels["auroc"]
    ranks = [typicality(float(v), calibration["quantiles"]) for v in score(known, calibration)]
    assert np.sort(ranks) == pytest.approx(np.linspace(0, 1, 300), abs=0.05)


def test_too_few_photographs_for_one_batch_are_refused(
    miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(miniature, tmp_path, *SCRATCH, "--batch", "64") == 1
    assert "--batch" in capsys.readouterr().err

"""Splits, scores and the whole recipe on files in DEAP's format of known content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from crossfuse import registry
from crossfuse.cli import main
from crossfuse.data.eeg import deap
from crossfuse.errors import CrossfuseError
from crossfuse.models.mca_eeg import MCAEEG, MCAEEGConfig
from crossfuse.training import eeg_scores
from crossfuse.training.eeg_datasets import Trial, load_dataset
from crossfuse.training.eeg_fit import TrainRecipe, cut
from crossfuse.training.eeg_protocols import Run, Setting, held_out, splits
from crossfuse.training.mca_eeg import fold_into, normalisation


def trials(people: int = 5, each: int = 4, columns: int = 12) -> list[Trial]:
    generator = torch.Generator().manual_seed(0)
    return [
        Trial(
            f"p{p}",
            k % 2,
            torch.randn(8, 5, columns, generator=generator),
            torch.randn(8, 5, columns, generator=generator),
        )
        for p in range(people)
        for k in range(each)
    ]


@settings(max_examples=20, deadline=None)
@given(people=st.integers(2, 7), folds=st.integers(0, 7), seed=st.integers(0, 99))
def test_nobody_is_on_both_sides(people: int, folds: int, seed: int) -> None:
    windows = cut(trials(people))
    if folds == 1 or folds > people:
        with pytest.raises(CrossfuseError, match="folds"):
            list(splits(windows, "subject", folds, seed))
        return
    held = np.zeros(len(windows), int)
    for train, test in splits(windows, "subject", folds, seed):
        assert not set(windows.person[train]) & set(windows.person[test])
        assert not (train & test).any()
        held += test
    assert (held == 1).all()


def test_the_papers_split_mixes_people_and_trials() -> None:
    windows = cut(trials(each=8, columns=30))
    train, test = next(splits(windows, "paper", 1, 0))
    assert set(windows.person[train]) & set(windows.person[test])
    assert set(windows.trial[train]) & set(windows.trial[test])


def test_scope_trial_is_the_network_on_whole_trials() -> None:
    some = trials(2, 2)
    windows = cut(some, scope="trial")
    torch.manual_seed(0)
    model = MCAEEG(MCAEEGConfig(channels=8, scaling="minmax")).eval()
    assert windows.fused is not None
    whole = torch.cat([model(t.de[None], t.psd[None]).logits[0] for t in some])
    torch.testing.assert_close(model.classify(windows.fused[:, None]), whole)


def test_folds_side_by_side_are_the_folds_one_by_one(tmp_path: Path) -> None:
    """Two processes give the scores of one; kept folds are not computed again."""
    some = trials(3, 2)
    config, recipe = MCAEEGConfig(channels=8), TrainRecipe(epochs=1)
    settings = dict.fromkeys(("mca", "logistic"), Setting(cut(some), config, recipe))
    runs = [Run("mca", "subject", 0), Run("logistic", "subject", 0)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = held_out(settings, runs)
    torch.set_num_threads(threads)
    beside = held_out(settings, runs, jobs=2, keep=tmp_path)
    lines: list[str] = []
    kept = held_out(settings, runs, keep=tmp_path, say=lines.append)
    assert not lines
    for run in runs:
        assert np.isfinite(alone[run]).all()
        np.testing.assert_allclose(alone[run], beside[run], atol=1e-4)
        np.testing.assert_array_equal(kept[run], beside[run])


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200)
    score = label + random.normal(size=200)
    assert eeg_scores.auc(score, label) == pytest.approx(roc_auc_score(label, score))
    expected = balanced_accuracy_score(label, score > 0)
    assert eeg_scores.balanced_accuracy(score, label) == pytest.approx(expected)
    assert eeg_scores.expected_calibration_error(np.where(label, 30.0, -30.0), label) < 1e-6
    assert np.isnan(eeg_scores.auc(score, np.ones(200)))


def test_a_persons_threshold_comes_from_the_others() -> None:
    """Changing one person's labels leaves that person's calibrated scores as they were."""
    random = np.random.default_rng(1)
    person = np.repeat(np.arange(4), 30)
    label = random.integers(0, 2, 120)
    score = 2 * label + random.normal(size=120) + 5
    before = eeg_scores.cross_calibrate(score, label, person)
    turned = np.where(person == 2, 1 - label, label)
    after = eeg_scores.cross_calibrate(score, turned, person)
    np.testing.assert_array_equal(before[person == 2], after[person == 2])
    assert eeg_scores.balanced_accuracy(before, label) > 0.75


def test_calibration_goes_into_the_last_layer() -> None:
    torch.manual_seed(0)
    model = MCAEEG(MCAEEGConfig(channels=8)).eval()
    inputs = MCAEEG.example_inputs(model.config, 4, 0)

    def score() -> torch.Tensor:
        logits = model(**inputs).logits[:, 0]
        return logits[:, 1] - logits[:, 0]

    before = score().detach()
    fold_into(model, 0.7, 1.5)
    torch.testing.assert_close(score(), 0.7 * before + 1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("deap")
    for number in (1, 2, 3):
        (target / f"s0{number}.dat").write_bytes(deap.generate(number, trials=8, samples=128 * 21))
    return target


def test_the_recipe_runs_on_deap_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was planted (high valence: less alpha, more theta) is found in people held out."""
    known = load_dataset("deap", folder, normalisation("ours"))
    assert len(known) == 24
    assert sum(trial.label for trial in known) == 12
    command = ["evaluate", "mca_eeg", "--dataset", "deap", "--data", str(folder)]
    options = ["--seeds", "1", "--epochs", "8", "--methods", "mca", "logistic", "riemann", "--json"]
    assert main([*command, *options]) == 0
    figures = json.loads(capsys.readouterr().out)
    for method in ("mca", "logistic"):
        assert figures["methods"][method]["mean"]["trial_balanced_accuracy"] > 0.9
    assert figures["people"] == ["s01", "s02", "s03"]
    train = ["train", "mca_eeg", "--dataset", "deap", "--data", str(folder), "--epochs", "1"]
    assert main([*train, "--protocol", "paper", "--out", str(tmp_path)]) == 0
    model = registry.load("mca_eeg", weights="mca_eeg", folder=tmp_path)
    assert sum(p.numel() for p in model.parameters()) == 195_618


def test_data_that_is_not_there(tmp_path: Path) -> None:
    for name, says in (("eegmat", "SNN_rest"), ("deap", r"s01\.dat"), ("seed", "no data set")):
        with pytest.raises(CrossfuseError, match=says):
            load_dataset(name, tmp_path, normalisation("ours"))
    with pytest.raises(CrossfuseError, match="no folder"):
        load_dataset("eegmat", tmp_path / "none", normalisation("ours"))
    with pytest.raises(CrossfuseError, match="valence"):
        load_dataset("deap", tmp_path, normalisation("ours"), scale="joy")

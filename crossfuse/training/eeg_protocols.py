"""Who is held out, and the scores of everything held out, fold by fold over several processes.

Protocol ``subject`` holds out whole people (leave-one-subject-out, or grouped folds); protocol
``paper`` is the random split over pooled windows that the literature uses, which leaks: windows
of one trial lie on both sides. Each method gets the same windows, the same normalisation by the
person's baseline segment (which is never scored), and the same cross-fitted threshold: the score
of a held-out person is shifted and scaled by a logistic curve fitted to the held-out scores of
the *other* people. Trials are scored by the mean of their windows.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfuse.errors import CrossfuseError
from crossfuse.models.mca_eeg import MCAEEGConfig
from crossfuse.training.eeg_fit import SEEDED, TrainRecipe, Windows, fit_and_score
from crossfuse.training.eeg_scores import balanced_accuracy, cross_calibrate, summary

PARTS = 10  # of the random split


@dataclass(frozen=True)
class Setting:
    """What a method learns from: windows, the network's sizes and its recipe."""

    windows: Windows
    config: MCAEEGConfig
    recipe: TrainRecipe


@dataclass(frozen=True)
class Run:
    """One method under one protocol with one seed. ``folds`` = 0: every person, every part."""

    method: str
    protocol: str
    seed: int
    folds: int = 0

    def tag(self) -> str:
        return f"{self.method}_{self.protocol}_{self.seed}_{self.folds}"


def splits(
    windows: Windows, protocol: str, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(train, test) masks. ``subject``: whole people are held out, one at a time for ``folds`` = 0.
    ``paper``: random windows, the first ``folds`` of ten parts (0 = all), whatever trial or person
    they are of."""
    if protocol == "subject":
        people = np.random.default_rng(1).permutation(len(windows.people))
        count = folds or len(people)
        if not 2 <= count <= len(people):
            raise CrossfuseError(
                f"{count} folds were asked for {len(people)} people; at least two people and at "
                "most one fold a person are needed"
            )
        for part in range(count):
            test = np.isin(windows.person, people[part::count])
            yield ~test, test
    elif protocol == "paper":
        parts = np.random.default_rng(seed).permutation(len(windows)) % PARTS
        for part in range(min(folds or PARTS, PARTS)):
            test = parts == part
            yield ~test, test
    else:
        raise CrossfuseError(f"there is no protocol {protocol!r}; there are subject and paper")


def held_out(
    settings: dict[str, Setting],
    runs: Sequence[Run],
    jobs: int = 1,
    device: str = "cpu",
    keep: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[Run, np.ndarray]:
    """Scores of every window by a network that has not seen it (NaN where no fold holds it out).

    ``settings``: what each method learns from. ``jobs``: processes that share the folds; each
    trains on ``device``.
    ``keep``: a folder where finished folds are kept, so that a stopped command can be taken up
    again; it must be used with one data set and one recipe only.
    """
    scores = {run: np.full(len(settings[run.method].windows), np.nan) for run in runs}
    todo: list[tuple[Run, np.ndarray, np.ndarray]] = []
    for run in runs:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{run.tag()}.npy"
            if path.exists() and (found := np.load(path)).shape == scores[run].shape:
                scores[run] = found
        windows = settings[run.method].windows
        for train, test in splits(windows, run.protocol, run.folds, run.seed):
            if np.isnan(scores[run][test]).any():
                todo.append((run, train, test))
    for done, (run, test, values) in enumerate(_each(settings, todo, jobs, device), 1):
        scores[run][test] = values
        if keep is not None:
            np.save(keep / f"{run.tag()}.npy", scores[run])
        say(f"fold {done} of {len(todo)}: {run.protocol} {run.method} seed {run.seed}")
    return scores


_Fold = tuple[Run, np.ndarray, np.ndarray]


def _each(
    settings: dict[str, Setting], todo: Sequence[_Fold], jobs: int, device: str
) -> Iterator[_Fold]:
    if jobs <= 1 or len(todo) <= 1:
        for run, train, test in todo:
            yield run, test, _fold(settings[run.method], run, train, test, device)
        return
    # A forked child of a process whose threads hold locks can hang: start afresh. The windows go
    # by a file: a child that ends before a long start message is read leaves its parent waiting.
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.pickle"
        path.write_bytes(pickle.dumps(settings))
        with ProcessPoolExecutor(min(jobs, len(todo)), fresh, _begin, (path,)) as pool:
            futures = {pool.submit(_work, *fold, device): fold for fold in todo}
            for future in as_completed(futures):
                run, _, test = futures[future]
                yield run, test, future.result()


_SETTINGS: dict[str, Setting] = {}  # of a worker process, set once when it starts


def _begin(path: Path) -> None:
    torch.set_num_threads(1)  # the folds are what runs side by side
    _SETTINGS.update(pickle.loads(path.read_bytes()))


def _work(run: Run, train: np.ndarray, test: np.ndarray, device: str) -> np.ndarray:
    return _fold(_SETTINGS[run.method], run, train, test, device)


def _fold(
    setting: Setting, run: Run, train: np.ndarray, test: np.ndarray, device: str
) -> np.ndarray:
    method = "mca" if run.method == "paper" else run.method
    windows, config, recipe = setting.windows, setting.config, setting.recipe
    return fit_and_score(method, windows, train, test, config, recipe, run.seed, device)


# --- figures ---------------------------------------------------------------------------------


def figures(run: Run, score: np.ndarray, windows: Windows) -> dict[str, Any]:
    """All figures of one run from its held-out scores; ``scores`` are as the network gave them."""
    judged = ~np.isnan(score)
    label, person, trial = (part[judged] for part in (windows.label, windows.person, windows.trial))
    raw = score[judged]
    by_person = run.protocol == "subject"
    final = cross_calibrate(raw, label, person) if by_person else raw
    found = summary(final, label, person, trial, people=windows.people, trials=by_person)
    if by_person:
        found["window_balanced_accuracy_threshold_0"] = balanced_accuracy(raw, label)
    return found | {"seed": run.seed, "scores": [round(float(v), 3) for v in raw]}


def run_protocol(
    settings: dict[str, Setting],
    protocol: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    folds: int = 0,
    jobs: int = 1,
    device: str = "cpu",
    keep: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Every method under one protocol: the figures of each seed, their mean and spread."""
    runs = [
        Run(method, protocol, seed, folds)
        for method in methods
        for seed in (seeds if method in SEEDED else seeds[:1])
    ]
    scores = held_out(settings, runs, jobs, device, keep, say)
    return {
        method: combine(
            [
                figures(run, scores[run], settings[method].windows)
                for run in runs
                if run.method == method
            ]
        )
        for method in methods
    }


def combine(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every figure, and the runs themselves."""
    keys = [k for k, v in runs[0].items() if isinstance(v, float)]
    mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in keys}
    spread = {key: round(float(np.std([run[key] for run in runs])), 4) for key in keys}
    return {"mean": mean, "spread": spread, "seeds": [run["seed"] for run in runs], "runs": runs}

"""The saved evaluation behind "Why 99 %?": every method under both protocols, in one file.

    python -m crossfuse.training.eeg_report --data DIR --work FOLDER

Each run's raw scores are kept in FOLDER, so that the command can be stopped and taken up again; the
figures go to ``assets/weights/mca_eeg/evaluation.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossfuse.training.eeg_datasets import Trial, load_dataset
from crossfuse.training.eeg_scores import cross_calibrate, summary
from crossfuse.training.mca_eeg import (
    Windows,
    combine,
    cut,
    fit_and_score,
    normalisation,
    setting,
    splits,
)
from crossfuse.weights import WEIGHTS

COMMAND = "python -m crossfuse.training.eeg_report --data DIR --work FOLDER"


@dataclass(frozen=True)
class Cell:
    """One bar: a method on a kind of features under a protocol. ``folds``: 0 = one person each."""

    name: str
    features: str
    protocol: str
    method: str
    seeds: int
    folds: int = 0

    def tag(self, seed: int) -> str:
        return f"{self.features}_{self.protocol}_{self.method}_{seed}_{self.folds}"


GROUPS = 7  # of four people each; `crossfuse evaluate mca_eeg` leaves one person out instead
CELLS = (
    Cell("mca", "ours", "subject", "mca", 3, GROUPS),
    Cell("concatenate", "ours", "subject", "concatenate", 1, GROUPS),
    Cell("logistic", "ours", "subject", "logistic", 1, GROUPS),
    Cell("riemann", "ours", "subject", "riemann", 1, GROUPS),
    Cell("paper", "paper", "subject", "mca", 1, GROUPS),
    Cell("mca", "ours", "paper", "mca", 1),
    Cell("logistic", "ours", "paper", "logistic", 1),
    Cell("riemann", "ours", "paper", "riemann", 1),
    Cell("paper", "paper", "paper", "mca", 1),
)


def scores(cell: Cell, seed: int, trials: list[Trial], windows: Windows, work: Path) -> np.ndarray:
    """Held-out scores of one seed, taken from ``work`` or computed fold by fold."""
    path = work / f"{cell.tag(seed)}.npy"
    found = np.load(path) if path.exists() else np.full(len(windows), np.nan)
    settings = argparse.Namespace(features=cell.features, epochs=None)
    config, recipe = setting(settings, trials)
    for train, test in splits(windows, cell.protocol, cell.folds, seed):
        if np.isnan(found[test]).any():
            found[test] = fit_and_score(cell.method, windows, train, test, config, recipe, seed)
            np.save(path, found)
    result: np.ndarray = found
    return result


def figures(cell: Cell, score: np.ndarray, windows: Windows, seed: int) -> dict[str, Any]:
    """The figures of one seed from its scores."""
    judged = ~np.isnan(score)
    label, person, trial = (part[judged] for part in (windows.label, windows.person, windows.trial))
    final = score[judged]
    if cell.protocol == "subject":
        final = cross_calibrate(final, label, person)
    found = summary(
        final, label, person, trial, people=windows.people, trials=cell.protocol == "subject"
    )
    return found | {"seed": seed}


def report(data: Path, work: Path, cells: tuple[Cell, ...] = CELLS) -> dict[str, Any]:
    """All cells: rows for the chart, and the whole figures of each."""
    work.mkdir(parents=True, exist_ok=True)
    rows, details = [], []
    for features in dict.fromkeys(cell.features for cell in cells):
        trials = load_dataset("eegmat", data, normalisation(features), covariance=True)
        windows = cut(trials, scope="trial" if features == "paper" else "window")
        for cell in (one for one in cells if one.features == features):
            runs = [
                figures(cell, scores(cell, seed, trials, windows, work), windows, seed)
                for seed in range(cell.seeds)
            ]
            together = combine(runs)
            mean, spread = together["mean"], together["spread"]
            rows.append(
                {
                    "name": cell.name,
                    "protocol": cell.protocol,
                    "value": mean["window_balanced_accuracy"],
                    "spread": spread["window_balanced_accuracy"],
                    "trials": mean.get("trial_balanced_accuracy"),
                    "trials_spread": spread.get("trial_balanced_accuracy"),
                    "auc": mean["window_auc"],
                    "seeds": cell.seeds,
                    "folds": cell.folds
                    or (len(windows.people) if cell.protocol == "subject" else 1),
                }
            )
            details.append({"name": cell.name, "protocol": cell.protocol, **together})
            print(rows[-1], flush=True)
    return {"dataset": "EEGMAT", "command": COMMAND, "rows": rows, "details": details}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "mca_eeg" / "evaluation.json")
    args = parser.parse_args()
    document = report(args.data, args.work)
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

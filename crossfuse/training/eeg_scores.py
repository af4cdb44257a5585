"""Scores of two-class predictions, by window, by trial and by person."""

from __future__ import annotations

from typing import Any

import numpy as np


def balanced_accuracy(score: np.ndarray, label: np.ndarray) -> float:
    """Mean of the two classes' hit rates at threshold 0; of one class where only one is there."""
    rates = [
        float(np.mean((score[label == k] > 0) == bool(k))) for k in (0, 1) if (label == k).any()
    ]
    return float(np.mean(rates))


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve by ranks (ties count half); NaN with one class only."""
    from scipy.stats import rankdata

    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(score)[label == 1].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def expected_calibration_error(score: np.ndarray, label: np.ndarray, bins: int = 10) -> float:
    """Mean gap between confidence and frequency over equal bins of the sigmoid of ``score``,
    each class weighted alike."""
    probability = 1 / (1 + np.exp(-score))
    weight = np.where(label == 1, 0.5 / max(label.mean(), 1e-9), 0.5 / max(1 - label.mean(), 1e-9))
    place = np.minimum((probability * bins).astype(int), bins - 1)
    total = 0.0
    for index in range(bins):
        inside = place == index
        if inside.any():
            mass = weight[inside].sum()
            gap = np.average(probability[inside], weights=weight[inside]) - np.average(
                label[inside], weights=weight[inside]
            )
            total += mass * abs(gap)
    return float(total / weight.sum())


def calibrate(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """(slope, shift) of the logistic curve that fits the labels, both classes weighted alike."""
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=1e3, class_weight="balanced").fit(score[:, None], label)
    return max(float(line.coef_[0, 0]), 1e-3), float(line.intercept_[0])


def cross_calibrate(score: np.ndarray, label: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Each person's scores through the curve fitted to the other people's held-out scores."""
    out = np.array(score, float)
    for one in np.unique(person):
        others = person != one
        if len(np.unique(label[others])) == 2:
            slope, shift = calibrate(score[others], label[others])
            out[~others] = slope * score[~others] + shift
    return out


def summary(
    score: np.ndarray,
    label: np.ndarray,
    person: np.ndarray,
    trial: np.ndarray,
    *,
    people: tuple[str, ...],
    trials: bool,
) -> dict[str, Any]:
    """All figures of one run. Per-person figures are window balanced accuracies."""
    out: dict[str, Any] = {
        "window_balanced_accuracy": balanced_accuracy(score, label),
        "window_auc": auc(score, label),
        "window_calibration_error": expected_calibration_error(score, label),
    }
    if trials:
        numbers = np.unique(trial)
        mean = np.array([score[trial == n].mean() for n in numbers])
        truth = np.array([label[trial == n][0] for n in numbers])
        out |= {
            "trial_balanced_accuracy": balanced_accuracy(mean, truth),
            "trial_auc": auc(mean, truth),
        }
    by_person = {
        people[one]: balanced_accuracy(score[person == one], label[person == one])
        for one in np.unique(person)
    }
    values = np.array(list(by_person.values()))
    out |= {
        "person_mean": float(values.mean()),
        "person_spread": float(values.std()),
        "person_lowest": float(values.min()),
        "by_person": {name: round(value, 3) for name, value in by_person.items()},
    }
    return out

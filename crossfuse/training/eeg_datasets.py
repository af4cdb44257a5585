"""EEGMAT and DEAP as labelled trials of normalised feature columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossfuse.data.eeg import deap, eegmat
from crossfuse.encoders.eeg_features import Features, extract, filter_blocks
from crossfuse.encoders.eeg_features import band_pass as band_pass_taps
from crossfuse.encoders.eeg_normalise import Normalisation, Statistics, normalise
from crossfuse.errors import CrossfuseError

BASELINE = 60  # seconds of rest, the first of the recording; never scored
GAP = 2  # columns after the baseline that share samples with it
LENGTH = 60  # seconds of one trial, as in DEAP
WIDTH = 3  # seconds of one window


@dataclass(frozen=True)
class Trial:
    """``de``, ``psd``: (channels, bands, columns), normalised. ``covariance``: (windows, C, C)."""

    person: str
    label: int
    de: Tensor
    psd: Tensor
    covariance: np.ndarray | None = None


def load_dataset(
    name: str,
    folder: Path,
    rule: Normalisation,
    *,
    scale: str = "valence",
    covariance: bool = False,
) -> list[Trial]:
    """All trials of a data set's folder.

    Raises:
        CrossfuseError: no such folder or files, or files that are not the data set's.
    """
    if name == "eegmat":
        return eegmat_trials(folder, rule, covariance)
    if name == "deap":
        return deap_trials(folder, rule, scale, covariance)
    raise CrossfuseError(f"there is no data set {name!r}; there are eegmat and deap")


def eegmat_trials(folder: Path, rule: Normalisation, covariance: bool) -> list[Trial]:
    """For each person: the first minute of rest is the baseline; the rest of it is one trial of
    class 0, the first minute of the task one of class 1."""
    trials = []
    for person in eegmat.load(folder):
        rest = extract(person.rest.signal, person.rest.rate)
        task = extract(person.task.signal, person.task.rate)
        statistics = _statistics(rest, task, rule, slice(0, BASELINE))
        begin = BASELINE + GAP
        parts = (
            (0, rest, person.rest.signal, slice(begin, len(rest))),
            (1, task, person.task.signal, slice(0, min(LENGTH, len(task)))),
        )
        white = _whitener(person.rest.signal[:, : BASELINE * 128], 128.0) if covariance else None
        for label, features, signal, span in parts:
            de, psd = (
                normalise(columns[..., span], one, rule)
                for columns, one in zip((features.de, features.psd), statistics, strict=True)
            )
            covariances = None
            if white is not None:
                first, last = span.start * 128, span.stop * 128
                covariances = _covariances(signal[:, first:last], 128.0, white)
            trials.append(Trial(person.name, label, de, psd, covariances))
    return trials


def deap_trials(folder: Path, rule: Normalisation, scale: str, covariance: bool) -> list[Trial]:
    """For each person: a trial a video; high (1) is a rating of 5 or more. The baseline is the
    second before every video, of all of the person's videos together."""
    if scale not in deap.SCALES:
        raise CrossfuseError(f"DEAP rates {', '.join(deap.SCALES)}; not {scale!r}")
    paths = sorted(folder.glob("s[0-9][0-9].dat")) if folder.is_dir() else []
    if not paths:
        raise CrossfuseError(
            f"{folder} holds no s01.dat ... s32.dat; give the folder 'data_preprocessed_python' of "
            "DEAP, which its authors hand out under a signed agreement"
        )
    trials = []
    before = int(deap.BEFORE)
    for path in paths:
        data, labels = deap.arrays_of(path.read_bytes())
        features = [extract(np.asarray(one[:32], np.float32), deap.RATE) for one in data]
        # Column 0 is the only one whose windows end before the video starts.
        rests = [torch.cat([getattr(f, key)[..., :1] for f in features], -1) for key in _KINDS]
        statistics = [Statistics.of(columns) for columns in rests]
        for index, found in enumerate(features):
            if rule.method == "recording":
                raise CrossfuseError("transductive scaling is offered for EEGMAT only")
            de, psd = (
                normalise(getattr(found, key)[..., before:], one, rule)
                for key, one in zip(_KINDS, statistics, strict=True)
            )
            covariances = None
            if covariance:
                signal = np.asarray(data[index, :32, int(deap.BEFORE * deap.RATE) :], np.float32)
                covariances = _covariances(signal, deap.RATE, np.eye(32))
            label = int(labels[index, deap.SCALES.index(scale)] >= 5)
            trials.append(Trial(path.stem, label, de, psd, covariances))
    return trials


_KINDS = ("de", "psd")


def _statistics(
    rest: Features, task: Features, rule: Normalisation, baseline: slice
) -> list[Statistics]:
    if rule.method == "recording":
        return [
            Statistics.of(torch.cat([getattr(rest, key), getattr(task, key)], -1)) for key in _KINDS
        ]
    return [Statistics.of(getattr(rest, key)[..., baseline]) for key in _KINDS]


def _covariances(signal: np.ndarray, rate: float, white: np.ndarray) -> np.ndarray:
    """Shrunk covariances of 3 s windows, 4-45 Hz, seen from the person's baseline."""
    from pyriemann.estimation import Covariances

    taps = band_pass_taps(4, 45, rate)
    clean = filter_blocks(torch.from_numpy(np.ascontiguousarray(signal)), [taps])[:, 0].numpy()
    length = round(WIDTH * rate)
    count = clean.shape[1] // length
    blocks = clean[:, : count * length].reshape(len(clean), count, length).swapaxes(0, 1)
    found = Covariances("oas").transform(blocks.astype(np.float64))
    result: np.ndarray = white @ found @ white.T
    return result


def _whitener(signal: np.ndarray, rate: float) -> np.ndarray:
    """Inverse square root of the mean baseline covariance: the person's own frame."""
    mean = _covariances(signal, rate, np.eye(len(signal))).mean(0)
    values, vectors = np.linalg.eigh(mean)
    result: np.ndarray = vectors @ np.diag(values**-0.5) @ vectors.T
    return result

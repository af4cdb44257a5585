"""A decoded recording, and the checks that every reader shares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

MAX_CHANNELS = 512
MAX_SAMPLES = 1 << 30  # channels x samples: 4 GiB of float32
UNITS = {"V": 1e6, "mV": 1e3, "uV": 1.0, "µV": 1.0, "μV": 1.0, "nV": 1e-3}
PLAUSIBLE = (0.05, 1500.0)  # µV: standard deviations outside are a wrong unit or a broken file


@dataclass(frozen=True)
class Annotation:
    """A mark on the time axis: ``onset`` and ``duration`` in seconds from the first sample."""

    onset: float
    duration: float
    text: str


@dataclass(frozen=True, eq=False)
class Recording:
    """EEG in µV. ``signal``: (channels, samples) float32; ``rate`` in Hz.

    ``kinds``: "eeg", "eog", "ecg", "emg", "ref" or "misc" for each channel, as the file or the name
    says. ``bad``: names of channels marked bad. ``positions``: (channels, 3) metres, NaN rows where
    unknown, or None. ``notes``: sentences for the reader about what was assumed, cut or changed.
    """

    signal: np.ndarray
    rate: float
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    annotations: tuple[Annotation, ...] = ()
    bad: tuple[str, ...] = ()
    positions: np.ndarray | None = None
    format: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or self.signal.shape[0] != len(self.names):
            raise ValueError(
                f"signal {self.signal.shape} does not fit {len(self.names)} channel names"
            )

    @property
    def seconds(self) -> float:
        return self.signal.shape[1] / self.rate

    def pick(self, names: tuple[str, ...] | list[str]) -> Recording:
        """The channels of these names, in this order."""
        index = [self.names.index(name) for name in names]
        return replace(
            self,
            signal=self.signal[index],
            names=tuple(names),
            kinds=tuple(self.kinds[i] for i in index),
            bad=tuple(name for name in self.bad if name in names),
            positions=None if self.positions is None else self.positions[index],
        )

    def noted(self, *notes: str) -> Recording:
        return replace(self, notes=(*self.notes, *notes))


def check_size(channels: int, samples: int, rate: float, where: str) -> None:
    """Refuse what cannot be a recording before anything of its size is allocated."""
    if channels < 1 or samples < 1:
        raise CrossfuseError(
            "{where} holds {channels} channels of {samples} samples; a recording needs at "
            "least one of each. Export it again from the recording software.",
            where=where,
            channels=channels,
            samples=samples,
        )
    if channels > MAX_CHANNELS:
        raise CrossfuseError(
            "{where} declares {channels} channels; up to {limit} are read. Leave out the "
            "channels that are not EEG.",
            where=where,
            channels=channels,
            limit=MAX_CHANNELS,
        )
    if channels * samples > MAX_SAMPLES:
        raise CrossfuseError(
            "{where} declares {channels} channels x {samples} samples, more than the "
            "{limit} million values that are read. Cut it into shorter parts.",
            where=where,
            channels=channels,
            samples=samples,
            limit=MAX_SAMPLES >> 20,
        )
    if not (np.isfinite(rate) and 1 <= rate <= 100_000):
        raise CrossfuseError(
            "{where} declares a sampling rate of {rate:g} Hz; rates from 1 Hz to 100 kHz "
            "are read. State the right rate or export the file again.",
            where=where,
            rate=rate,
        )


def mend(recording: Recording) -> Recording:
    """Fill what is not a number, mark flat channels bad, and refuse implausible amplitudes.

    A stretch of NaN is bridged by a straight line between its ends and kept as an annotation
    "BAD nan". Each change is told in ``notes``.
    """
    signal = recording.signal
    notes: list[str] = []
    marks: list[Annotation] = []
    hollow = [row for row in range(len(signal)) if not np.isfinite(signal[row].sum())]
    bad = list(recording.bad)
    if hollow:
        signal = signal.copy()
        spans: set[tuple[int, int]] = set()
        empty = []
        for row in hollow:
            missing = ~np.isfinite(signal[row])
            if missing.all():
                signal[row] = 0.0
                empty.append(recording.names[row])
                continue
            good = np.flatnonzero(~missing)
            gaps = np.flatnonzero(missing)
            signal[row, gaps] = np.interp(gaps, good, signal[row, good])
            spans.update(runs(missing))
        bad += [name for name in empty if name not in bad]
        if empty:
            notes.append(
                Notice(
                    "{empty} hold no number at all; they are zero and marked bad.",
                    empty=", ".join(empty),
                )
            )
        merged = merge(sorted(spans))
        marks = [
            Annotation(start / recording.rate, (stop - start) / recording.rate, "BAD nan")
            for start, stop in merged
        ]
        if merged:
            total = sum(stop - start for start, stop in merged) / recording.rate
            notes.append(
                Notice(
                    "{total:.2f} s in {merged} stretches are not numbers in some channel; they are "
                    "bridged by straight lines and annotated 'BAD nan'.",
                    total=total,
                    merged=len(merged),
                )
            )
    deviation = np.array([_spread(row) for row in signal])
    usual = float(np.median(deviation))
    flat = [
        name
        for name, value in zip(recording.names, deviation, strict=True)
        if value <= 1e-3 * usual and name not in bad
    ]
    if flat:
        notes.append(Notice("{flat}: flat, marked bad.", flat=", ".join(flat)))
        bad += flat
    live = [
        value
        for value, name, kind in zip(deviation, recording.names, recording.kinds, strict=True)
        if kind == "eeg" and name not in bad
    ]
    if live:
        middle = float(np.median(live))
        if not PLAUSIBLE[0] <= middle <= PLAUSIBLE[1]:
            raise CrossfuseError(
                "the EEG channels have a standard deviation of {middle:.3g} µV, EEG has 1 to "
                "200; state the unit of the file (V, mV or µV), or, if it is right, the file "
                "was damaged in transfer (text-mode copies of binary files are) and must be "
                "copied again",
                middle=middle,
            )
    return replace(
        recording,
        signal=signal,
        bad=tuple(bad),
        annotations=tuple(sorted((*recording.annotations, *marks), key=lambda a: a.onset)),
        notes=(*recording.notes, *notes),
    )


def _spread(row: np.ndarray) -> float:
    """Standard deviation in blocks of a second's order: slow drifts and offsets do not count."""
    block = min(len(row), 256)
    usable = row[: len(row) // block * block].reshape(-1, block)
    step = max(1, len(usable) // 2000)  # a sample of the blocks is enough on long recordings
    return float(np.median(usable[::step].astype(np.float64).std(axis=1)))


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans with the overlapping and touching ones joined."""
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined

"""Cleaning steps on a recording. Each returns a new recording with a note, and changes no other.

``clean`` applies a :class:`Steps`; the original recording stays as it is, so every step can be
taken back by running another ``Steps`` on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from crossfuse.data.eeg import montage
from crossfuse.data.eeg.recording import Recording
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice


@dataclass(frozen=True)
class Steps:
    """``band``: (low, high) Hz or None. ``notch``: 50 or 60 Hz and harmonics, or None.
    ``reference``: "as recorded", "average", "mastoids" or a channel's name. ``bad``: channels
    marked by hand beside those the file marks. ``interpolate``: replace bad ones from neighbours.
    """

    band: tuple[float, float] | None = None
    notch: float | None = None
    reference: str = "as recorded"
    bad: tuple[str, ...] = ()
    interpolate: bool = True


def clean(recording: Recording, steps: Steps) -> Recording:
    """All steps in order: mark bad, band-pass, notch, interpolate, reference."""
    unknown = [name for name in steps.bad if name not in recording.names]
    if unknown:
        raise CrossfuseError("there is no channel {unknown!r} to mark bad", unknown=unknown[0])
    bad = tuple(dict.fromkeys((*recording.bad, *steps.bad)))
    out = replace(recording, bad=bad)
    if steps.band is not None:
        out = band_pass(out, *steps.band)
    if steps.notch is not None:
        out = notch(out, steps.notch)
    if steps.interpolate and bad:
        out = interpolate(out)
    return reference(out, steps.reference)


def band_pass(recording: Recording, low: float, high: float) -> Recording:
    """Zero-phase FIR band-pass, MNE's design."""
    from crossfuse.encoders.eeg_features import band_pass as taps
    from crossfuse.encoders.eeg_features import filter_blocks

    if not 0 < low < high:
        raise CrossfuseError(
            "a band-pass needs 0 < low < high; got {low:g} to {high:g} Hz", low=low, high=high
        )
    if high > recording.rate / 2 - 1:
        raise CrossfuseError(
            "the band-pass ends at {high:g} Hz, a recording at {rate:g} Hz holds "
            "frequencies below {nyquist:g} Hz; lower the upper edge",
            high=high,
            rate=recording.rate,
            nyquist=recording.rate / 2,
        )
    import torch

    signal = np.empty_like(recording.signal)
    filters = [taps(low, high, recording.rate)]
    for row in range(len(signal)):
        part = torch.from_numpy(np.array(recording.signal[row : row + 1]))
        signal[row] = filter_blocks(part, filters)[0, 0].numpy()
    return replace(recording, signal=signal).noted(
        Notice("Band-pass {low:g}-{high:g} Hz.", low=low, high=high)
    )


def notch(recording: Recording, mains: float) -> Recording:
    """IIR notches (quality 30) at the mains frequency and its harmonics, forwards and backwards."""
    from scipy.signal import iirnotch, sosfiltfilt, tf2sos

    if mains not in (50, 60):
        raise CrossfuseError("mains are 50 or 60 Hz; got {mains:g}", mains=mains)
    lines = np.arange(mains, recording.rate / 2 - 1, mains)
    if not len(lines):
        return recording.noted(
            Notice(
                "{mains:g} Hz lies above what {rate:g} Hz can hold.",
                mains=mains,
                rate=recording.rate,
            )
        )
    signal = recording.signal
    for line in lines:
        sos = tf2sos(*iirnotch(line, 30, recording.rate))
        pad = min(3 * 64, signal.shape[1] - 1)
        signal = sosfiltfilt(sos, signal, axis=1, padlen=pad).astype(np.float32)
    return replace(recording, signal=signal).noted(
        Notice("Notch at {mains:g} Hz and harmonics.", mains=mains)
    )


def reference(recording: Recording, how: str) -> Recording:
    """Re-reference the EEG channels to their average, the mastoids, or one channel."""
    if how == "as recorded":
        return recording
    eeg = [i for i, kind in enumerate(recording.kinds) if kind == "eeg"]
    label: str = how
    if how == "average":
        good = [i for i in eeg if recording.names[i] not in recording.bad]
        if len(good) < 2:
            raise CrossfuseError("an average reference needs at least two good EEG channels")
        base, label = recording.signal[good].mean(0), Notice("their average")
    elif how == "mastoids":
        ears = [i for i, name in enumerate(recording.names) if name in montage.MASTOIDS]
        if len(ears) != 2:
            raise CrossfuseError(
                "linked mastoids need both A1 and A2 (or M1 and M2, TP9 and TP10); this "
                "recording has {ears} of such channels. Choose the average",
                ears=len(ears),
            )
        base, label = recording.signal[ears].mean(0), Notice("the mean of both mastoids")
    elif how in recording.names:
        base = recording.signal[recording.names.index(how)]
    else:
        raise CrossfuseError("there is no channel {how!r} to refer to", how=how)
    signal = recording.signal.copy()
    signal[eeg] -= base
    return replace(recording, signal=signal).noted(
        Notice("EEG channels are referred to {label}.", label=label)
    )


def propose_bad(recording: Recording, factor: float = 3.5) -> dict[str, Notice]:
    """EEG channels that look broken, each with the reason; bad ones of the file are left out.

    Criteria: the log of the signal's steps is far from the other channels' (robust z-score beyond
    ``factor``), or the channel correlates with no other (largest |r| below 0.15, of eight channels
    or more).
    """
    kinds = zip(recording.names, recording.kinds, strict=True)
    eeg = [i for i, (name, kind) in enumerate(kinds) if kind == "eeg" and name not in recording.bad]
    if len(eeg) < 4:
        return {}
    step = max(1, recording.signal.shape[1] // 60_000)
    part = np.diff(recording.signal[:, ::step][eeg].astype(np.float64), axis=1)
    size = np.log(part.std(axis=1) + 1e-6)
    middle = np.median(size)
    scatter = max(1.4826 * np.median(np.abs(size - middle)), 0.15)
    found: dict[str, Notice] = {}
    for place in np.flatnonzero(np.abs(size - middle) > factor * scatter):
        ratio = float(np.exp(size[place] - middle))
        found[recording.names[eeg[place]]] = Notice(
            "{ratio:.2g} times the usual amplitude", ratio=ratio
        )
    if len(eeg) >= 8:
        r = np.abs(np.corrcoef(part + 1e-12 * np.arange(part.shape[1]) % 7))
        np.fill_diagonal(r, 0)
        largest = np.nan_to_num(r).max(axis=1)
        for place in np.flatnonzero(largest < 0.15):
            name = recording.names[eeg[place]]
            alone = Notice("like no other channel (largest |r| {r:.2f})", r=float(largest[place]))
            found.setdefault(name, alone)
    return found


def interpolate(recording: Recording, names: tuple[str, ...] | None = None) -> Recording:
    """Replace bad channels by spherical splines of the good ones (Perrin et al. 1989)."""
    wanted = recording.bad if names is None else names
    known = montage.standard_positions()
    bad = [n for n in wanted if n in known]
    good = [
        n
        for n, kind in zip(recording.names, recording.kinds, strict=True)
        if kind == "eeg" and n in known and n not in wanted
    ]
    if not bad:
        return recording
    if len(good) < 4:
        return recording.noted(
            Notice("{bad} stay bad: too few good neighbours.", bad=", ".join(bad))
        )
    matrix = spline_matrix([known[n] for n in good], [known[n] for n in bad])
    index = {name: i for i, name in enumerate(recording.names)}
    signal = recording.signal.copy()
    rows = [index[n] for n in good]
    signal[[index[n] for n in bad]] = matrix.astype(np.float32) @ recording.signal[rows]
    left = tuple(name for name in recording.bad if name not in bad)
    return replace(recording, signal=signal, bad=left).noted(
        Notice("{bad}: interpolated from {good} good channels.", bad=", ".join(bad), good=len(good))
    )


def spline_matrix(source: list, target: list, stiffness: int = 4, terms: int = 50) -> np.ndarray:
    """(targets, sources) weights of spherical spline interpolation, as MNE and EEGLAB do it."""
    from numpy.polynomial.legendre import legval

    a, b = (np.asarray(p, float) for p in (source, target))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    n = np.arange(1, terms + 1)
    factors = np.concatenate([[0.0], (2 * n + 1) / (n * (n + 1.0)) ** stiffness / (4 * np.pi)])
    inside = legval(np.clip(a @ a.T, -1, 1), factors) + 1e-5 * np.eye(len(a))
    across = legval(np.clip(b @ a.T, -1, 1), factors)
    system = np.block([[inside, np.ones((len(a), 1))], [np.ones((1, len(a))), np.zeros((1, 1))]])
    inverse = np.linalg.pinv(system)
    return np.hstack([across, np.ones((len(b), 1))]) @ inverse[:, :-1]


def complete(recording: Recording, names: tuple[str, ...], most: int = 6) -> Recording:
    """The channels ``names`` in this order; up to ``most`` absent ones by interpolation.

    Raises:
        CrossfuseError: more are absent than can be interpolated honestly.
    """
    absent = [name for name in names if name not in recording.names]
    if len(absent) > most:
        raise CrossfuseError(
            "{count} of the {all} channels are absent ({first}...); up to {most} can "
            "be interpolated",
            count=len(absent),
            all=len(names),
            first=", ".join(absent[:8]),
            most=most,
        )
    if not absent:
        return recording.pick(names)
    extra = np.zeros((len(absent), recording.signal.shape[1]), np.float32)
    wider = replace(
        recording,
        signal=np.concatenate([recording.signal, extra]),
        names=(*recording.names, *absent),
        kinds=(*recording.kinds, *("eeg",) * len(absent)),
        positions=None,
        bad=(*recording.bad, *absent),
    )
    filled = interpolate(wider, tuple(absent))
    return replace(filled.pick(names), positions=montage.positions(names))


def resample(recording: Recording, rate: float) -> Recording:
    """Resampling in the frequency domain: nothing of the new band changes but its last 4 %, where
    the spectrum is let down smoothly; the ends are mirrored. Four channels at a time."""
    if recording.rate == rate:
        return recording
    import torch
    from scipy.fft import next_fast_len

    from crossfuse.encoders.eeg_features import mirror

    scale = 1000
    up, down = round(rate * scale), round(recording.rate * scale)
    common = gcd(up, down)
    up, down = up // common, down // common
    if up > 10_000:
        raise CrossfuseError(
            "a sampling rate of {rate:g} Hz cannot be brought to {wanted:g} Hz; resample "
            "the file to a whole number of Hz",
            rate=recording.rate,
            wanted=rate,
        )
    samples = recording.signal.shape[1]
    margin = -(-int(recording.rate) // down)  # whole steps of at least a second
    steps = next_fast_len(-(-samples // down) + 2 * margin, real=True)
    before, whole, result = margin * down, steps * down, steps * up
    bins = min(whole, result) // 2 + 1
    weight = torch.ones(bins)
    edge = max(1, bins // 25)
    weight[-edge:] = torch.cos(torch.linspace(0, torch.pi / 2, edge)).square()
    weight *= result / whole
    signal = np.empty((len(recording.signal), -(-samples * up // down)), np.float32)
    for start in range(0, len(signal), 4):
        part = torch.from_numpy(np.array(recording.signal[start : start + 4]))
        padded = mirror(part, before, whole - samples - before)
        spectrum = torch.fft.rfft(padded)[:, :bins] * weight
        found = torch.fft.irfft(spectrum, n=result)[:, margin * up :][:, : signal.shape[1]]
        signal[start : start + 4] = found.numpy()
    return replace(recording, signal=signal, rate=rate).noted(
        Notice("Resampled from {rate:g} to {wanted:g} Hz.", rate=recording.rate, wanted=rate)
    )

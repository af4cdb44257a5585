"""Differential entropy and power spectral density of EEG, per channel, band and second.

Source: Zhao & Gu, "MCA" (MICCAI 2024) and its public feature extraction. With x in µV:

    DE(c, b, w)  = 1/2 log10(2 pi e sigma²),   sigma² = population variance of the signal of
                   channel c, band-passed to b over the whole recording, inside window w
    PSD(c, b, w) = mean over the 1 Hz bins of band b of 10 log10(Welch(x)(c, bin, w)),
                   Welch: 1 s Hann segments, half overlapping, constant trend removed, µV²/Hz

Windows are 2 s long and start every 0.25 s; the mean of four is one column of 1 s, and the last
two columns, which have no complete window, repeat the one before (recipe ``paper``).
Both features are computed for the whole recording at once: the band-pass is a block convolution
in the frequency domain, the variance comes from running sums, and every Welch segment is
transformed once although eight windows share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crossfuse.errors import CrossfuseError

SILENCE = 1e-6  # µV²: the floor under a variance or a power, so that a flat channel stays finite


@dataclass(frozen=True)
class Band:
    """A named frequency band; ``low`` and ``high`` in Hz, both included."""

    name: str
    low: float
    high: float


def _paper_de() -> tuple[Band, ...]:
    return (
        Band("theta", 4, 8),
        Band("slow alpha", 8, 10),
        Band("alpha", 8, 12),
        Band("beta", 12, 30),
        Band("gamma", 30, 45),
    )


def _paper_psd() -> tuple[Band, ...]:
    return (
        Band("theta", 4, 7),
        Band("slow alpha", 8, 10),
        Band("alpha", 8, 13),
        Band("beta", 14, 29),
        Band("gamma", 30, 45),
    )


@dataclass(frozen=True)
class FeatureRecipe:
    """What a feature column is. The defaults are the paper's.

    ``de_bands`` and ``psd_bands`` pair up by position (the paper's edges differ between the two).
    ``window`` and ``step`` in seconds; ``pool`` steps are averaged into one column. ``taper`` of
    Welch's segments. ``filtering``: "recording" band-passes the whole recording without delay;
    "window" runs a Butterworth filter of order 5 forwards over each window alone, from rest, as
    TorchEEG's transforms do.
    """

    de_bands: tuple[Band, ...] = field(default_factory=_paper_de)
    psd_bands: tuple[Band, ...] = field(default_factory=_paper_psd)
    window: float = 2.0
    step: float = 0.25
    pool: int = 4
    taper: Literal["hann", "hamming"] = "hann"
    filtering: Literal["recording", "window"] = "recording"

    def __post_init__(self) -> None:
        if len(self.de_bands) != len(self.psd_bands) or not self.de_bands:
            raise CrossfuseError(
                "a recipe needs as many DE bands as PSD bands, at least one; it has {de_bands} "
                "and {psd_bands}",
                de_bands=len(self.de_bands),
                psd_bands=len(self.psd_bands),
            )
        if not (self.window >= 1.0 and self.step > 0 and self.pool >= 1):
            raise CrossfuseError(
                "feature windows must last 1 s or longer (the PSD has 1 Hz bins), with a "
                "positive step and pool; got window {window} s, step {step} s, pool {pool}",
                window=self.window,
                step=self.step,
                pool=self.pool,
            )

    @classmethod
    def paper(cls) -> FeatureRecipe:
        """Bands, 2 s windows, 0.25 s steps and 1 s columns of the paper's code."""
        return cls()

    @property
    def column(self) -> float:
        """Seconds from one column to the next."""
        return self.step * self.pool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.de_bands)

    def columns(self, seconds: float) -> int:
        """Columns of a recording of so many seconds (0 when shorter than one window)."""
        if seconds + 1e-9 < self.window:
            return 0
        return int(seconds / self.column + 1e-9)

    def available(self, rate: float) -> tuple[FeatureRecipe, tuple[str, ...]]:
        """This recipe without the bands that a sampling rate (Hz) cannot hold, and their names."""
        keep = [
            max(de.high, psd.high) < 0.5 * rate - 0.5
            for de, psd in zip(self.de_bands, self.psd_bands, strict=True)
        ]
        lost = tuple(band.name for band, kept in zip(self.de_bands, keep, strict=True) if not kept)
        if not lost:
            return self, ()
        if not any(keep):
            raise CrossfuseError(
                "a sampling rate of {rate:g} Hz holds none of the bands {names}; record at 100 "
                "Hz or more",
                rate=rate,
                names=", ".join(self.names),
            )
        pick = [index for index, kept in enumerate(keep) if kept]
        return (
            FeatureRecipe(
                tuple(self.de_bands[i] for i in pick),
                tuple(self.psd_bands[i] for i in pick),
                self.window,
                self.step,
                self.pool,
                self.taper,
                self.filtering,
            ),
            lost,
        )


@dataclass(frozen=True)
class Features:
    """DE and PSD of one recording, (channels, bands, columns) float32 each.

    ``times`` (columns, 2): first and last second that a column *stands for*.
    """

    de: Tensor
    psd: Tensor
    times: np.ndarray
    recipe: FeatureRecipe

    def __len__(self) -> int:
        return self.de.shape[-1]


def extract(
    signal: Tensor | np.ndarray, rate: float, recipe: FeatureRecipe | None = None
) -> Features:
    """DE and PSD columns of a recording.

    ``signal``: (channels, samples) in µV; ``rate`` in Hz. Raises CrossfuseError when the recording
    is shorter than one window or the rate cannot hold a band (see ``FeatureRecipe.available``).
    """
    recipe = recipe or FeatureRecipe.paper()
    x = torch.as_tensor(signal)
    if not x.is_floating_point():
        x = x.float()
    seconds = x.shape[-1] / rate
    columns = recipe.columns(seconds)
    if columns == 0:
        raise CrossfuseError(
            "the recording lasts {seconds:.2f} s, one feature window needs {window:g} s; "
            "choose a longer part of the recording",
            seconds=seconds,
            window=recipe.window,
        )
    _, lost = recipe.available(rate)
    if lost:
        raise CrossfuseError(
            "at {rate:g} Hz the band {lost} cannot be had (it must end below {nyquist:g} "
            "Hz); leave it out",
            rate=rate,
            lost=lost[0],
            nyquist=rate / 2,
        )
    de = pool_columns(differential_entropy(x, rate, recipe), recipe, columns)
    psd = pool_columns(power_spectral_density(x, rate, recipe), recipe, columns)
    starts = np.arange(columns) * recipe.column
    times = np.stack([starts, starts + recipe.column], axis=1)
    return Features(de.float(), psd.float(), times, recipe)


def pool_columns(steps: Tensor, recipe: FeatureRecipe, columns: int) -> Tensor:
    """(..., steps) -> (..., columns): means of ``pool`` steps, the last full one repeated."""
    full = min(steps.shape[-1] // recipe.pool, columns)
    if full == 0:
        return steps.mean(-1, keepdim=True).expand(*steps.shape[:-1], columns).contiguous()
    pooled = steps[..., : full * recipe.pool].unflatten(-1, (full, recipe.pool)).mean(-1)
    if full < columns:
        tail = pooled[..., -1:].expand(*pooled.shape[:-1], columns - full)
        pooled = torch.cat([pooled, tail], dim=-1)
    return pooled


# --- differential entropy -------------------------------------------------------------------


def entropy_of_variance(variance: Tensor) -> Tensor:
    """DE of a Gaussian in base 10: 1/2 log10(2 pi e sigma²); sigma = 1 gives 0.6162."""
    return 0.5 * torch.log10(2 * math.pi * math.e * variance.clamp_min(SILENCE))


def differential_entropy(signal: Tensor, rate: float, recipe: FeatureRecipe) -> Tensor:
    """DE of every window: (channels, bands, steps), signal (channels, samples) in µV."""
    length = round(recipe.window * rate)
    starts = window_starts(signal.shape[-1], rate, recipe)
    if recipe.filtering == "window":
        return entropy_of_variance(window_filtered_variance(signal, rate, recipe, starts, length))
    filters = [band_pass(band.low, band.high, rate) for band in recipe.de_bands]
    variances = []
    for part in signal.split(8):  # eight channels at a time: the working set stays small
        bands = filter_blocks(part.float(), filters)
        variances.append(window_variance(bands, starts, length))
    return entropy_of_variance(torch.cat(variances))


def window_starts(samples: int, rate: float, recipe: FeatureRecipe) -> Tensor:
    """First sample of each window, at every multiple of ``step`` that leaves a full window."""
    length = round(recipe.window * rate)
    count = int((samples - length) / (recipe.step * rate) + 1e-9) + 1
    # A last window that ends on the very last sample is left out, as in the paper's code
    # (232 of 60 s), unless it is the only one.
    if count > 1 and round((count - 1) * recipe.step * rate) + length == samples:
        count -= 1
    return torch.round(torch.arange(max(count, 0), dtype=torch.float64) * recipe.step * rate).long()


def band_pass(low: float, high: float, rate: float) -> np.ndarray:
    """Linear-phase taps of a zero-phase band-pass (Hamming windowed sinc), odd length.

    The transitions are those of MNE's defaults: min(max(f/4, 2), f) Hz below ``low`` and
    min(max(f/4, 2), rate/2 - f) Hz above ``high``; each edge has its own length, 3.3 / transition.
    """
    below = min(max(0.25 * low, 2.0), low)
    above = min(max(0.25 * high, 2.0), 0.5 * rate - high)
    lengths = [max(round(3.3 * rate / width) | 1, 3) for width in (below, above)]
    total = max(lengths)
    taps = np.zeros(total)
    edges = (low - below / 2, high + above / 2)
    for sign, edge, length in zip((-1.0, 1.0), edges, lengths, strict=True):
        n = np.arange(length) - length // 2
        sinc = np.sinc(2 * edge / rate * n) * np.hamming(length)
        pad = (total - length) // 2
        taps[pad : pad + length] += sign * sinc / sinc.sum()
    return taps


def filter_blocks(signal: Tensor, filters: Sequence[np.ndarray]) -> Tensor:
    """Zero-phase convolution of (channels, samples) with each filter: (channels, filters, samples).

    Overlap-save in blocks; the ends are mirrored through their end points, as MNE does.
    """
    channels, samples = signal.shape
    half = max(len(taps) for taps in filters) // 2
    span = 1 << max(12, math.ceil(math.log2(8 * half + 1)))
    fresh = span - 2 * half
    blocks = math.ceil(samples / fresh)
    padded = mirror(signal, half, blocks * fresh - samples + half)
    spectrum = torch.fft.rfft(padded.unfold(-1, span, fresh), n=span)
    out = torch.empty(channels, len(filters), samples, dtype=signal.dtype, device=signal.device)
    for index, taps in enumerate(filters):
        kernel = torch.zeros(span, dtype=torch.float64)
        centre = len(taps) // 2
        kernel[: len(taps)] = torch.from_numpy(taps)
        response = torch.fft.rfft(kernel.roll(-centre)).real.to(signal)
        block = torch.fft.irfft(spectrum * response, n=span)[..., half : half + fresh]
        out[:, index] = block.flatten(1)[:, :samples]
    return out


def mirror(signal: Tensor, before: int, after: int) -> Tensor:
    """Extend both ends by reflection through the end point; zeros beyond one mirrored length."""
    samples = signal.shape[-1]
    left = min(before, samples - 1)
    right = min(after, samples - 1)
    head = 2 * signal[..., :1] - signal[..., 1 : left + 1].flip(-1)
    tail = 2 * signal[..., -1:] - signal[..., samples - 1 - right : samples - 1].flip(-1)
    whole = torch.cat([head, signal, tail], dim=-1)
    return torch.nn.functional.pad(whole, (before - left, after - right))


def window_variance(signal: Tensor, starts: Tensor, length: int) -> Tensor:
    """Population variance of (..., samples) in each window: (..., windows).

    Sums are formed once for each stretch that windows share, and then over stretches.
    """
    stretch = math.gcd(length, *(int(start) for start in starts[: 2 * length]))
    if (starts % stretch).any():
        stretch = 1
    count = signal.shape[-1] // stretch
    blocks = signal[..., : count * stretch].unflatten(-1, (count, stretch))
    first, last = starts // stretch, (starts + length) // stretch
    sums, squares = blocks.sum(-1).double(), blocks.square().sum(-1).double()
    mean, power = (
        (running[..., last] - running[..., first]) / length
        for running in (
            torch.nn.functional.pad(part.cumsum(-1), (1, 0)) for part in (sums, squares)
        )
    )
    return (power - mean.square()).clamp_min(0.0)


def window_filtered_variance(
    signal: Tensor, rate: float, recipe: FeatureRecipe, starts: Tensor, length: int
) -> Tensor:
    """Variance of each window filtered on its own from rest: (channels, bands, windows).

    Filtering and variance are one quadratic form x' G x of a window. G has low rank, because a band
    holds few independent numbers in a short window, so that x' G x = |U' x|² costs little.
    """
    from scipy.signal import butter, lfilter

    impulse = np.zeros(length)
    impulse[0] = 1.0
    forms, widths = [], []
    for band in recipe.de_bands:
        response = lfilter(*butter(5, (band.low, band.high), "bandpass", fs=rate), impulse)
        apply = np.tril(response[np.abs(np.subtract.outer(range(length), range(length)))])
        centred = apply - apply.mean(axis=0, keepdims=True)
        values, vectors = np.linalg.eigh(centred.T @ centred / length)
        kept = values > 1e-9 * values[-1]
        forms.append(vectors[:, kept] * np.sqrt(values[kept]))
        widths.append(int(kept.sum()))
    basis = torch.from_numpy(np.concatenate(forms, axis=1)).to(signal.device, torch.float32)
    out = torch.empty(len(signal), len(widths), len(starts), device=signal.device)
    for row, channel in enumerate(signal.float()):
        windows = windows_of(channel, starts, length)
        for begin in range(0, len(starts), 4096):
            part = (windows[begin : begin + 4096] @ basis).split(widths, dim=1)
            for index, projected in enumerate(part):
                power = projected.square().sum(-1)
                out[row, index, begin : begin + 4096] = power
    return out


# --- power spectral density -----------------------------------------------------------------


def power_spectral_density(signal: Tensor, rate: float, recipe: FeatureRecipe) -> Tensor:
    """PSD of every window in dB re 1 µV²/Hz: (channels, bands, steps)."""
    segment = round(rate)
    starts = window_starts(signal.shape[-1], rate, recipe)
    inside = welch_segments(round(recipe.window * rate), segment)
    every = torch.unique(starts[:, None] + inside[None, :])
    place = torch.searchsorted(every, starts[:, None] + inside[None, :])
    bins = [bins_of(band, rate, segment) for band in recipe.psd_bands]
    first, stop = min(int(b[0]) for b in bins), max(int(b[-1]) for b in bins) + 1
    average = torch.zeros(stop - first, len(bins), device=signal.device)
    for column, inside_band in enumerate(bins):
        average[inside_band - first, column] = 1 / len(inside_band)
    parts = []
    for part in signal.split(8):
        power = segment_power(part.float(), every, segment, rate, recipe.taper, first, stop)
        window = torch.zeros(())
        for column in place.T:  # one segment at a time: together they are the largest array here
            window = window + rows_of(power, column)
        decibel = window.div_(len(place.T)).clamp_min_(SILENCE).log10_().mul_(10)
        parts.append((decibel @ average).transpose(1, 2))
    return torch.cat(parts)


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """``values[:, index]``; a view where the index is evenly spaced."""
    if len(index) > 1:
        hop = int(index[1] - index[0])
        if hop > 0 and bool((index.diff() == hop).all()):
            return values[:, int(index[0]) : int(index[-1]) + 1 : hop]
    return values[:, index]


def windows_of(channel: Tensor, starts: Tensor, length: int) -> Tensor:
    """(starts, length) stretches of one channel; a view where the starts are evenly spaced."""
    if len(starts) > 1:
        hop = int(starts[1] - starts[0])
        if int(starts[-1] - starts[0]) == hop * (len(starts) - 1) and (starts.diff() == hop).all():
            return channel[int(starts[0]) :].unfold(-1, length, hop)[: len(starts)]
    return channel.unfold(-1, length, 1)[starts]


def welch_segments(length: int, segment: int) -> Tensor:
    """Offsets of Welch's half-overlapping segments inside one window."""
    hop = segment - segment // 2
    return torch.arange(0, length - segment + 1, hop)


def bins_of(band: Band, rate: float, segment: int) -> Tensor:
    """Indices of the Welch bins inside a band, both edges included."""
    frequencies = torch.arange(segment // 2 + 1, dtype=torch.float64) * rate / segment
    return torch.nonzero((frequencies >= band.low - 1e-6) & (frequencies <= band.high + 1e-6))[:, 0]


def segment_power(
    signal: Tensor, starts: Tensor, segment: int, rate: float, shape: str, first: int, stop: int
) -> Tensor:
    """One-sided density of tapered segments in µV²/Hz: (channels, segments, bins first ... stop).

    Removing the mean, the taper and the Fourier transform are one matrix, and few bins are needed:
    one product does all three.
    """
    make = torch.hann_window if shape == "hann" else torch.hamming_window
    taper = make(segment, periodic=True, dtype=torch.float64)
    turns = torch.outer(torch.arange(segment), torch.arange(first, stop)).double() / segment
    wave = torch.cat([(2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()], dim=1)
    basis = taper[:, None] * wave
    basis = (basis - basis.mean(0)) / math.sqrt(rate * float(taper.square().sum()))
    basis = basis.to(signal)
    last = segment // 2 + (segment % 2)  # the Nyquist bin of an even segment is not doubled
    numbers = torch.arange(first, stop)
    basis *= torch.where((numbers > 0) & (numbers < last), math.sqrt(2), 1.0).repeat(2).to(signal)
    bins = stop - first
    power = torch.empty(len(signal), len(starts), bins, dtype=signal.dtype, device=signal.device)
    for row, channel in enumerate(signal):
        parts = (windows_of(channel, starts, segment) @ basis).square_()
        torch.add(parts[:, :bins], parts[:, bins:], out=power[row])
    return power

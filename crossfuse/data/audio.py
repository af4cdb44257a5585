"""Sounds that people upload, and log-mel spectrograms.

A spectrogram here is (64 bands, 64 frames): two seconds at 16 kHz, a Hann window of 1,024 samples
every 500, 64 triangular mel bands from 60 Hz to 8 kHz (O'Shaughnessy's mel scale,
2595 log10(1 + f / 700)), in decibels below the loudest cell, -80 dB to 0 mapped to -1 ... 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

RATE = 16_000  # Hz
SECONDS = 2.0
WINDOW, HOP, BANDS, FRAMES = 1024, 500, 64, 64
LOWEST, HIGHEST = 60.0, 8000.0  # Hz
FLOOR = -80.0  # dB
MAX_FILE_BYTES = 200_000_000
SHORTEST = 0.05  # seconds


@dataclass(frozen=True)
class Sound:
    """``samples``: (n,) float32 at 16 kHz, one channel, -1 ... 1; ``notes``: what was changed."""

    samples: np.ndarray
    notes: tuple[str, ...] = ()


def read_sound(source: bytes | BinaryIO, start: float = 0.0) -> Sound:
    """Read WAV, FLAC or OGG: at most two seconds from ``start``, whatever the file's length.

    Raises:
        CrossfuseError: not a sound file, too short, silent, or ``start`` beyond its end.
    """
    import soundfile

    data = source if isinstance(source, bytes) else source.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CrossfuseError(
            "The file is larger than {limit} MB.", limit=MAX_FILE_BYTES // 1_000_000
        )
    notes = []
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, length = file.samplerate, len(file) / file.samplerate
            if not 0 <= start < max(length, 1e-9):
                raise CrossfuseError(
                    "The sound lasts {length:.2f} s; it cannot be read from {start:g} s on.",
                    length=length,
                    start=start,
                )
            file.seek(int(start * rate))
            samples = file.read(int(SECONDS * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        if isinstance(error, CrossfuseError):
            raise
        raise CrossfuseError(
            "The file is not a sound that can be read ({error}); use WAV, FLAC or OGG.", error=error
        ) from error
    if not np.isfinite(samples).all():
        raise CrossfuseError("The sound contains NaN or infinite samples; save it again.")
    if len(samples) < SHORTEST * rate:
        raise CrossfuseError(
            "The sound lasts {seconds:.3f} s; at least {shortest:g} s are needed.",
            seconds=len(samples) / rate,
            shortest=SHORTEST,
        )
    if length > SECONDS:
        notes.append(
            Notice(
                "Of {length:.1f} s, the two from {start:g} s on are used.",
                length=length,
                start=start,
            )
        )
    elif length < SECONDS:
        notes.append(
            Notice(
                "The sound lasts {length:.2f} s; silence was added up to two seconds.",
                length=length,
            )
        )
    if samples.shape[1] > 1:
        notes.append(
            Notice("{channels} channels were averaged into one.", channels=samples.shape[1])
        )
    mono = samples.mean(axis=1)
    if float(np.abs(mono).max()) < 1e-4:
        raise CrossfuseError("The sound is silent (below -80 dB of full scale); choose another.")
    clipped = float((np.abs(mono) >= 0.999).mean())
    if clipped > 0.001:
        notes.append(
            Notice(
                "{clipped:.1f} % of the samples are clipped; harmonics are added.",
                clipped=100 * clipped,
            )
        )
    return Sound(_resampled(mono, rate), tuple(notes))


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """(n,) at 16 kHz -> (64, 64) float32 in -1 ... 1; row 0 is the highest band."""
    needed = HOP * (FRAMES - 1) + WINDOW
    padded = np.zeros(needed, dtype=np.float64)
    padded[: min(len(samples), needed)] = samples[:needed]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    mel = power @ _mel_filters().T
    level = 10 * np.log10(np.maximum(mel, 1e-12))
    level = np.maximum(level - level.max(), FLOOR)
    return np.ascontiguousarray((1 - 2 * level.T / FLOOR)[::-1], dtype=np.float32)


def band_edges() -> np.ndarray:
    """(64, 2): lowest and highest frequency of each row of a spectrogram, in Hz."""
    edges = _mel_points()
    return np.stack([edges[:-2], edges[2:]], axis=1)[::-1]


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return samples.astype(np.float32)
    from math import gcd

    from scipy.signal import resample_poly

    factor = gcd(rate, RATE)
    return resample_poly(samples, RATE // factor, rate // factor).astype(np.float32)


def _mel_points() -> np.ndarray:
    """The 66 corner frequencies of the triangles, in Hz."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    return np.asarray(700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1))


def _mel_filters() -> np.ndarray:
    """(64, 513) triangles over the bins of the spectrum, each with a peak of one."""
    corners = _mel_points()
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rising = (bins[None] - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins[None]) / (corners[2:] - corners[1:-1])[:, None]
    filters = np.clip(np.minimum(rising, falling), 0, None)
    # The lowest triangles are narrower than a bin: give them the bin nearest to their peak.
    empty = np.flatnonzero(filters.sum(1) == 0)
    filters[empty, np.abs(bins[None] - corners[1:-1][empty, None]).argmin(1)] = 1.0
    return filters

"""Sounds made by rule: what a small model can learn to name without a recording of anyone.

Every sound lasts two seconds at 16 kHz. Pitch, timbre (overtones), place, length, loudness and
background noise are drawn anew from the generator that is given.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossfuse.data.audio import RATE, SECONDS
from crossfuse.errors import CrossfuseError

SOUNDS = (
    "tone",
    "rising chirp",
    "falling chirp",
    "warble",
    "siren",
    "chord",
    "noise burst",
    "clicks",
)
# Sounds of none of these kinds: some to learn doubt from, others to measure it on.
DOUBT = ("background", "tremolo", "rising noise")
UNSEEN = ("dip", "falling noise", "speeding clicks")
TIME = np.arange(int(RATE * SECONDS)) / RATE

Generator = np.random.Generator


def make_sound(kind: str, generator: Generator) -> np.ndarray:
    """(32000,) float32 in -1 ... 1: two seconds of one of the kinds above.

    Raises:
        CrossfuseError: an unknown kind.
    """
    if kind not in _MAKERS:
        raise CrossfuseError(
            "There is no sound {kind!r}; there are {sounds}.", kind=kind, sounds=", ".join(SOUNDS)
        )
    start = generator.uniform(0.0, 0.7)
    length = generator.uniform(0.6, SECONDS - start)
    share = np.clip((TIME - start) / length, 0, 1)
    signal = _MAKERS[kind](share, generator)
    signal = signal / max(float(np.abs(signal).max()), 1e-9)
    fade = np.clip(np.minimum(TIME - start, start + length - TIME) / 0.025, 0, 1)
    background = _noise(generator) * 10 ** generator.uniform(-3.5, -1.5)
    samples = signal * fade * generator.uniform(0.2, 0.9) + background
    return (samples / max(1.0, float(np.abs(samples).max()))).astype(np.float32)


def _voice(pitch: np.ndarray, generator: Generator) -> np.ndarray:
    """A pitch (Hz at every sample) with overtones that fade at a random rate."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE + generator.uniform(0, 2 * np.pi)
    fading = generator.uniform(0.0, 0.5)
    return np.asarray(sum(fading ** (n - 1) * np.sin(n * phase) for n in range(1, 5)))


def _pitch(generator: Generator, low: float = 180.0, high: float = 1600.0) -> float:
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))


def _steady(share: np.ndarray, generator: Generator) -> np.ndarray:
    return _voice(np.full_like(share, _pitch(generator)), generator)


def _glide(up: bool) -> Callable[[np.ndarray, Generator], np.ndarray]:
    def make(share: np.ndarray, generator: Generator) -> np.ndarray:
        low, ratio = _pitch(generator), generator.uniform(1.7, 4.0)
        return _voice(low * ratio ** (share if up else 1 - share), generator)

    return make


def _dip(share: np.ndarray, generator: Generator) -> np.ndarray:
    low, ratio = _pitch(generator), generator.uniform(1.8, 4.0)
    return _voice(low * ratio ** np.abs(2 * share - 1), generator)


def _warble(share: np.ndarray, generator: Generator) -> np.ndarray:
    swing = generator.uniform(0.08, 0.25) * np.sin(2 * np.pi * generator.uniform(3, 9) * TIME)
    return _voice(_pitch(generator) * (1 + swing), generator)


def _siren(share: np.ndarray, generator: Generator) -> np.ndarray:
    high = np.sin(2 * np.pi * generator.uniform(1.2, 3.0) * TIME + generator.uniform(0, 6)) > 0
    return _voice(_pitch(generator) * np.where(high, generator.uniform(1.3, 2.0), 1.0), generator)


def _chord(share: np.ndarray, generator: Generator) -> np.ndarray:
    root = _pitch(generator, 180, 900)
    third, fifth = generator.choice([6 / 5, 5 / 4]), 3 / 2
    return np.asarray(
        sum(_voice(np.full_like(share, root * ratio), generator) for ratio in (1, third, fifth))
    )


def _tremolo(share: np.ndarray, generator: Generator) -> np.ndarray:
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(4, 12) * TIME)
    return _steady(share, generator) * beat


def _noise(generator: Generator) -> np.ndarray:
    """Noise whose power falls with frequency at a random rate: white to pink."""
    spectrum = np.fft.rfft(generator.standard_normal(len(TIME)))
    spectrum *= np.arange(1, len(spectrum) + 1) ** -generator.uniform(0.0, 0.5)
    noise = np.fft.irfft(spectrum, len(TIME))
    return np.asarray(noise / noise.std())


def _burst(share: np.ndarray, generator: Generator) -> np.ndarray:
    return _noise(generator)


def _moving_noise(up: bool) -> Callable[[np.ndarray, Generator], np.ndarray]:
    """Noise around a gliding pitch: two octaves up or down."""

    def make(share: np.ndarray, generator: Generator) -> np.ndarray:
        pitch = _pitch(generator, 300, 1200) * 4 ** (share if up else 1 - share)
        slow = np.convolve(generator.standard_normal(len(TIME)), np.hanning(200), mode="same")
        return slow * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)

    return make


def _clicks(share: np.ndarray, generator: Generator) -> np.ndarray:
    return _clicks_at(np.arange(0, SECONDS, 1 / generator.uniform(4, 25)), generator)


def _speeding_clicks(share: np.ndarray, generator: Generator) -> np.ndarray:
    gaps = generator.uniform(0.2, 0.4) * generator.uniform(0.75, 0.88) ** np.arange(40)
    return _clicks_at(np.cumsum(np.maximum(gaps, 0.01)), generator)


def _clicks_at(moments: np.ndarray, generator: Generator) -> np.ndarray:
    signal = np.zeros(len(TIME))
    signal[(moments[moments < SECONDS] * RATE).astype(int)] = 1.0
    decay = np.exp(-np.arange(400) / generator.uniform(4, 60))
    ring = np.cos(2 * np.pi * generator.uniform(0, 3000) * np.arange(400) / RATE)
    return np.convolve(signal, decay * ring)[: len(TIME)]


def _nothing(share: np.ndarray, generator: Generator) -> np.ndarray:
    return np.zeros(len(TIME))


_MAKERS: dict[str, Callable[[np.ndarray, Generator], np.ndarray]] = {
    "tone": _steady,
    "rising chirp": _glide(True),
    "falling chirp": _glide(False),
    "warble": _warble,
    "siren": _siren,
    "chord": _chord,
    "noise burst": _burst,
    "clicks": _clicks,
    "background": _nothing,
    "tremolo": _tremolo,
    "rising noise": _moving_noise(True),
    "dip": _dip,
    "falling noise": _moving_noise(False),
    "speeding clicks": _speeding_clicks,
}

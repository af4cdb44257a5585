"""Sounds: readers, bounds, spectrograms, made-up sounds."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from crossfuse.data.audio import (
    BANDS,
    FRAMES,
    RATE,
    band_edges,
    read_sound,
    spectrogram,
)  # fmt: skip
from crossfuse.data.made_sounds import DOUBT, SOUNDS, UNSEEN, make_sound
from crossfuse.errors import CrossfuseError


def wav(samples: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def tone(seconds: float, rate: int = RATE, pitch: float = 1000.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_tone_is_brightest_in_its_own_band(kind: str, rate: int) -> None:
    sound = read_sound(wav(tone(2.0, rate), rate, kind))
    assert abs(len(sound.samples) - 2 * RATE) <= 2
    picture = spectrogram(sound.samples)
    assert picture.shape == (BANDS, FRAMES)
    assert picture.min() >= -1
    assert picture.max() == pytest.approx(1)
    low, high = band_edges()[int(picture[:, 20].argmax())]
    assert low <= 1000 <= high


def test_a_short_sound_is_lengthened_and_a_long_one_cut_with_a_note() -> None:
    assert "silence was added" in read_sound(wav(tone(0.1))).notes[0]
    long = read_sound(wav(np.tile(tone(1.0, 8000), 600), 8000), start=30.0)
    assert len(long.samples) == 2 * RATE
    assert "600.0 s" in long.notes[0]


def test_of_an_hour_two_seconds_are_read_from_where_it_is_asked() -> None:
    hour = np.zeros(3600 * 8000, dtype=np.int16)
    hour[3599 * 8000 :] = (20_000 * tone(1.0, 8000)).astype(np.int16)
    data = wav(hour, 8000)
    sound = read_sound(data, start=3598.5)
    assert len(sound.samples) == int(1.5 * RATE)
    assert "3600.0 s" in sound.notes[0]
    with pytest.raises(CrossfuseError, match="silent"):
        read_sound(data)


def test_clipping_and_channels_are_told() -> None:
    loud = np.clip(4 * tone(2.0), -1, 1)
    notes = read_sound(wav(np.stack([loud, loud], axis=1))).notes
    assert any("clipped" in note for note in notes)
    assert any("2 channels" in note for note in notes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a sound"),
        (b"RIFF nothing here", "not a sound"),
        (wav(np.zeros(RATE)), "silent"),
        (wav(tone(0.01)), "at least 0.05 s"),
    ],
)
def test_bad_sounds_are_refused_with_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(CrossfuseError, match=words):
        read_sound(data)


def test_a_start_beyond_the_end_is_refused() -> None:
    with pytest.raises(CrossfuseError, match="cannot be read from 9 s"):
        read_sound(wav(tone(1.0)), start=9.0)


def test_made_sounds_repeat_with_their_seed_and_differ_by_kind() -> None:
    for kind in (*SOUNDS, *DOUBT, *UNSEEN):
        first, second = (make_sound(kind, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.abs(first).max() <= 1
    rising = spectrogram(make_sound("rising chirp", np.random.default_rng(1)))
    peaks = rising.argmax(0)[rising.max(0) > 0.6]
    assert peaks[-1] < peaks[0] - 5  # upwards: towards row 0
    with pytest.raises(CrossfuseError, match="no sound 'bang'"):
        make_sound("bang", np.random.default_rng(0))

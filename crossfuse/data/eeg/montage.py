"""Channel names and places: the 10-20 and 10-10 systems, and everything files call them.

Positions are those of MNE's 10-05 montage on the Colin 27 head, in metres (x right, y front,
z up).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
TEN_TWENTY = (
    *("Fp1", "Fp2", "F3", "F4", "F7", "F8", "T7", "T8", "C3", "C4"),
    *("P7", "P8", "P3", "P4", "O1", "O2", "Fz", "Cz", "Pz"),
)
MASTOIDS = ("A1", "A2", "M1", "M2", "TP9", "TP10")
PREFIX = re.compile(r"^(?:EEG|POL|CHAN|CH|BRAIN)[\s_:.-]+", re.IGNORECASE)
SUFFIX = re.compile(
    r"[\s_:.-]*(?:REF|LE|AVG?|AVE|AR|CAR|A1A2|M1M2|A1|A2|M1|M2|LINKED|CZ|0|1)$", re.IGNORECASE
)
KIND_WORDS = (
    ("ecg", re.compile(r"ECG|EKG", re.IGNORECASE)),
    ("eog", re.compile(r"EOG|VEO|HEO|\bLOC\b|\bROC\b", re.IGNORECASE)),
    ("emg", re.compile(r"EMG", re.IGNORECASE)),
    (
        "misc",
        re.compile(
            r"STATUS|TRIG|MARKER|EVENT|STIM|GSR|RESP|PLET|TEMP|PULSE|ANNOT|COUNTER|GYRO|SPO2"
            r"|PHOTIC|STI|BATTERY|TIME",
            re.IGNORECASE,
        ),
    ),
)


@dataclass(frozen=True)
class Match:
    """``standard``: the 10-05 name for each channel, or None; ``why``: the reason where None."""

    standard: tuple[str | None, ...]
    kinds: tuple[str, ...]
    why: tuple[str, ...]


@lru_cache(maxsize=1)
def standard_positions() -> dict[str, tuple[float, float, float]]:
    """Name -> metres for the 10-05 positions."""
    import mne

    names = mne.channels.get_builtin_montages()
    name = next(n for n in ("colin27_1005", "standard_1005") if n in names)
    places = mne.channels.make_standard_montage(name).get_positions()["ch_pos"]
    return {name: (float(x), float(y), float(z)) for name, (x, y, z) in places.items()}


@lru_cache(maxsize=1)
def _by_key() -> dict[str, str]:
    names = {name.upper(): name for name in standard_positions() if name not in OLD_NAMES}
    return names | OLD_NAMES


def standard_name(name: str) -> str | None:
    """The 10-05 name behind what a file calls a channel ("EEG T3-REF" -> "T7"), or None."""
    known = _by_key()
    text = PREFIX.sub("", name.strip()).strip().strip(".").strip()
    for candidate in (text, SUFFIX.sub("", text), text.split("-")[0], text.replace(" ", "")):
        key = candidate.strip(" ._-").upper()
        if key in known:
            return known[key]
    return None


def kind_of(name: str) -> str | None:
    """ "ecg", "eog", "emg" or "misc" when the name says so, else None."""
    for kind, pattern in KIND_WORDS:
        if pattern.search(name):
            return kind
    return None


def match(names: Sequence[str], kinds: Sequence[str] | None = None) -> Match:
    """Match channel names to the 10-05 system; a name that comes twice keeps its first channel.

    Differences of two scalp channels (bipolar, "F3-C3") are not matched.
    """
    standard: list[str | None] = []
    why: list[str] = []
    out_kinds: list[str] = []
    seen: set[str] = set()
    for index, name in enumerate(names):
        kind = kind_of(name) or (kinds[index] if kinds else "eeg")
        parts = [standard_name(part) for part in PREFIX.sub("", name).split("-")]
        bipolar = len(parts) > 1 and all(p is not None for p in parts)
        found = standard_name(name)
        reason = ""
        if bipolar and (parts[1] not in MASTOIDS or parts[0] in MASTOIDS):
            found, reason = None, "the difference of two electrodes, not one"
            kind = "ref" if all(p in MASTOIDS for p in parts) else kind
        elif kind != "eeg":
            found, reason = None, f"{kind.upper()}, not EEG"
        elif found is None:
            reason = "not a 10-20, 10-10 or 10-05 name"
        elif found in seen:
            found, reason = None, f"a second channel at {found}"
        elif found in MASTOIDS:
            kind = "ref"
        if found:
            seen.add(found)
        standard.append(found)
        why.append(reason)
        out_kinds.append(kind)
    return Match(tuple(standard), tuple(out_kinds), tuple(why))


def positions(names: Sequence[str]) -> np.ndarray:
    """(channels, 3) metres; rows of NaN where the name is not a standard one."""
    places = standard_positions()
    missing = (np.nan,) * 3
    return np.array([places.get(name, missing) for name in names], dtype=np.float32)

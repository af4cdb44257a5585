"""EEGMAT: EEG during mental arithmetic (Zyma et al. 2019; PhysioNet, ODC-By 1.0).

Two files a person: rest, then serial subtraction. ``SNN_rest.edf`` / ``SNN_task.edf``, or the
source's own ``SubjectNN_1.edf`` / ``SubjectNN_2.edf``. Labels: 0 rest, 1 mental arithmetic. Rest
always comes first, in a file of its own: what tells the files apart need not be arithmetic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from crossfuse.data.eeg import cleaning, montage
from crossfuse.data.eeg.formats import read_recording
from crossfuse.data.eeg.recording import Recording
from crossfuse.errors import CrossfuseError

RATE = 128.0
CLASSES = ("rest", "mental arithmetic")
NAMES = re.compile(r"^(?:S(\d+)_(rest|task)|Subject(\d+)_([12]))\.edf$", re.IGNORECASE)


@dataclass(frozen=True)
class Person:
    """One person's two recordings: nineteen channels in 10-20 order, 128 Hz, µV."""

    name: str
    rest: Recording
    task: Recording


def find(folder: Path) -> dict[str, dict[str, Path]]:
    """Person -> {"rest": file, "task": file} for everyone who has both.

    Raises:
        CrossfuseError: no such folder, or nobody with both files.
    """
    if not folder.is_dir():
        raise CrossfuseError(
            "there is no folder {folder}; give the folder of the EEGMAT files", folder=folder
        )
    people: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        found = NAMES.match(path.name)
        if found:
            number = int(found.group(1) or found.group(3))
            kind = (found.group(2) or ("rest", "task")[int(found.group(4)) - 1]).lower()
            people.setdefault(f"S{number:02d}", {})[kind] = path
    people = {name: files for name, files in people.items() if len(files) == 2}
    if not people:
        raise CrossfuseError(
            "{folder} holds no pair SNN_rest.edf and SNN_task.edf (or SubjectNN_1.edf and "
            "SubjectNN_2.edf); give the folder of the EEGMAT files",
            folder=folder,
        )
    return dict(sorted(people.items()))


def load(folder: Path) -> list[Person]:
    """Everyone in a folder."""
    return [
        Person(name, _read(files["rest"]), _read(files["task"]))
        for name, files in find(folder).items()
    ]


def _read(path: Path) -> Recording:
    recording = read_recording({path.name: path.read_bytes()})
    missing = [name for name in montage.TEN_TWENTY if name not in recording.names]
    if missing:
        raise CrossfuseError(
            "{name} lacks the channels {missing}", name=path.name, missing=", ".join(missing)
        )
    return cleaning.resample(recording.pick(montage.TEN_TWENTY), RATE)

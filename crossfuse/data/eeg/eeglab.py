"""EEGLAB .set files (MATLAB 5 to 7) with their samples inside or in a .fdt beside them.

The struct is read with SciPy's loader, which builds arrays only, and the .fdt is found by base
name among the uploaded files: the path that a .set stores is never opened.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from crossfuse.data.eeg.recording import UNITS, Annotation, Recording, check_size
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

MAX_UNPACKED = 4 << 30


def load_matlab(data: bytes) -> dict[str, Any]:
    """The variables of a MATLAB 5-7 file; sizes are bounded before anything is unpacked.

    Raises:
        CrossfuseError: damaged, or far larger unpacked than a recording is.
    """
    from scipy.io import loadmat

    _bound_unpacked(data)
    try:
        found: dict[str, Any] = loadmat(
            io.BytesIO(data), squeeze_me=True, struct_as_record=False, chars_as_strings=True
        )
    # SciPy's parser raises many types on damaged files, down to IndexError and zlib.error.
    except Exception as error:
        raise CrossfuseError(
            "the MATLAB file is damaged ({error}); copy or save it again", error=str(error)[:120]
        ) from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _bound_unpacked(data: bytes) -> None:
    """Sum what the compressed elements unpack to, in pieces, without keeping any of it."""
    place, total = 128, 0
    order = ">" if data[126:128] == b"MI" else "<"
    while place + 8 <= len(data):
        kind, size = struct.unpack(f"{order}II", data[place : place + 8])
        if kind == 15:  # miCOMPRESSED
            machine = zlib.decompressobj()
            pending = data[place + 8 : place + 8 + size]
            try:
                while pending and total <= MAX_UNPACKED:
                    total += len(machine.decompress(pending, 1 << 22))
                    pending = machine.unconsumed_tail
            except zlib.error as error:
                raise CrossfuseError(
                    "the MATLAB file is damaged ({error}); copy or save it again", error=error
                ) from error
        if total > MAX_UNPACKED:
            raise CrossfuseError("the MATLAB file unpacks to more than 4 GiB; save a shorter part")
        place += 8 + size


def read_set(
    document: dict[str, Any], companion: Callable[[str], bytes | None], unit: str | None
) -> Recording:
    """A recording from the variables of a .set; ``companion(name)`` gives the .fdt or None."""
    eeg = document.get("EEG")

    def field(name: str) -> Any:
        return getattr(eeg, name, None) if eeg is not None else document.get(name)

    try:
        rate, channels = float(field("srate")), int(field("nbchan"))
        points, trials = int(field("pnts")), int(field("trials") or 1)
    except (TypeError, ValueError) as error:
        raise CrossfuseError(
            "the MATLAB file is neither an EEGLAB set (no srate, nbchan, pnts) nor a DEAP file "
            "(no data and labels); save it from EEGLAB, or export EDF"
        ) from error
    if trials < 1 or points < 1 or channels < 1:
        raise CrossfuseError(
            "the EEGLAB set declares {channels} channels, {points} points and {trials} "
            "trials; save it again",
            channels=channels,
            points=points,
            trials=trials,
        )
    samples = points * trials
    check_size(channels, samples, rate, Notice("the EEGLAB set"))
    data = field("data")
    if isinstance(data, str):
        raw = companion(data)
        if raw is None:
            name = data.replace("\\", "/").rsplit("/", 1)[-1]
            raise CrossfuseError(
                "the .set keeps its samples in {name!r}; upload the .fdt beside it", name=name
            )
        if len(raw) < 4 * channels * samples:
            raise CrossfuseError(
                "the .fdt holds {raw} bytes, {declared} are declared ({channels} channels x "
                "{samples} samples); copy it again",
                raw=len(raw),
                declared=4 * channels * samples,
                channels=channels,
                samples=samples,
            )
        flat = np.frombuffer(raw, "<f4", count=channels * samples)
        signal = np.ascontiguousarray(flat.reshape(samples, channels).T)
    else:
        array = np.asarray(data)
        if array.dtype.kind not in "fiu" or array.size != channels * samples:
            raise CrossfuseError(
                "the samples in the .set ({dtype}, {size} values) are not the declared "
                "{channels} channels x {samples}; save it again",
                dtype=array.dtype,
                size=array.size,
                channels=channels,
                samples=samples,
            )
        # Epochs are the last axis in MATLAB: join them one after the other.
        signal = array.reshape(channels, points, trials, order="F")
        signal = np.ascontiguousarray(
            signal.transpose(0, 2, 1).reshape(channels, samples), dtype=np.float32
        )
    notes = []
    if trials > 1:
        notes.append(
            Notice(
                "{trials} epochs of {points:g} s are joined one after the other.",
                trials=trials,
                points=points / rate,
            )
        )
    names, places = _channels(field("chanlocs"), channels)
    scale = 1.0 if unit is None else UNITS[unit]
    if scale != 1.0:
        signal = signal * np.float32(scale)
    return Recording(
        signal.astype(np.float32, copy=True),
        rate,
        names,
        ("eeg",) * channels,
        _events(field("event"), rate, samples),
        positions=places,
        format="EEGLAB",
        notes=tuple(notes),
    )


def _each(value: Any) -> list[Any]:
    return [] if value is None else list(np.atleast_1d(np.asarray(value, dtype=object)).ravel())


def _channels(chanlocs: Any, count: int) -> tuple[tuple[str, ...], np.ndarray | None]:
    places = _each(chanlocs)
    if len(places) != count:
        return tuple(f"channel {i + 1}" for i in range(count)), None
    names = tuple(str(getattr(p, "labels", f"channel {i + 1}")) for i, p in enumerate(places))
    return names, None  # names give the place; EEGLAB's own head frame is another one


def _events(events: Any, rate: float, samples: int) -> tuple[Annotation, ...]:
    out = []
    for event in _each(events):
        try:
            latency = float(event.latency)
            length = getattr(event, "duration", 0)
            duration = float(length) if np.size(length) == 1 else 0.0
        except (AttributeError, TypeError, ValueError):
            continue  # an event without a latency has no place on the time axis
        if 0 <= latency - 1 < samples and np.isfinite(duration):
            text = str(getattr(event, "type", "event"))
            out.append(Annotation((latency - 1) / rate, max(duration, 0.0) / rate, text))
    return tuple(out)

"""Readers of EEG files, from bytes to a :class:`Recording`.

The kind of a file is told by its first bytes, never by its name. Files that name other files
(BrainVision headers, EEGLAB .set) get those only from what was uploaded beside them, matched by
base name; no name from a file or an archive is ever used as a path. MNE reads from a private
temporary folder with names of our own, 60 s at a time, so that no more than the float32 result
and one such piece are in memory.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfuse.data.eeg import deap, edf, montage, tables
from crossfuse.data.eeg.recording import UNITS, Annotation, Recording, check_size, mend
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

if TYPE_CHECKING:
    from mne.io import BaseRaw

Files = Mapping[str, bytes]
MAX_BYTES = 2 << 30
MAX_MEMBERS = 64
MAX_RATIO = 200  # unpacked : packed; EEG packs to a half, not to a two-hundredth
PIECE_SECONDS = 60
READABLE = Notice(
    "EDF, BDF, GDF, FIF, EEGLAB .set (with .fdt), BrainVision (.vhdr, .eeg and .vmrk), CSV/TSV, "
    "NPZ, DEAP .dat or .mat, or a zip of these"
)


def read_recording(
    files: Files,
    *,
    rate: float | None = None,
    unit: str | None = None,
    trial: int = 0,
) -> Recording:
    """Read what was uploaded: ``files`` maps names to bytes (one file and its companions).

    ``rate`` in Hz is needed where a file cannot say it (CSV without a time column); ``unit``
    overrides the file's ("V", "mV", "µV"). ``trial`` chooses one of DEAP's trials.

    Raises:
        CrossfuseError: what is wrong with the file, where, and what would work.
    """
    files = {_base_name(name): data for name, data in files.items()}
    if not files or not any(files.values()):
        raise CrossfuseError("the file is empty; upload {readable}", readable=READABLE)
    if sum(map(len, files.values())) > MAX_BYTES:
        raise CrossfuseError(
            "more than {limit} GiB were uploaded; cut the recording", limit=MAX_BYTES >> 30
        )
    if unit is not None and unit not in UNITS:
        raise CrossfuseError(
            "the unit {unit!r} is not known; use one of {units}", unit=unit, units=", ".join(UNITS)
        )
    files = _unpack(files)
    kinds = {name: kind_of_file(data) for name, data in files.items()}
    leaders = [name for name, kind in kinds.items() if kind not in ("companion", "markers")]
    if not leaders:
        raise CrossfuseError(_lonely(files))
    texts = [name for name in leaders if kinds[name] == "text"]
    if len(leaders) > 1 and len(texts) < len(leaders):  # notes beside a recording are let be
        leaders = [name for name in leaders if kinds[name] != "text"]
    if len(leaders) > 1:
        raise CrossfuseError(
            "{count} recordings were given ({names}); give one, with its companion files",
            count=len(leaders),
            names=", ".join(map(repr, leaders[:4])),
        )
    leader = leaders[0]
    kind = kinds[leader]
    if kind == "text":
        recording = tables.read_text(files[leader], rate=rate, unit=unit)
    elif kind == "npz":
        recording = tables.read_npz(files[leader], rate=rate, unit=unit)
    elif kind == "pickle":
        recording = deap.read_dat(files[leader], trial=trial)
    elif kind == "matlab":
        recording = _read_matlab(leader, files, unit, trial)
    else:
        recording = _READERS[kind](leader, files, unit)
    return mend(_named(recording))


def kind_of_file(data: bytes) -> str:
    """What the first bytes say: a reader's name, "companion" for raw samples, or "text"."""
    head = bytes(data[:512])
    if head[:8] == b"0       ":
        return "edf"
    if head[:8] == b"\xffBIOSEMI":
        return "bdf"
    if head[:4] == b"GDF ":
        return "gdf"
    if head[:16] == b"\x00\x00\x00\x64\x00\x00\x00\x1f\x00\x00\x00\x14":
        return "fif"
    if head[:4] == b"\x00\x00\x00\x64":
        return "fif"
    if head[:6] == b"MATLAB":
        return "matlab"
    if b"Brain Vision Data Exchange Header" in head or b"BrainVision Data Exchange Head" in head:
        return "vhdr"
    if b"Data Exchange Marker" in head:
        return "markers"
    if head[:4] == b"PK\x03\x04":
        return "npz"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "pickle"
    if head[:4] in (b"(dp0", b"(dp1") or head[:3] == b"cos":
        return "pickle"
    if head and b"\x00" not in head and _decodes(head):
        return "text"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text"
    return "companion"


def _decodes(head: bytes) -> bool:
    try:
        head[:400].decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        return error.start > 396  # cut in the middle of one character
    return True


def _base_name(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/").replace("\x00", "")).name or "recording"


def _lonely(files: Files) -> Notice:
    names = [name.lower() for name in files]
    if any(name.endswith(".fdt") for name in names):
        return Notice("an EEGLAB .fdt holds samples only; upload its .set beside it")
    if any(name.endswith((".eeg", ".vmrk", ".dat")) for name in names):
        return Notice(
            "samples or markers of BrainVision came without their header; upload the .vhdr too"
        )
    return Notice("the format is not one that is read here; upload {readable}", readable=READABLE)


def _unpack(files: Files) -> dict[str, bytes]:
    """Open zip archives (not NPZ) in memory. Names inside serve for matching, never as paths."""
    out: dict[str, bytes] = {}
    for name, data in files.items():
        if data[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
            out[name] = data
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                if members and all(m.filename.endswith(".npy") for m in members):
                    out[name] = data
                    continue
                out.update(_members(archive, members, len(data)))
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise CrossfuseError(
                "the zip archive cannot be opened ({error}); pack it again without a password",
                error=error,
            ) from error
    return out


def _members(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], packed: int
) -> dict[str, bytes]:
    members = [m for m in members if not _base_name(m.filename).startswith((".", "__MACOSX"))]
    members = [m for m in members if "__MACOSX" not in m.filename]
    if not members:
        raise CrossfuseError("the zip archive is empty; put the files of one recording into it")
    if len(members) > MAX_MEMBERS:
        raise CrossfuseError(
            "the zip archive holds {members} files; put the files of one recording into it",
            members=len(members),
        )
    total = sum(m.file_size for m in members)
    if total > MAX_BYTES or total > MAX_RATIO * max(packed, 1):
        raise CrossfuseError(
            "the zip archive would unpack to {total:.0f} MB from {packed:.1f} MB; upload "
            "the files themselves",
            total=total / 1000000.0,
            packed=packed / 1000000.0,
        )
    out: dict[str, bytes] = {}
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise CrossfuseError(
                "the zip archive holds the path {filename!r}, which leads outside of it; pack "
                "the files again",
                filename=member.filename,
            )
        out[path.name] = archive.read(member)
    return out


# --- files that MNE reads --------------------------------------------------------------------


def _read_edf(leader: str, files: Files, unit: str | None) -> Recording:
    import mne

    def read(path: Path, **more: Any) -> BaseRaw:
        return mne.io.read_raw_edf(path, infer_types=False, verbose="error", **more)

    return _european(files[leader], read, "EDF", unit)


def _read_bdf(leader: str, files: Files, unit: str | None) -> Recording:
    import mne

    def read(path: Path, **more: Any) -> BaseRaw:
        return mne.io.read_raw_bdf(path, verbose="error", **more)

    return _european(files[leader], read, "BDF", unit)


def _european(
    content: bytes, read: Callable[..., BaseRaw], what: str, unit: str | None
) -> Recording:
    """EDF and BDF: names, kinds and annotations by MNE; the samples of a plain file by ourselves,
    in a fraction of the time."""
    data, notes = edf.check(content, bdf=what == "BDF")
    layout = edf.plain_layout(data, bdf=what == "BDF")
    seen = data if layout is None or layout.annotated else edf.first_record(data, layout)
    recording = _with_mne(
        {f"recording.{what.lower()}": seen},
        read,
        lambda path: read(path, encoding="latin1"),
        what=what,
        unit=unit,
        stored=edf.unit(data),
        samples=None if layout is None else lambda: edf.decode(data, layout),
    )
    return recording.noted(*notes)


def _read_gdf(leader: str, files: Files, unit: str | None) -> Recording:
    import mne

    return _with_mne(
        {"recording.gdf": files[leader]},
        lambda path: mne.io.read_raw_gdf(path, verbose="error"),
        what="GDF",
        unit=unit,
    )


def _read_fif(leader: str, files: Files, unit: str | None) -> Recording:
    import mne

    def read(path: Path) -> BaseRaw:
        raw = mne.io.read_raw_fif(path, on_split_missing="ignore", verbose="error")
        if len(raw.filenames) > 1:
            raise CrossfuseError("the FIF names another file as its second part; save it as one")
        return raw

    return _with_mne({"recording_raw.fif": files[leader]}, read, what="FIF", unit=unit)


def _read_brainvision(leader: str, files: Files, unit: str | None) -> Recording:
    import mne

    text = files[leader].decode("utf-8", "replace")
    packed = {"recording.vhdr": b""}
    for key, ours in (("DataFile", "recording.eeg"), ("MarkerFile", "recording.vmrk")):
        found = re.search(rf"(?m)^{key}\s*=\s*(.*?)\s*$", text)
        if not found:
            if key == "DataFile":
                raise CrossfuseError("the BrainVision header names no DataFile; export it again")
            continue
        stem = Path(leader).stem
        named = _base_name(found.group(1).replace("$b", stem))
        data = _companion(files, named, stem, Path(named).suffix or Path(ours).suffix)
        if data is None:
            raise CrossfuseError(
                "the BrainVision header needs {named!r}; upload the .vhdr, the .eeg and the "
                ".vmrk together, or a zip of the three",
                named=named,
            )
        packed[ours] = data
        text = text[: found.start()] + f"{key}={ours}" + text[found.end() :]
    if "recording.vmrk" in packed:
        marks = packed["recording.vmrk"].decode("utf-8", "replace")
        marks = re.sub(r"(?m)^DataFile\s*=.*$", "DataFile=recording.eeg", marks)
        packed["recording.vmrk"] = marks.encode()
    packed["recording.vhdr"] = text.encode()
    return _with_mne(
        packed,
        lambda path: mne.io.read_raw_brainvision(path, verbose="error"),
        what="BrainVision",
        unit=unit,
        stored="µV",
    )


_READERS: dict[str, Callable[[str, Files, str | None], Recording]] = {
    "edf": _read_edf,
    "bdf": _read_bdf,
    "gdf": _read_gdf,
    "fif": _read_fif,
    "vhdr": _read_brainvision,
}


def _companion(files: Files, named: str, stem: str, suffix: str) -> bytes | None:
    """The uploaded file of that base name, or the only one with the same stem or suffix."""
    for name, data in files.items():
        if name.lower() == named.lower():
            return data
    same = [n for n in files if n.lower().endswith(suffix.lower())]
    close = [n for n in same if Path(n).stem == stem] or same
    return files[close[0]] if len(close) == 1 else None


def _with_mne(
    files: Files,
    read: Callable[[Path], BaseRaw],
    again: Callable[[Path], BaseRaw] | None = None,
    *,
    what: str,
    unit: str | None,
    stored: str = "V",
    samples: Callable[[], np.ndarray] | None = None,
) -> Recording:
    """Write the files under our names, open the first with MNE, and copy it out piece by piece.

    ``stored``: the unit that the file says its numbers are in, which MNE turns into volts.
    ``samples``: gives the signal in µV where MNE need not decode it.
    """
    with tempfile.TemporaryDirectory(prefix="crossfuse-eeg-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        path = Path(folder) / next(iter(files))
        try:
            try:
                raw = read(path)
            except UnicodeDecodeError:
                if again is None:
                    raise
                raw = again(path)
            check_size(
                len(raw.ch_names),
                raw.n_times,
                raw.info["sfreq"],
                Notice("the {what} file", what=what),
            )
            return _from_raw(raw, what, unit, stored, samples)
        except CrossfuseError:
            raise
        except MemoryError as error:
            raise CrossfuseError(
                "the {what} file does not fit into memory; cut it", what=what
            ) from error
        # MNE's readers raise whatever their parsing trips over; all of it means a broken file.
        except Exception as error:
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise CrossfuseError(
                "the {what} file cannot be read ({reason}); export it again from the recording "
                "software, or copy it again in binary mode",
                what=what,
                reason=reason,
            ) from error


def _from_raw(
    raw: BaseRaw,
    what: str,
    unit: str | None,
    stored: str,
    samples: Callable[[], np.ndarray] | None,
) -> Recording:
    rate = float(raw.info["sfreq"])
    kinds = tuple(
        kind if kind in ("eeg", "eog", "ecg", "emg") else "misc" for kind in raw.get_channel_types()
    )
    factor = 1e6
    notes: list[str] = []
    if unit is not None:
        factor *= UNITS[unit] / UNITS[stored]  # the file's own unit is undone
        notes.append(
            Notice("Amplitudes are taken as {unit}, as chosen, not as the file says.", unit=unit)
        )
    if samples is not None:
        signal = samples()
        if factor != 1e6:
            signal *= np.float32(factor / 1e6)
    else:
        signal = np.empty((len(raw.ch_names), raw.n_times), np.float32)
        piece = max(1, int(PIECE_SECONDS * rate))
        for start in range(0, raw.n_times, piece):
            stop = min(start + piece, raw.n_times)
            signal[:, start:stop] = raw.get_data(start=start, stop=stop, verbose="error") * factor
    first = raw.first_time if raw.annotations.orig_time is not None else 0.0
    marks = tuple(
        Annotation(float(onset) - first, float(duration), str(text))
        for onset, duration, text in zip(
            raw.annotations.onset,
            raw.annotations.duration,
            raw.annotations.description,
            strict=True,
        )
    )
    return Recording(
        signal,
        rate,
        tuple(str(name) for name in raw.ch_names),
        kinds,
        marks,
        bad=tuple(raw.info["bads"]),
        format=what,
        notes=tuple(notes),
    )


# --- MATLAB files: EEGLAB and DEAP -----------------------------------------------------------


def _read_matlab(leader: str, files: Files, unit: str | None, trial: int) -> Recording:
    from crossfuse.data.eeg import eeglab

    data = files[leader]
    if data[:10] == b"MATLAB 7.3":
        raise CrossfuseError(
            "the MATLAB file is of version 7.3; save it as version 7 or older (in EEGLAB: "
            "File > Preferences > save as version 6), or export it as EDF"
        )
    document = eeglab.load_matlab(data)
    if "data" in document and "labels" in document:
        return deap.from_arrays(document["data"], document["labels"], trial)
    stem = Path(leader).stem

    def companion(named: str) -> bytes | None:
        return _companion(files, _base_name(named), stem, ".fdt")

    return eeglab.read_set(document, companion, unit)


def _named(recording: Recording) -> Recording:
    """Standard names, kinds and places; what was not matched is told in a note."""
    found = montage.match(recording.names, recording.kinds)
    names = [std or own for std, own in zip(found.standard, recording.names, strict=True)]
    names = _unique(names)
    unmatched = [
        f"{own} ({why})"
        for own, why, std in zip(recording.names, found.why, found.standard, strict=True)
        if std is None
    ]
    notes = list(recording.notes)
    if unmatched:
        more = f" and {len(unmatched) - 12} more" if len(unmatched) > 12 else ""
        notes.append(
            Notice(
                "Channels without a place on the head: {unmatched}{more}.",
                unmatched=", ".join(unmatched[:12]),
                more=more,
            )
        )
    places = recording.positions
    if places is None or not np.isfinite(places).any():
        places = montage.positions(names)
    renamed = dict(zip(recording.names, names, strict=True))
    return replace(
        recording,
        names=tuple(names),
        kinds=found.kinds,
        bad=tuple(renamed.get(name, name) for name in recording.bad),
        positions=places,
        notes=tuple(notes),
    )


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def as_raw(recording: Recording) -> Any:
    """The recording as an MNE RawArray in volts, annotations included."""
    import mne

    kinds = [kind if kind != "ref" else "misc" for kind in recording.kinds]
    info = mne.create_info(list(recording.names), recording.rate, kinds, verbose="error")
    raw = mne.io.RawArray(recording.signal * 1e-6, info, verbose="error")
    marks = recording.annotations
    raw.set_annotations(
        mne.Annotations(
            [m.onset for m in marks], [m.duration for m in marks], [m.text for m in marks]
        ),
        verbose="error",
    )
    return raw

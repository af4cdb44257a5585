"""CSV/TSV tables and the NPZ exchange format.

NPZ schema: ``signal`` (channels, samples) numbers; ``rate`` in Hz; optional ``names`` (text),
``unit`` ("V", "mV" or "µV", default µV), ``onsets``, ``durations`` (seconds) and ``texts``.
"""

from __future__ import annotations

import csv
import io
import zipfile

import numpy as np

from crossfuse.data.eeg.recording import MAX_SAMPLES, UNITS, Annotation, Recording, check_size
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

TIME_NAMES = {"time": 1.0, "t": 1.0, "seconds": 1.0, "time (s)": 1.0, "time_s": 1.0, "sec": 1.0}
TIME_NAMES |= {"ms": 1e-3, "time (ms)": 1e-3, "time_ms": 1e-3, "milliseconds": 1e-3}
TIME_NAMES |= {"timestamp": 1.0, "timestamps": 1.0}
MISSING = {"", "nan", "na", "n/a", "null", "none", "-", "?"}


def read_text(data: bytes, *, rate: float | None, unit: str | None) -> Recording:
    """A table: one row a sample, one column a channel, with or without a header line.

    A column called time (s or ms) gives the rate; otherwise ``rate`` must be stated. Columns of
    text are left out with a note; empty cells become NaN and are mended later.

    Raises:
        CrossfuseError: no numbers, rows of different lengths, no rate.
    """
    text = _decode(data)
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    if len(lines) < 2:
        raise CrossfuseError("the table has fewer than two lines; one row a sample is needed")
    delimiter = max("\t;,", key=lines[0].count)
    if not lines[0].count(delimiter) and len(lines[0].split()) > 1:
        delimiter = " "
    decimal_comma = delimiter == ";" and _decimal_comma(lines[1:50])
    first = _cells(lines[0], delimiter)
    header = any(_number(cell, decimal_comma) is None for cell in first) and not all(
        cell.strip().lower() in MISSING for cell in first
    )
    names = [cell.strip() or f"column {i + 1}" for i, cell in enumerate(first)]
    if not header:
        names = [f"column {i + 1}" for i in range(len(first))]
    body = lines[1:] if header else lines
    if len(names) * len(body) > MAX_SAMPLES:
        raise CrossfuseError("the table is larger than what is read; cut it or use EDF")
    columns, words = _numbers(body, delimiter, len(names), decimal_comma, bool(header))
    notes = []
    if words:
        left = ", ".join(names[i] for i in words)
        notes.append(Notice("Columns without numbers are left out: {left}.", left=left))
    keep = [i for i in range(len(names)) if i not in words]
    if not keep:
        raise CrossfuseError(
            "no column of the table holds numbers; give one column of numbers a channel"
        )
    found, time_column = _rate_of(columns, names, keep)
    if time_column is not None:
        keep.remove(time_column)
        if rate is None:
            rate = found
    if rate is None:
        raise CrossfuseError(
            "the table does not say its sampling rate; state it in Hz, or add a column 'time' in "
            "seconds"
        )
    if not keep:
        raise CrossfuseError("the table holds a time column only; add one column a channel")
    check_size(len(keep), columns.shape[1], rate, Notice("the table"))
    signal = columns[keep] * (1.0 if unit is None else UNITS[unit])
    if unit is None:
        spread = float(np.nanmedian(np.nanstd(signal, axis=1))) if signal.size else 0.0
        if 0 < spread < 5e-3:
            signal = signal * 1e6
            notes.append(
                Notice("No unit was stated; from their size the numbers are taken as volts.")
            )
        else:
            notes.append(Notice("No unit was stated; the numbers are taken as µV."))
    return Recording(
        signal.astype(np.float32),
        float(rate),
        tuple(names[i] for i in keep),
        ("eeg",) * len(keep),
        format="CSV",
        notes=tuple(notes),
    )


def _decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    return next(csv.reader([line], delimiter=delimiter))


def _number(cell: str, decimal_comma: bool) -> float | None:
    cell = cell.strip()
    if decimal_comma:
        cell = cell.replace(",", ".")
    try:
        return float(cell)
    except ValueError:
        return None


def _decimal_comma(lines: list[str]) -> bool:
    cells = [cell for line in lines for cell in line.split(";")]
    return sum("," in cell for cell in cells) > len(cells) / 4


def _numbers(
    lines: list[str], delimiter: str, width: int, decimal_comma: bool, header: bool
) -> tuple[np.ndarray, list[int]]:
    """(columns, rows) float64 and the indices of columns that hold no numbers."""
    if not decimal_comma and delimiter != " ":
        try:  # the usual case: numbers only
            table = np.loadtxt(io.StringIO("\n".join(lines)), delimiter=delimiter, ndmin=2)
            if table.shape[1] == width:
                return table.T, []
        except ValueError:
            pass  # text or empty cells somewhere: read cell by cell below, which says where
    table = np.full((width, len(lines)), np.nan)
    strange: dict[int, tuple[int, str]] = {}
    counts = np.zeros(width, int)
    for row, line in enumerate(lines):
        cells = _cells(line, delimiter)
        if len(cells) != width:
            raise CrossfuseError(
                "line {row} of the table has {cells} cells, the first line has {width}; every "
                "line needs the same",
                row=row + 1 + header,
                cells=len(cells),
                width=width,
            )
        for column, cell in enumerate(cells):
            value = _number(cell, decimal_comma)
            if value is not None:
                table[column, row] = value
                counts[column] += 1
            elif cell.strip().lower() not in MISSING:
                strange.setdefault(column, (row + 1 + header, cell.strip()))
    words = [i for i in range(width) if counts[i] == 0]
    for column, (line_number, cell) in strange.items():
        if counts[column] * 2 < len(lines):
            words.append(column) if column not in words else None
        else:
            raise CrossfuseError(
                "line {line_number}, column {column} of the table holds {cell!r} where a "
                "number is needed; correct it or leave it empty",
                line_number=line_number,
                column=column + 1,
                cell=cell[:40],
            )
    return table, sorted(words)


def _rate_of(
    columns: np.ndarray, names: list[str], keep: list[int]
) -> tuple[float | None, int | None]:
    for index in keep:
        scale = TIME_NAMES.get(names[index].strip().lower())
        if scale is None:
            continue
        steps = np.diff(columns[index]) * scale
        middle = float(np.median(steps)) if len(steps) else 0.0
        if not (np.isfinite(middle) and middle > 0):
            raise CrossfuseError(
                "the time column {names!r} does not grow; state the sampling rate and leave it out",
                names=names[index],
            )
        if np.abs(steps - middle).max() > 0.5 * middle + 2e-3:
            raise CrossfuseError(
                "the time column {names!r} has gaps or jumps; cut the table there or fill the "
                "missing samples",
                names=names[index],
            )
        mean = float(steps.mean())
        return round(1 / mean, 3), index
    return None, None


def read_npz(data: bytes, *, rate: float | None, unit: str | None) -> Recording:
    """The NPZ schema of this module. Object arrays are refused, sizes bounded before reading."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(member.file_size for member in archive.infolist())
        if total > 8 * MAX_SAMPLES:
            raise CrossfuseError("the NPZ unpacks to more than what is read; cut the recording")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except CrossfuseError:
        raise
    # Damaged archives surface as ValueError, OSError, BadZipFile, zlib.error, EOFError, ...
    except Exception as error:
        raise CrossfuseError(
            "the NPZ cannot be read ({error}); save plain arrays with numpy.savez",
            error=str(error)[:120],
        ) from error
    if "signal" not in arrays:
        raise CrossfuseError(
            "the NPZ has no array 'signal' (it has {arrays}); save signal (channels, "
            "samples), rate, names and unit",
            arrays=", ".join(arrays) or "none",
        )
    signal = arrays["signal"]
    if signal.ndim == 1:
        signal = signal[None]
    if signal.ndim != 2 or signal.dtype.kind not in "fiu":
        raise CrossfuseError(
            "'signal' of the NPZ is {dtype} of shape {shape}; numbers of shape (channels, "
            "samples) are needed",
            dtype=signal.dtype,
            shape=signal.shape,
        )
    if rate is None:
        if (
            "rate" not in arrays
            or arrays["rate"].size != 1
            or arrays["rate"].dtype.kind not in "fiu"
        ):
            raise CrossfuseError("the NPZ has no number 'rate'; state the sampling rate in Hz")
        rate = float(arrays["rate"].reshape(()))
    check_size(signal.shape[0], signal.shape[1], rate, Notice("the NPZ"))
    names = tuple(str(name) for name in np.atleast_1d(arrays.get("names", np.array([]))))
    notes = []
    if len(names) != signal.shape[0]:
        if names:
            notes.append(
                Notice(
                    "The NPZ has {names} names for {shape} channels.",
                    names=len(names),
                    shape=signal.shape[0],
                )
            )
        names = tuple(f"channel {i + 1}" for i in range(signal.shape[0]))
    unit = unit or str(
        arrays["unit"].reshape(-1)[0] if arrays.get("unit", np.array([])).size else "µV"
    )
    if unit not in UNITS:
        raise CrossfuseError(
            "the unit {unit!r} is not known; use one of {units}", unit=unit, units=", ".join(UNITS)
        )
    return Recording(
        (signal * UNITS[unit]).astype(np.float32),
        float(rate),
        names,
        ("eeg",) * len(names),
        _marks(arrays),
        format="NPZ",
        notes=tuple(notes),
    )


def _marks(arrays: dict[str, np.ndarray]) -> tuple[Annotation, ...]:
    onsets = np.atleast_1d(arrays.get("onsets", np.array([])))
    durations = np.atleast_1d(arrays.get("durations", np.zeros(len(onsets))))
    texts = np.atleast_1d(arrays.get("texts", np.array([""] * len(onsets))))
    if not len(onsets):
        return ()
    if not len(onsets) == len(durations) == len(texts):
        raise CrossfuseError(
            "the NPZ has {onsets} onsets, {durations} durations and {texts} texts; they "
            "must be as many",
            onsets=len(onsets),
            durations=len(durations),
            texts=len(texts),
        )
    return tuple(
        Annotation(float(o), float(d), str(t))
        for o, d, t in zip(onsets, durations, texts, strict=True)
    )

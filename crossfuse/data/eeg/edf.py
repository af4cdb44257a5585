"""EDF and BDF at the level of bytes: headers that are checked, plain files that are decoded.

European Data Format (Kemp et al. 1992): a header of 256 bytes and 256 more a signal, then records
that hold a stretch of each signal, one after the other, as 16 (EDF) or 24 bit (BDF) integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfuse.data.eeg.recording import UNITS, check_size
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

ANNOTATIONS = ("EDF Annotations", "BDF Annotations")


def unit(data: bytes) -> str:
    """The physical dimension of the first signal of an EDF/BDF; V where it is none of voltage."""
    signals = int(data[252:256])
    start = 256 + 96 * signals
    text = data[start : start + 8].decode("latin1").strip()
    return text if text in UNITS else "V"


def check(data: bytes, *, bdf: bool) -> tuple[bytes, tuple[str, ...]]:
    """Compare an EDF/BDF header with the file's length; mend what can be mended.

    A file cut inside its samples keeps its whole records (a note says how much is left); a record
    count of -1 or one that is too small is set right. Returns the bytes to read and the notes.
    """
    what = "BDF" if bdf else "EDF"
    again = Notice("copy it again in binary mode or export it again")
    if len(data) < 256:
        raise CrossfuseError(
            "the {what} file ends inside its header; {again}", what=what, again=again
        )
    try:
        header = int(data[184:192])
        records = int(data[236:244])
        seconds = float(data[244:252])
        signals = int(data[252:256])
    except ValueError as error:
        raise CrossfuseError(
            "the {what} header holds no readable numbers; {again}", what=what, again=again
        ) from error
    if not 1 <= signals <= 4096 or header != 256 * (signals + 1) or len(data) < header:
        raise CrossfuseError(
            "the {what} header declares {signals} signals and {header} bytes of header, "
            "which do not fit a file of {data} bytes; {again}",
            what=what,
            signals=signals,
            header=header,
            data=len(data),
            again=again,
        )
    try:
        start = 256 + signals * 216
        per_record = [int(data[start + 8 * i : start + 8 * i + 8]) for i in range(signals)]
    except ValueError as error:
        raise CrossfuseError(
            "the {what} header holds no sample counts; {again}", what=what, again=again
        ) from error
    width = (3 if bdf else 2) * sum(per_record)
    if min(per_record) < 0 or width <= 0 or not np.isfinite(seconds) or seconds < 0:
        raise CrossfuseError(
            "the {what} header declares impossible records; {again}", what=what, again=again
        )
    if seconds > 0:
        check_size(
            1,
            max(per_record),
            max(per_record) / seconds,
            Notice("a record of the {what} file", what=what),
        )
    there = (len(data) - header) // width
    if there < 1:
        raise CrossfuseError(
            "the {what} file ends before its first whole record; {again}", what=what, again=again
        )
    left = (len(data) - header) % width
    notes = []
    if left and records <= there:
        notes.append(
            Notice(
                "The file holds {left} bytes that belong to no record. If the traces look "
                "wrong, it was copied in text mode: copy it again in binary mode.",
                left=left,
            )
        )
    if records == there:
        return data, tuple(notes)
    if records > there:
        notes.append(
            Notice(
                "The file is cut: its header promises {records} records, {there} are whole "
                "({seconds:g} of {promised:g} s). What is there is shown.",
                records=records,
                there=there,
                seconds=there * seconds,
                promised=records * seconds,
            )
        )
    elif records >= 0:
        notes.append(
            Notice(
                "The header declares {records} records, the file holds {there}; all are read.",
                records=records,
                there=there,
            )
        )
    fixed = bytearray(data[: header + there * width])
    fixed[236:244] = f"{there:<8d}".encode()
    return bytes(fixed), tuple(notes)


# --- samples of plain files ------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Of a file whose signals all have one rate and are voltages.

    ``samples`` of a signal in one record; ``offsets`` of each signal in a record, in samples;
    ``gains`` and ``zeros`` turn integers into µV; ``annotated``: it has a signal of annotations.
    """

    header: int
    record: int  # samples of all signals
    samples: int
    offsets: tuple[int, ...]
    gains: np.ndarray
    zeros: np.ndarray
    width: int  # bytes a sample
    annotated: bool


def plain_layout(data: bytes, *, bdf: bool) -> Layout | None:
    """The layout of a checked file, or None where it is not plain (several rates, other units)."""
    signals = int(data[252:256])

    def field(place: int, size: int) -> list[str]:
        start = 256 + place * signals
        cells = [data[start + size * i : start + size * (i + 1)] for i in range(signals)]
        return [cell.decode("latin1").strip() for cell in cells]

    names, units = field(0, 16), field(96, 8)
    try:
        low, high, first, last = (
            np.array([float(text) for text in field(place, 8)]) for place in (104, 112, 120, 128)
        )
        counts = [int(text) for text in field(216, 8)]
    except ValueError:
        return None
    keep = [i for i, name in enumerate(names) if name not in ANNOTATIONS]
    rates = {counts[i] for i in keep}
    if len(rates) != 1 or any(units[i] not in UNITS for i in keep):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = ((high - low) / (last - first))[keep]
    if not np.isfinite(gains).all() or (gains <= 0).any():
        return None
    scale = np.array([UNITS[units[i]] for i in keep])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Layout(
        header=int(data[184:192]),
        record=int(starts[-1]),
        samples=rates.pop(),
        offsets=tuple(int(starts[i]) for i in keep),
        gains=(gains * scale).astype(np.float32),
        zeros=((low[keep] - first[keep] * gains) * scale).astype(np.float32),
        width=3 if bdf else 2,
        annotated=len(keep) < signals,
    )


def first_record(data: bytes, layout: Layout) -> bytes:
    """The file as if it ended after its first record: enough to tell its signals."""
    short = bytearray(data[: layout.header + layout.width * layout.record])
    short[236:244] = f"{1:<8d}".encode()
    return bytes(short)


def decode(data: bytes, layout: Layout) -> np.ndarray:
    """(signals, samples) float32 in µV."""
    size = layout.width * layout.record
    records = (len(data) - layout.header) // size
    raw = np.frombuffer(data, np.uint8, records * size, layout.header).reshape(records, size)
    signal = np.empty((len(layout.offsets), records * layout.samples), np.float32)
    for row, offset in enumerate(layout.offsets):
        part = raw[:, layout.width * offset : layout.width * (offset + layout.samples)]
        np.multiply(_integers(part, layout.width), layout.gains[row], out=signal[row])
        signal[row] += layout.zeros[row]
    return signal


def _integers(part: np.ndarray, width: int) -> np.ndarray:
    part = np.ascontiguousarray(part).ravel()
    if width == 2:
        return part.view("<i2")
    wide = np.zeros((len(part) // 3, 4), np.uint8)
    wide[:, 1:] = part.reshape(-1, 3)
    return wide.view("<i4").ravel() >> 8

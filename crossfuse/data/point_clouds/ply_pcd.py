"""PLY and PCD, ascii and binary, read with NumPy; sizes are checked before allocating."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from crossfuse.data.point_clouds.cloud import MOST_POINTS, PointCloud, make_cloud
from crossfuse.data.point_clouds.labels import names_in
from crossfuse.errors import CrossfuseError

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
COLOUR_NAMES = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    fields: tuple[tuple[str, str], ...]
    lists: bool


def read_ply(data: bytes, what: str) -> PointCloud:
    """Vertices of a PLY, any property order. Faces, where there are any, are not read.

    A vertex property ``label`` (ScanNet) or ``class`` becomes the labels.

    Raises:
        CrossfuseError: not a PLY, no x y z, or a count that the file's bytes cannot hold.
    """
    kind, elements, start, comments = _ply_header(data, what)
    before = 0
    for element in elements:
        if element.name == "vertex":
            break
        if element.lists:
            raise CrossfuseError(
                "{what}: a list element comes before the vertices; save it anew.", what=what
            )
        before += element.count
    else:
        raise CrossfuseError("{what}: the PLY has no element called vertex.", what=what)
    _check_count(element.count, what)
    names = [name for name, _ in element.fields]
    if not {"x", "y", "z"} <= set(names) or element.lists:
        raise CrossfuseError("{what}: the vertices need plain properties x, y and z.", what=what)
    if kind == "ascii":
        table = _text_table(data[start:], before, element.count, len(names), what)
        columns = {name: table[:, i] for i, name in enumerate(names)}
    else:
        order = ">" if kind == "binary_big_endian" else "<"
        skip = sum(
            e.count * sum(np.dtype(t).itemsize for _, t in e.fields)
            for e in elements[: elements.index(element)]
        )
        dtype = np.dtype([(n, order + t) for n, t in element.fields])
        rows = _rows(data, start + skip, element.count, dtype, what)
        columns = {name: rows[name] for name in names}
    mesh = any(e.name == "face" and e.count for e in elements)
    notes = ("The file is a mesh; its vertices were taken as the points.",) if mesh else ()
    return replace(_from_columns(columns, what, notes), label_names=names_in(comments))


def coarse_mesh(data: bytes, what: str, fewest: int) -> bool:
    """Whether a PLY has faces and fewer than ``fewest`` vertices.

    Raises:
        CrossfuseError: not a PLY.
    """
    counts = {e.name: e.count for e in _ply_header(data, what)[1]}
    return counts.get("face", 0) > 0 and 0 < counts.get("vertex", 0) < fewest


def _ply_header(data: bytes, what: str) -> tuple[str, list[_Element], int, list[str]]:
    if not data.startswith(b"ply"):
        raise CrossfuseError(
            "{what} does not begin with 'ply', so it is not a PLY file.", what=what
        )
    end = data.find(b"end_header", 0, 1 << 16)
    if end < 0:
        raise CrossfuseError("{what}: the PLY header has no end_header.", what=what)
    start = data.find(b"\n", end) + 1
    kind = ""
    elements: list[_Element] = []
    comments: list[str] = []
    try:
        for line in data[:end].decode("latin-1").splitlines():
            words = line.split()
            if not words or words[0] in ("ply", "comment", "obj_info"):
                comments.append(line.partition(" ")[2])
                continue
            if words[0] == "format":
                kind = words[1]
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2]), (), False))
            elif words[0] == "property":
                last = elements.pop()
                if words[1] == "list":
                    elements.append(_Element(last.name, last.count, last.fields, True))
                else:
                    fields = (*last.fields, (words[2], PLY_TYPES[words[1]]))
                    elements.append(_Element(last.name, last.count, fields, last.lists))
    except (IndexError, ValueError, KeyError) as error:
        raise CrossfuseError(
            "{what}: the PLY header is damaged ({error!r}).", what=what, error=error
        ) from error
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise CrossfuseError("{what}: the PLY format {kind!r} is not known.", what=what, kind=kind)
    return kind, elements, start, comments


def _check_count(count: int, what: str) -> None:
    if count < 0 or count > MOST_POINTS:
        raise CrossfuseError(
            "{what} announces {count:,} points; at most {most_points:,} are read. Thin it first.",
            what=what,
            count=count,
            most_points=MOST_POINTS,
        )


def _rows(data: bytes, start: int, count: int, dtype: np.dtype, what: str) -> np.ndarray:
    room = (len(data) - start) // dtype.itemsize
    if room < count:
        raise CrossfuseError(
            "{what}: the header announces {count:,} points but the file has bytes for "
            "{room:,}; it is cut off or its header is wrong.",
            what=what,
            count=count,
            room=max(room, 0),
        )
    return np.frombuffer(data, dtype, count, start)


def _text_table(data: bytes, skip: int, count: int, width: int, what: str) -> np.ndarray:
    try:
        table = pd.read_csv(
            io.BytesIO(data),
            sep=r"\s+",
            header=None,
            skiprows=skip,
            nrows=count,
            usecols=range(width),
            engine="c",
            dtype=np.float64,
        ).to_numpy()
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CrossfuseError(
            "{what}: a row of points cannot be read ({error}).", what=what, error=error
        ) from error
    if len(table) < count:
        raise CrossfuseError(
            "{what}: the header announces {count:,} points but there are {table:,} rows; "
            "it is cut off or its header is wrong.",
            what=what,
            count=count,
            table=len(table),
        )
    return table


def _from_columns(
    columns: dict[str, np.ndarray], what: str, notes: tuple[str, ...] = ()
) -> PointCloud:
    positions = np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1)
    colours = None
    for trio in COLOUR_NAMES:
        if set(trio) <= set(columns):
            colours = np.stack([columns[name].astype(np.float32) for name in trio], axis=1)
            if columns[trio[0]].dtype == np.uint8:
                colours /= np.float32(255)
            break
    label = next((columns[n] for n in ("label", "class", "scalar_label") if n in columns), None)
    return make_cloud(positions, colours, label, what=what, notes=notes)


def read_pcd(data: bytes, what: str) -> PointCloud:
    """A PCD: ascii, binary or binary_compressed; ``rgb`` packed in a float is unpacked.

    Raises:
        CrossfuseError: not a PCD, no x y z, or a count that the file's bytes cannot hold.
    """
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start, start + 4096)
        if end < 0 or start > 1 << 14:
            raise CrossfuseError("{what} has no PCD header (a DATA line is missing).", what=what)
        words = data[start:end].decode("latin-1").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
    try:
        names = header["FIELDS"]
        kinds = {"F": "f", "I": "i", "U": "u"}
        types = [kinds[k] + s for k, s in zip(header["TYPE"], header["SIZE"], strict=True)]
        repeat = [int(c) for c in header.get("COUNT", ["1"] * len(names))]
        count = int(header["POINTS"][0])
        dtype = np.dtype(
            [
                (f"{n}@{i}", "<" + t) if c == 1 else (f"{n}@{i}", "<" + t, (c,))
                for i, (n, t, c) in enumerate(zip(names, types, repeat, strict=True))
            ]
        )
        kind = header["DATA"][0]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CrossfuseError(
            "{what}: the PCD header is damaged ({error!r}).", what=what, error=error
        ) from error
    _check_count(count, what)
    if kind == "ascii":
        table = _text_table(data[start:], 0, count, sum(repeat), what)
        at = np.cumsum([0, *repeat[:-1]])
        columns = {n: table[:, at[i]].astype(types[i]) for i, n in enumerate(names)}
    elif kind == "binary":
        rows = _rows(data, start, count, dtype, what)
        columns = {n: rows[f"{n}@{i}"] for i, n in enumerate(names)}
    elif kind == "binary_compressed":
        columns = _compressed_columns(data, start, count, dtype, what)
    else:
        raise CrossfuseError(
            "{what}: the PCD data kind {kind!r} is not known.", what=what, kind=kind
        )
    if not {"x", "y", "z"} <= set(columns):
        raise CrossfuseError("{what}: the PCD has no fields x, y and z.", what=what)
    for packed in ("rgb", "rgba"):
        if packed in columns:
            if columns[packed].dtype.itemsize != 4 or columns[packed].ndim != 1:
                raise CrossfuseError(
                    "{what}: the field {packed} must be one number of 4 bytes.",
                    what=what,
                    packed=packed,
                )
            bits = np.ascontiguousarray(columns[packed]).view("<u4")
            for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
                columns[name] = ((bits >> shift) & 255).astype(np.uint8)
    return _from_columns(columns, what)


def _compressed_columns(
    data: bytes, start: int, count: int, dtype: np.dtype, what: str
) -> dict[str, np.ndarray]:
    sizes = np.frombuffer(data[start : start + 8], "<u4")
    if len(sizes) < 2:
        raise CrossfuseError("{what} ends before its compressed points.", what=what)
    packed, unpacked = int(sizes[0]), int(sizes[1])
    if unpacked != count * dtype.itemsize or len(data) - start - 8 < packed:
        raise CrossfuseError(
            "{what}: the header announces {count:,} points, the compressed block "
            "{unpacked:,}; it is cut off or its header is wrong.",
            what=what,
            count=count,
            unpacked=unpacked // max(dtype.itemsize, 1),
        )
    raw = _lzf(data[start + 8 : start + 8 + packed], unpacked, what)
    columns, at = {}, 0
    for name in dtype.names or ():
        field = dtype[name]
        part = np.frombuffer(raw, field.base, count * int(np.prod(field.shape, dtype=int)), at)
        columns[name.split("@")[0]] = part.reshape(count, *field.shape)
        at += count * field.itemsize
    return columns


def _lzf(packed: bytes, size: int, what: str) -> bytes:
    """LZF (M. Lehmann): literal runs, and copies of what has just been written."""
    out = bytearray(size)
    read, wrote, end = 0, 0, len(packed)
    try:
        while read < end:
            control = packed[read]
            read += 1
            if control < 32:
                length = control + 1
                out[wrote : wrote + length] = packed[read : read + length]
                read += length
            else:
                length = control >> 5
                if length == 7:
                    length += packed[read]
                    read += 1
                back = ((control & 31) << 8) + packed[read] + 1
                read += 1
                length += 2
                source = wrote - back
                if source < 0:
                    raise IndexError("reference before the start")
                if back >= length:
                    out[wrote : wrote + length] = out[source : source + length]
                else:  # the copy overlaps itself: a repeated pattern
                    pattern = bytes(out[source:wrote])
                    out[wrote : wrote + length] = (pattern * (length // back + 1))[:length]
            wrote += length
    except IndexError as error:
        raise CrossfuseError("{what}: the compressed points are damaged.", what=what) from error
    if wrote != size or len(out) != size:
        raise CrossfuseError("{what}: the compressed points are damaged.", what=what)
    return bytes(out)

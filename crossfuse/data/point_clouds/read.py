"""One door for uploaded clouds: the format is chosen by the file's name."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from tokenize import TokenError
from typing import Any

import numpy as np
import pandas as pd

from crossfuse.data.point_clouds.cloud import MOST_BYTES, MOST_POINTS, PointCloud, make_cloud
from crossfuse.data.point_clouds.las import read_las
from crossfuse.data.point_clouds.ply_pcd import coarse_mesh, read_pcd, read_ply
from crossfuse.errors import CrossfuseError

POSITION_KEYS = ("positions", "points", "xyz", "coords", "pos")
COLOUR_KEYS = ("colours", "colors", "rgb", "color", "colour")
LABEL_KEYS = ("labels", "label", "semantic", "class")
SAMPLE_SPACING = 0.02
# What np.load raises on damaged files and on the archives that NPZ files are.
NUMPY_ERRORS = (
    ValueError, OSError, EOFError, SyntaxError, TokenError, NotImplementedError, RuntimeError,
    MemoryError, TypeError, LookupError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
DENSE = 20_000  # a mesh with fewer vertices is sampled; a denser one is a scan, and they are taken


def read_cloud(data: bytes, name: str) -> PointCloud:
    """Read an uploaded cloud.

    Args:
        data: the whole file.
        name: its name; the ending chooses the format: ply, pcd, xyz, txt, csv, pts, las, laz,
            npy, npz, obj, glb, stl or off. Meshes are sampled.

    Raises:
        CrossfuseError: too large, an unknown ending, or contents that do not fit it.
    """
    if len(data) > MOST_BYTES:
        raise CrossfuseError(
            "{name} has {data} MB; at most {most_bytes} MB are read: thin it.",
            name=name,
            data=len(data) >> 20,
            most_bytes=MOST_BYTES >> 20,
        )
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    if ending not in READERS:
        raise CrossfuseError(
            "{name}: clouds are read from {readers}, not from {ending}.",
            name=name,
            readers=", ".join(READERS),
            ending=ending or "no ending",
        )
    if not data:
        raise CrossfuseError("{name} is empty.", name=name)
    return READERS[ending](data, name)


def _read_text(data: bytes, what: str) -> PointCloud:
    head = data[:4096].decode("latin-1").splitlines()
    lines = [line for line in head if line.strip() and not line.startswith(("#", "//"))]
    if not lines:
        raise CrossfuseError("{what} has no line with numbers.", what=what)
    separator = ";" if ";" in lines[0] else "," if "," in lines[0] else r"\s+"
    named = any(
        c.isalpha() and c not in "eE" for c in lines[0].replace("nan", "").replace("inf", "")
    )
    single = not named and len(lines) > 1 and len(lines[0].split()) == 1  # .pts: a count first
    try:
        table = pd.read_csv(
            io.BytesIO(data),
            sep=separator,
            header=0 if named else None,
            comment="#",
            skiprows=1 if single else 0,
            on_bad_lines="skip",
            encoding="latin-1",
            nrows=MOST_POINTS + 1,
            low_memory=False,
        )
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CrossfuseError(
            "{what}: the rows cannot be read ({error}).", what=what, error=error
        ) from error
    if len(table) > MOST_POINTS:
        raise CrossfuseError(
            "{what} has more than {most_points:,} points. Thin it first.",
            what=what,
            most_points=MOST_POINTS,
        )
    if table.shape[1] < 3:
        raise CrossfuseError(
            "{what}: a row needs at least x, y and z; found {shape}.",
            what=what,
            shape=table.shape[1],
        )
    values = table.apply(pd.to_numeric, errors="coerce")
    names = [str(c).strip().lower() for c in table.columns]
    if named and {"x", "y", "z"} <= set(names):
        columns = {n: values.iloc[:, i].to_numpy() for i, n in enumerate(names)}
        trio = next(
            (t for t in (("r", "g", "b"), ("red", "green", "blue")) if set(t) <= set(names)), None
        )
        colours = np.stack([columns[n] for n in trio], 1) if trio else None
        labels = next((columns[k] for k in LABEL_KEYS if k in columns), None)
        positions = np.stack([columns[a] for a in "xyz"], 1)
        return make_cloud(positions, colours, _whole(labels), what=what)
    return _from_matrix(values.to_numpy(np.float64), what)


def _whole(labels: np.ndarray | None) -> np.ndarray | None:
    return None if labels is None else np.nan_to_num(labels, nan=-1).astype(np.int64)


def _from_matrix(table: np.ndarray, what: str) -> PointCloud:
    """Columns x y z [r g b [label]], x y z intensity r g b, or x y z nx ny nz r g b."""
    if table.ndim != 2 or table.shape[1] < 3:
        raise CrossfuseError(
            "{what}: the array must be (N, 3) or wider; it is {shape}.",
            what=what,
            shape=table.shape,
        )
    if len(table) > MOST_POINTS:
        raise CrossfuseError(
            "{what} has {table:,} points; at most {most_points:,} are read.",
            what=what,
            table=len(table),
            most_points=MOST_POINTS,
        )
    colours, labels = None, None
    notes: tuple[str, ...] = ()
    width = table.shape[1]
    if width >= 6:
        # .pts puts an intensity before the colours; elsewhere a seventh column is a label.
        starts = [4, 3] if what.lower().endswith(".pts") else [3, 4, 6]
        start = next((i for i in starts if i + 3 <= width and _are_colours(table[:, i : i + 3])), 0)
        if start:
            colours = table[:, start : start + 3]
            labels = _whole(table[:, 6]) if (start, width) == (3, 7) else None
        else:
            notes = ("The columns after x, y, z have negative values, so no colours; ignored.",)
    elif width > 3:
        notes = ("The columns after x, y, z are too few for colours; ignored.",)
    return make_cloud(table[:, :3], colours, labels, what=what, notes=notes)


def _are_colours(trio: np.ndarray) -> bool:
    fit = trio[np.isfinite(trio).all(axis=1)]
    return len(fit) > 0 and fit.min() >= 0 and fit.max() <= 65535


def _read_ply(data: bytes, what: str) -> PointCloud:
    return (_read_mesh if coarse_mesh(data, what, DENSE) else read_ply)(data, what)


def _read_numpy(data: bytes, what: str) -> PointCloud:
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > 4 * MOST_BYTES:
                raise CrossfuseError(
                    "{what} unpacks to {size} MB, which is too much.", what=what, size=size >> 20
                )
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {key.lower(): archive[key] for key in archive.files}
        else:
            arrays = {"positions": np.load(io.BytesIO(data), allow_pickle=False)}
    except NUMPY_ERRORS as error:
        if isinstance(error, CrossfuseError):
            raise
        raise CrossfuseError(
            "{what} is not a plain NumPy file ({error}).", what=what, error=error
        ) from error
    positions = _first(arrays, POSITION_KEYS)
    if positions is None:
        raise CrossfuseError(
            "{what} has no array called {position_keys}; it has {arrays}.",
            what=what,
            position_keys=", ".join(POSITION_KEYS),
            arrays=", ".join(arrays),
        )
    if positions.ndim != 2 or positions.dtype.kind not in "fiu":
        raise CrossfuseError(
            "{what}: the positions must be numbers (N, 3); got {shape}.",
            what=what,
            shape=positions.shape,
        )
    colours, labels = _first(arrays, COLOUR_KEYS), _first(arrays, LABEL_KEYS)
    if positions.shape[1] > 3 and colours is None:
        return _from_matrix(positions.astype(np.float64), what)
    for extra, kind in ((colours, "colours"), (labels, "labels")):
        if extra is not None and len(extra) != len(positions):
            raise CrossfuseError(
                "{what}: {positions:,} points but {extra:,} {kind}.",
                what=what,
                positions=len(positions),
                extra=len(extra),
                kind=kind,
            )
    if positions.shape[1] < 3 or (colours is not None and colours.shape[1:] != (3,)):
        raise CrossfuseError("{what}: positions and colours must have three columns.", what=what)
    return make_cloud(positions[:, :3], colours, labels, what=what)


def _first(arrays: dict[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _read_mesh(data: bytes, what: str) -> PointCloud:
    import trimesh

    ending = what.rsplit(".", 1)[-1].lower()
    try:
        loaded: Any = trimesh.load(io.BytesIO(data), file_type=ending, process=False)
        mesh = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:  # each of trimesh's readers raises types of its own
        raise CrossfuseError(
            "{what} is not a readable {ending} file ({error}).",
            what=what,
            ending=ending,
            error=error,
        ) from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(getattr(mesh, "faces", ())):
        vertices = np.asarray(getattr(mesh, "vertices", np.zeros((0, 3))))
        return make_cloud(vertices, what=what, notes=("The file has no faces; points taken.",))
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise CrossfuseError(
            "{what}: a face of the mesh names a corner that is not there.", what=what
        )
    if not np.isfinite(mesh.vertices).all() or not mesh.area > 0:
        raise CrossfuseError(
            "{what}: the mesh has no finite surface to take points from.", what=what
        )
    across = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    scale = {"metres": 1.0, "centimetres": 1e-4, "millimetres": 1e-6}
    unit = "metres" if across <= 100 else "centimetres" if across < 1000 else "millimetres"
    count = int(np.clip(mesh.area * scale[unit] / SAMPLE_SPACING**2, 20_000, 800_000))
    points, face = trimesh.sample.sample_surface(mesh, count, seed=0)[:2]
    visual: Any = mesh.visual
    visual = visual.to_color() if hasattr(visual, "to_color") else visual
    colours = None
    if getattr(visual, "defined", False) and getattr(visual, "kind", None):
        colours = np.asarray(visual.face_colors, np.float32)[np.asarray(face), :3] / np.float32(255)
    note = f"The file is a mesh; {count:,} points were sampled on its surface."
    up = "y" if ending == "glb" else "auto"  # glTF is y-up by definition
    return make_cloud(np.asarray(points), colours, what=what, notes=(note,), up=up)


READERS: dict[str, Callable[[bytes, str], PointCloud]] = {
    "ply": _read_ply,
    "pcd": read_pcd,
    "xyz": _read_text,
    "txt": _read_text,
    "csv": _read_text,
    "pts": _read_text,
    "las": read_las,
    "laz": read_las,
    "npy": _read_numpy,
    "npz": _read_numpy,
    "obj": _read_mesh,
    "glb": _read_mesh,
    "stl": _read_mesh,
    "off": _read_mesh,
}

"""Folders and ZIP archives of a room: ScanNet v2 scenes, S3DIS rooms, CrossFuse Rooms, or just one
cloud with its photographs.

ScanNet and S3DIS come with terms of use and are not part of this project; only their layout is
known here. Nothing is unpacked onto the disk, and no name in an archive is used as a path.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from crossfuse.data.point_clouds.cloud import MOST_BYTES, PointCloud, make_cloud
from crossfuse.data.point_clouds.labels import NYU40, class_of_name, mapped
from crossfuse.data.point_clouds.ply_pcd import read_ply
from crossfuse.data.point_clouds.read import READERS, read_cloud
from crossfuse.data.rooms.catalogue import CLASSES
from crossfuse.errors import CrossfuseError

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_PHOTOS = 400  # further ones are not even listed
MOST_FILES = 20_000
UNPACK_ERRORS = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError, ValueError
)  # fmt: skip
SCAN = "_vh_clean_2.ply"


@dataclass(frozen=True)
class PhotoFile:
    """A photograph of a room: its name for showing, and its bytes when they are wanted."""

    name: str
    read: Callable[[], bytes]


class Files(ABC):
    """Named files: ``names`` are relative, with ``/``."""

    what: str
    names: tuple[str, ...]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file; raises CrossfuseError where it is too large or damaged."""

    def ending(self, *endings: str, under: str = "") -> list[str]:
        """Sorted names that start with ``under`` and end so."""
        return sorted(n for n in self.names if n.startswith(under) and n.lower().endswith(endings))

    def photos(self, names: list[str]) -> list[PhotoFile]:
        def reader(name: str) -> Callable[[], bytes]:
            return lambda: self.read(name)

        return [PhotoFile(n.rpartition("/")[2], reader(n)) for n in names[:MOST_PHOTOS]]


class Folder(Files):
    def __init__(self, root: Path) -> None:
        self.root, self.what = root, root.name
        found = (p for p in sorted(root.rglob("*")) if p.is_file())
        self.names = tuple(p.relative_to(root).as_posix() for p in islice(found, MOST_FILES))

    def read(self, name: str) -> bytes:
        path = self.root / name
        if path.stat().st_size > 2 * MOST_BYTES:
            raise CrossfuseError(
                "{path} has {st_size} MB, which is too much.",
                path=path,
                st_size=path.stat().st_size >> 20,
            )
        return path.read_bytes()


class Archive(Files):
    """A ZIP in memory. Members are read by themselves, each at most ``2 * MOST_BYTES`` unpacked."""

    def __init__(self, data: bytes, what: str) -> None:
        self.what = what
        try:
            self.archive = zipfile.ZipFile(io.BytesIO(data))
        except zipfile.BadZipFile as error:
            raise CrossfuseError(
                "{what} is not a readable ZIP archive ({error}).", what=what, error=error
            ) from error
        members = [m for m in self.archive.infolist() if not m.is_dir()]
        if len(members) > MOST_FILES:
            raise CrossfuseError(
                "{what} holds {members:,} files; at most {most_files:,}.",
                what=what,
                members=len(members),
                most_files=MOST_FILES,
            )
        if any(m.flag_bits & 1 for m in members):
            raise CrossfuseError("{what} is encrypted; pack it without a password.", what=what)
        self.names = tuple(
            m.filename for m in members if not m.filename.rpartition("/")[2].startswith(".")
        )
        self.left = 4 * MOST_BYTES

    def read(self, name: str) -> bytes:
        limit = min(2 * MOST_BYTES, self.left)
        try:
            with self.archive.open(name) as file:
                data = file.read(limit + 1)  # what the directory says of the size may be a lie
        except UNPACK_ERRORS as error:
            raise CrossfuseError(
                "{what}: {name} cannot be unpacked ({error}).",
                what=self.what,
                name=name,
                error=error,
            ) from error
        if len(data) > limit:
            raise CrossfuseError(
                "{what}: {name} unpacks to more than {limit} MB.",
                what=self.what,
                name=name,
                limit=limit >> 20,
            )
        self.left -= len(data)
        return data


def read_archive(data: bytes, what: str) -> tuple[PointCloud, list[PhotoFile]]:
    """A ZIP of one room; see :func:`read_files`."""
    return read_files(Archive(data, what))


def read_folder(folder: Path) -> tuple[PointCloud, list[PhotoFile]]:
    """A folder of one room; see :func:`read_files`."""
    return read_files(Folder(Path(folder)))


def read_files(files: Files) -> tuple[PointCloud, list[PhotoFile]]:
    """The cloud and the photographs of a ScanNet scene (``*_vh_clean_2.ply``), an S3DIS room
    (``Annotations/``), a room of CrossFuse Rooms, or of the one cloud file that there is.

    Raises:
        CrossfuseError: none of these, several scenes or rooms, or files that cannot be read.
    """
    if scans := files.ending(SCAN):
        return _read_scannet(files, _only(scans, files, "ScanNet scenes"))
    parts = [n for n in files.ending(".txt") if "Annotations" in n.split("/")[:-1]]
    if parts:
        rooms = sorted({n.rpartition("Annotations/")[0] for n in parts})
        return _read_s3dis(files, parts, _only(rooms, files, "S3DIS rooms")), []
    if rooms := [n for n in files.ending("points.npz") if _sibling(n, "room.json") in files.names]:
        return _read_room(files, _only(rooms, files, "rooms"))
    clouds = files.ending(*(f".{ending}" for ending in READERS))
    # Beside a PLY or LAS, text files are read-me files rather than clouds.
    clouds = [n for n in clouds if not n.lower().endswith((".txt", ".csv"))] or clouds
    if not clouds:
        raise CrossfuseError(
            "{what} is neither a ScanNet scene (*{scan}) nor an S3DIS room (Annotations/), "
            "and holds no cloud: {readers}.",
            what=files.what,
            scan=SCAN,
            readers=", ".join(READERS),
        )
    name = _only(clouds, files, "clouds")
    photos = [n for n in files.ending(*PHOTO_ENDINGS) if n not in clouds]
    return read_cloud(files.read(name), name.rpartition("/")[2]), files.photos(photos)


def _only(found: list[str], files: Files, kind: str) -> str:
    if len(found) > 1:
        some = ", ".join(found[:3])
        raise CrossfuseError(
            "{what} holds {found} {kind} ({some} ...); give one at a time.",
            what=files.what,
            found=len(found),
            kind=kind,
            some=some,
        )
    return found[0]


def _sibling(name: str, other: str) -> str:
    return name.rpartition("/")[0] + "/" * ("/" in name) + other


def _read_scannet(files: Files, scan: str) -> tuple[PointCloud, list[PhotoFile]]:
    """The scan with its labels and axis alignment, and the frames exported to ``color/``."""
    plain = scan.rpartition("/")[2]
    cloud = read_ply(files.read(scan), plain)
    labelled = scan.removesuffix(".ply") + ".labels.ply"
    if labelled in files.names:
        ids = read_ply(files.read(labelled), labelled.rpartition("/")[2]).labels
        if ids is None or len(ids) != len(cloud):
            raise CrossfuseError(
                "{labelled} does not label the vertices of {plain}.", labelled=labelled, plain=plain
            )
        table = {number: class_of_name(name) for number, name in NYU40.items()}
        cloud = replace(cloud, labels=mapped(ids, table), label_names=tuple(CLASSES))
    facts = scan.removesuffix(SCAN) + ".txt"
    if facts in files.names:
        cloud = _aligned(cloud, files.read(facts).decode("latin-1"), facts)
    frames = [n for n in files.ending(*PHOTO_ENDINGS) if "color" in n.split("/")[:-1]]
    return replace(cloud, unit="metres", up="z"), files.photos(sorted(frames, key=_frame_number))


def _frame_number(name: str) -> tuple[int, str]:
    stem = name.rpartition("/")[2].rpartition(".")[0]
    return (int(stem) if stem.isdigit() and len(stem) < 12 else 0, name)


def _aligned(cloud: PointCloud, facts: str, name: str) -> PointCloud:
    for line in facts.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "axisAlignment":
            try:
                turn = np.array([float(v) for v in value.split()], np.float32).reshape(4, 4)
            except ValueError as error:
                raise CrossfuseError(
                    "{name}: axisAlignment needs 16 numbers.", name=name
                ) from error
            return replace(cloud, positions=cloud.positions @ turn[:3, :3].T)
    return cloud


def _read_s3dis(files: Files, parts: list[str], room: str) -> PointCloud:
    """All objects of ``Annotations/<class>_<n>.txt``: x y z r g b a line, damaged lines skipped."""
    tables, labels, skipped = [], [], 0
    for name in parts:
        rows, bad = _read_object(files.read(name), name)
        label = class_of_name(name.rpartition("/")[2].split("_")[0])
        tables.append(rows)
        labels.append(np.full(len(rows), label))
        skipped += bad
    table = np.concatenate(tables)
    called = room.rstrip("/").rpartition("/")[2] or files.what
    notes = (f"{skipped:,} damaged lines were left out.",) if skipped else ()
    return make_cloud(
        table[:, :3],
        table[:, 3:6] / 255,
        np.concatenate(labels),
        what=called,
        label_names=tuple(CLASSES),
        unit="metres",
        up="z",
        notes=notes,
    )


def _read_object(data: bytes, what: str) -> tuple[np.ndarray, int]:
    """Rows (N, 6) of one S3DIS object, and how many lines were no six numbers."""
    import pandas as pd

    try:
        table = pd.read_csv(
            io.BytesIO(data), sep=r"\s+", header=None, names=range(6), index_col=False,
            on_bad_lines="skip", encoding="latin-1", low_memory=False, comment="#",
        )  # fmt: skip
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CrossfuseError(
            "{what}: the lines cannot be read ({error}).", what=what, error=error
        ) from error
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    whole = np.isfinite(values).all(axis=1)
    if len(values) and not whole.any():
        raise CrossfuseError("{what}: a line needs x y z r g b.", what=what)
    return values[whole], int((~whole).sum())


def _read_room(files: Files, points: str) -> tuple[PointCloud, list[PhotoFile]]:
    try:
        json.loads(files.read(_sibling(points, "room.json")))
        with np.load(io.BytesIO(files.read(points)), allow_pickle=False) as file:
            labels = file["labels"].astype(np.int64)
            positions, colours = file["positions"], file["colours"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CrossfuseError(
            "{points} is not a room of CrossFuse Rooms ({error}).", points=points, error=error
        ) from error
    cloud = make_cloud(
        positions,
        colours,
        np.where(labels < len(CLASSES), labels, -1),
        what=files.what,
        label_names=tuple(CLASSES),
        unit="metres",
        up="z",
    )
    return cloud, files.photos(files.ending(".jpg", under=_sibling(points, "photos/")))


def read_path(path: Path) -> tuple[PointCloud, list[PhotoFile]]:
    """A cloud file, an archive, or a folder of one room; with its photographs.

    Raises:
        CrossfuseError: nothing there that can be read.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise CrossfuseError("There is no file or folder {path!r}.", path=str(path))
    if path.stat().st_size > 2 * MOST_BYTES:
        raise CrossfuseError(
            "{path} has {st_size} MB, which is too much.",
            path=path,
            st_size=path.stat().st_size >> 20,
        )
    return read_upload(path.read_bytes(), path.name)


def read_upload(data: bytes, name: str) -> tuple[PointCloud, list[PhotoFile]]:
    """An uploaded cloud, or an archive of one room with its photographs.

    Raises:
        CrossfuseError: as :func:`crossfuse.data.point_clouds.read_cloud` and :func:`read_files`.
    """
    if name.lower().endswith(".zip"):
        return read_archive(data, name)
    return read_cloud(data, name), []

"""Labelled photographs for training: folders of classes, packed folders, and lists in CSV.

Layouts that are read:

    DIR/train/<class>/*.JPEG, DIR/val/<class>/*.JPEG      the layout of ImageNet
    DIR/images.tar.gz                                     the same, packed
    LIST.csv                                              columns ``path``, ``label`` [, ``split``]

Classes are sorted by their folder name. ``DIR/classes.json`` (folder name -> readable name) is used
for names where it is there.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crossfuse.errors import CrossfuseError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_PHOTO_BYTES = 32 << 20
MAX_PHOTO_PIXELS = 64_000_000


@dataclass(frozen=True)
class Photographs:
    """``pixels``: (N, side, side, 3) uint8; ``labels``: (N,) int64; ``classes``: readable names,
    ``keys``: their folder names; ``names``: one path for each photograph."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def read_photographs(source: Path, split: str, side: int) -> Photographs:
    """All photographs of a split, upright, squashed to ``side`` x ``side`` pixels, sorted by name.

    Raises:
        CrossfuseError: nothing to read there, a file that is no picture, or a label without files.
    """
    if source.suffix == ".csv":
        entries = _from_csv(source, split)
    elif (source / split).is_dir():
        entries = _from_folder(source / split)
    elif (source / "images.tar.gz").is_file():
        entries = _from_archive(source / "images.tar.gz", split)
    else:
        raise CrossfuseError(
            "{source} has neither a folder {split!r} of class folders nor an "
            "images.tar.gz; a CSV list with the columns path and label works too.",
            source=source,
            split=split,
        )
    found: list[tuple[str, str, np.ndarray]] = [
        (key, name, decode_square(data, side, name)) for key, name, data in entries
    ]
    if not found:
        raise CrossfuseError(
            "{source} has no photographs in its split {split!r}.", source=source, split=split
        )
    found.sort(key=lambda entry: entry[:2])
    keys = tuple(sorted(_class_names(source) or {key for key, _, _ in found}))
    index = {key: number for number, key in enumerate(keys)}
    unknown = sorted({key for key, _, _ in found} - set(index))
    if unknown:
        raise CrossfuseError(
            "{source}: the class {unknown!r} is not in classes.json.",
            source=source,
            unknown=unknown[0],
        )
    names = _class_names(source)
    return Photographs(
        np.stack([pixels for _, _, pixels in found]),
        np.array([index[key] for key, _, _ in found]),
        tuple(names.get(key, key) for key in keys),
        keys,
        tuple(name for _, name, _ in found),
    )


def decode_square(data: bytes, side: int, name: str = "the photograph") -> np.ndarray:
    """Bytes of one picture as (side, side, 3) uint8, squashed.

    Raises:
        CrossfuseError: not a picture, or more pixels than are read.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PHOTO_PIXELS:
                raise CrossfuseError(
                    "{name} has {width} x {height} pixels; at most {limit:.0f} million are read.",
                    name=name,
                    width=picture.width,
                    height=picture.height,
                    limit=MAX_PHOTO_PIXELS / 1000000.0,
                )
            square = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            return np.asarray(square)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, CrossfuseError):
            raise
        raise CrossfuseError(
            "{name} is not a picture that can be read ({error}).", name=name, error=error
        ) from error


def _class_names(source: Path) -> dict[str, str]:
    file = source / "classes.json"
    if source.suffix == ".csv" or not file.is_file():
        return {}
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CrossfuseError(
            "{file} is not readable JSON: {error}.", file=file, error=error
        ) from error
    return {str(key): str(name) for key, name in names.items()}


def _from_folder(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    for path in sorted(folder.glob("*/**/*")):
        if path.suffix.lower() in SUFFIXES:
            yield path.relative_to(folder).parts[0], path.name, _bounded(path)


def _from_archive(archive: Path, split: str) -> Iterator[tuple[str, str, bytes]]:
    """Members ``.../<split>/<class>/<file>``, read one by one; nothing is unpacked to disk."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[-3] != split:
                continue
            if member.size > MAX_PHOTO_BYTES:
                raise CrossfuseError(
                    "{name} has {size:.0f} MB; too large.",
                    name=member.name,
                    size=member.size / 1000000.0,
                )
            file = tar.extractfile(member)
            assert file is not None
            yield parts[-2], parts[-1], file.read()


def _from_csv(source: Path, split: str) -> Iterator[tuple[str, str, bytes]]:
    with source.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise CrossfuseError(
                "{source} needs the columns path and label in its first line.", source=source
            )
        for number, row in enumerate(rows, start=2):
            if row.get("split", split) != split:
                continue
            path = source.parent / row["path"]
            if not path.is_file():
                raise CrossfuseError(
                    "{source}, line {number}: there is no file {row!r}.",
                    source=source,
                    number=number,
                    row=row["path"],
                )
            yield row["label"], row["path"], _bounded(path)


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > MAX_PHOTO_BYTES:
        raise CrossfuseError(
            "{path} has {st_size:.0f} MB; at most {limit:.0f} are read.",
            path=path,
            st_size=path.stat().st_size / 1000000.0,
            limit=MAX_PHOTO_BYTES / 1000000.0,
        )
    return path.read_bytes()

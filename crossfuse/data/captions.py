"""Captioned photographs for training and evaluation, in their published layouts.

* a pack of Flickr8k (Hodosh et al., JAIR 47, 2013) with the phrases and boxes of Flickr30K Entities
  (Plummer et al., ICCV 2015): ``captions.jsonl.gz`` and ``images.tar.gz`` (:func:`read_pack`);
* the Karpathy split files ``dataset_flickr30k.json`` / ``dataset_coco.json``
  (:func:`read_karpathy`);
* the original Entities files ``Sentences/ID.txt`` and ``Annotations/ID.xml``
  (:func:`read_entities`).

The photographs of these sets are for non-commercial research and education; none is part of this
project.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossfuse.errors import CrossfuseError

MAX_CAPTIONS_BYTES = 1 << 30
MAX_XML_BYTES = 1 << 20
PER_IMAGE = 5


@dataclass(frozen=True)
class PhraseSpan:
    """Tokens ``start`` ... ``start + length - 1`` of a sentence name the thing ``chain``."""

    chain: str
    types: tuple[str, ...]
    start: int
    length: int


@dataclass(frozen=True)
class Caption:
    """One sentence; its tokens are separated by single blanks."""

    text: str
    phrases: tuple[PhraseSpan, ...] = ()

    def characters(self, phrase: PhraseSpan) -> tuple[int, int]:
        """Character range [start, end) of a phrase in ``text``."""
        tokens = self.text.split(" ")
        before = sum(len(token) + 1 for token in tokens[: phrase.start])
        inside = " ".join(tokens[phrase.start : phrase.start + phrase.length])
        return before, before + len(inside)


@dataclass(frozen=True)
class CaptionedPhoto:
    """One photograph. ``boxes``: chain -> (N, 4) as x0, y0, x1, y1 in 0...1 of the frame."""

    file: str
    split: str
    captions: tuple[Caption, ...]
    width: int = 0
    height: int = 0
    boxes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def all_boxes(self) -> np.ndarray:
        """(N, 4): every box once, whatever it belongs to."""
        found = [np.zeros((0, 4), np.float32), *self.boxes.values()]
        return np.unique(np.concatenate(found), axis=0)


def read_pack(folder: Path) -> list[CaptionedPhoto]:
    """The Flickr8k pack in its order.

    Raises:
        CrossfuseError: the captions file is missing, too large, or a line of it is not as told.
    """
    path = folder / "captions.jsonl.gz"
    if not path.exists():
        raise CrossfuseError(
            "{path} does not exist; give a folder with captions.jsonl.gz and images.tar.gz.",
            path=path,
        )
    with gzip.open(path) as stream:
        raw = stream.read(MAX_CAPTIONS_BYTES + 1)
    if len(raw) > MAX_CAPTIONS_BYTES:
        raise CrossfuseError(
            "{path} unpacks to more than {limit} MiB.", path=path, limit=MAX_CAPTIONS_BYTES >> 20
        )
    photos = []
    for number, line in enumerate(raw.splitlines(), start=1):
        try:
            photos.append(_photo_of_line(json.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise CrossfuseError(
                "Line {number} of {path} cannot be read: {error!r}.",
                number=number,
                path=path,
                error=error,
            ) from error
    return photos


def pack_images(folder: Path, photos: Sequence[CaptionedPhoto]) -> Iterator[tuple[int, bytes]]:
    """(row, JPEG bytes) of the pack's photographs, in the order of the archive.

    Nothing is unpacked to disk and no path of the archive is used.
    """
    rows = {photo.file: row for row, photo in enumerate(photos)}
    with tarfile.open(folder / "images.tar.gz", "r|gz") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in rows and member.size < (32 << 20):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield rows[name], stream.read()


def read_karpathy(path: Path) -> list[CaptionedPhoto]:
    """A Karpathy split file; ``restval`` of COCO counts as train, sentences beyond five are left.

    ``file`` is ``filepath/filename`` where the file gives a folder (COCO).

    Raises:
        CrossfuseError: not such a file.
    """
    if not path.exists():
        raise CrossfuseError("{path} does not exist.", path=path)
    if path.stat().st_size > MAX_CAPTIONS_BYTES:
        raise CrossfuseError(
            "{path} is larger than {limit} MiB.", path=path, limit=MAX_CAPTIONS_BYTES >> 20
        )
    try:
        images = json.loads(path.read_bytes())["images"]
        return [_photo_of_karpathy(image) for image in images]
    except (KeyError, TypeError, ValueError) as error:
        raise CrossfuseError(
            "{path} is not a Karpathy split file (images with filename, split, sentences): "
            "{error!r}.",
            path=path,
            error=error,
        ) from error


def read_entities(folder: Path, photos: Sequence[CaptionedPhoto]) -> list[CaptionedPhoto]:
    """The photographs again, with phrases and boxes of Flickr30K Entities where there are files.

    Args:
        folder: holds ``Sentences`` and ``Annotations``; a photograph's id is its file's stem.
    """
    return [_with_entities(folder, photo) for photo in photos]


_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]*)\]")


def parse_entities_sentence(line: str) -> Caption:
    """``[/EN#1/people Two men] ...`` -> the plain sentence and where its phrases are."""
    tokens: list[str] = []
    phrases: list[PhraseSpan] = []
    position = 0
    for match in _PHRASE.finditer(line):
        tokens += line[position : match.start()].split()
        words = match[3].split()
        types = tuple(match[2].strip("/").split("/"))
        phrases.append(PhraseSpan(match[1], types, len(tokens), len(words)))
        tokens += words
        position = match.end()
    tokens += line[position:].split()
    return Caption(" ".join(tokens), tuple(phrases))


def parse_entities_boxes(raw: bytes) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """An Entities XML file -> (width, height) in pixels and chain -> (N, 4) boxes in 0...1.

    Raises:
        CrossfuseError: not such a file, or larger than 1 MiB.
    """
    if len(raw) > MAX_XML_BYTES or b"<!ENTITY" in raw:
        raise CrossfuseError("An Entities annotation is larger than 1 MiB or defines entities.")
    try:
        root = ElementTree.fromstring(raw)
        width, height = (int(_text(root, f"size/{side}")) for side in ("width", "height"))
        boxes: dict[str, list[list[float]]] = {}
        for thing in root.iterfind("object"):
            found = thing.find("bndbox")
            if found is None:
                continue
            x0, y0, x1, y1 = (float(_text(found, key)) for key in ("xmin", "ymin", "xmax", "ymax"))
            box = [x0 / width, y0 / height, x1 / width, y1 / height]
            for name in thing.iterfind("name"):
                boxes.setdefault(str(name.text), []).append(box)
    except (ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
        raise CrossfuseError(
            "An Entities annotation cannot be read: {error}.", error=error
        ) from error
    return (width, height), {k: np.array(v, np.float32) for k, v in boxes.items()}


def phrase_pieces(span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Indices of the word pieces that lie within a character range (pieces of width 0 do not)."""
    return np.array(
        [i for i, (a, b) in enumerate(offsets) if a < b and a >= span[0] and b <= span[1]],
        np.int64,
    )


def _photo_of_line(line: Mapping[str, Any]) -> CaptionedPhoto:
    captions = tuple(
        Caption(
            sentence["text"],
            tuple(
                PhraseSpan(p["chain"], tuple(p["types"]), int(p["start"]), int(p["len"]))
                for p in sentence["phrases"]
            ),
        )
        for sentence in line["sentences"]
    )
    boxes = {
        chain: np.asarray(values, np.float32).reshape(-1, 4)
        for chain, values in line["boxes"].items()
    }
    return CaptionedPhoto(
        line["file"], line["split"], captions, int(line["w"]), int(line["h"]), boxes
    )


def _photo_of_karpathy(image: Mapping[str, Any]) -> CaptionedPhoto:
    folder, split = image.get("filepath", ""), image["split"]
    texts = [sentence["raw"].strip() for sentence in image["sentences"][:PER_IMAGE]]
    return CaptionedPhoto(
        f"{folder}/{image['filename']}" if folder else image["filename"],
        "train" if split == "restval" else {"val": "dev"}.get(split, split),
        tuple(Caption(" ".join(text.split())) for text in texts),
    )


def _with_entities(folder: Path, photo: CaptionedPhoto) -> CaptionedPhoto:
    stem = Path(photo.file).stem
    sentences = folder / "Sentences" / f"{stem}.txt"
    annotation = folder / "Annotations" / f"{stem}.xml"
    if not (sentences.exists() and annotation.exists()):
        return photo
    lines = io.StringIO(sentences.read_text(encoding="utf-8"))
    captions = tuple(parse_entities_sentence(line) for line in lines if line.strip())
    (width, height), boxes = parse_entities_boxes(annotation.read_bytes())
    return replace(photo, captions=captions, width=width, height=height, boxes=boxes)


def _text(element: ElementTree.Element, path: str) -> str:
    found = element.find(path)
    if found is None or found.text is None:
        raise ValueError(f"no <{path}>")
    return found.text

"""Loaders of captioned photographs, on miniatures made here."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfuse.data.captions import (
    CaptionedPhoto,
    pack_images,
    parse_entities_boxes,
    parse_entities_sentence,
    phrase_pieces,
    read_entities,
    read_karpathy,
    read_pack,
)
from crossfuse.errors import CrossfuseError

XML = b"""<annotation><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>1</name><name>3</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax>
<ymax>60</ymax></bndbox></object><object><name>2</name><scene>1</scene><nobndbox>0</nobndbox>
</object></annotation>"""
SENTENCE = "[/EN#1/people Two young men] look at [/EN#2/scene the sky] ."


def line(file: str, split: str) -> dict[str, object]:
    phrase = {"chain": "7", "types": ["animals"], "start": 0, "len": 2}
    sentences = [{"text": "A dog runs .", "phrases": [phrase]}] * 5
    return {
        "file": file, "split": split, "w": 50, "h": 40, "sentences": sentences,
        "boxes": {"7": [[0.1, 0.2, 0.5, 0.9]]},
    }  # fmt: skip


def make_pack(folder: Path) -> Path:
    rows = [line("a.jpg", "train"), line("b.jpg", "dev")]
    with gzip.open(folder / "captions.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        for name in ("b.jpg", "../a.jpg", "stranger.jpg"):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8)).save(buffer, "JPEG")
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    return folder


def test_pack(tmp_path: Path) -> None:
    photos = read_pack(make_pack(tmp_path))
    assert [photo.split for photo in photos] == ["train", "dev"]
    caption = photos[0].captions[0]
    assert caption.characters(caption.phrases[0]) == (0, 5)
    assert photos[0].all_boxes.shape == (1, 4)
    assert {row for row, _ in pack_images(tmp_path, photos)} == {0, 1}


def test_pack_with_a_broken_line_names_it(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "captions.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(line("a.jpg", "train")) + "\n{\n")
    with pytest.raises(CrossfuseError, match="Line 2"):
        read_pack(tmp_path)
    with pytest.raises(CrossfuseError, match="does not exist"):
        read_pack(tmp_path / "nowhere")


def test_karpathy(tmp_path: Path) -> None:
    sentences = [{"raw": f"caption {i}", "tokens": []} for i in range(7)]
    images = [
        {"filename": "1.jpg", "filepath": "val2014", "split": "restval", "sentences": sentences},
        {"filename": "2.jpg", "split": "val", "sentences": sentences[:5]},
        {"filename": "3.jpg", "split": "test", "sentences": sentences[:5]},
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}))
    photos = read_karpathy(path)
    assert [photo.split for photo in photos] == ["train", "dev", "test"]
    assert photos[0].file == "val2014/1.jpg"
    assert len(photos[0].captions) == 5
    path.write_text("[]")
    with pytest.raises(CrossfuseError, match="Karpathy"):
        read_karpathy(path)


def test_entities(tmp_path: Path) -> None:
    caption = parse_entities_sentence(SENTENCE)
    assert caption.text == "Two young men look at the sky ."
    assert [(p.chain, p.start, p.length) for p in caption.phrases] == [("1", 0, 3), ("2", 5, 2)]
    size, boxes = parse_entities_boxes(XML)
    assert size == (200, 100)
    assert set(boxes) == {"1", "3"}
    assert np.allclose(boxes["1"], [[0.1, 0.1, 0.6, 0.6]])
    for name, suffix, content in (
        ("Sentences", "txt", SENTENCE.encode()), ("Annotations", "xml", XML),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / f"9.{suffix}").write_bytes(content + b"\n")
    known, unknown = read_entities(
        tmp_path, [CaptionedPhoto("9.jpg", "train", ()), CaptionedPhoto("8.jpg", "train", ())]
    )
    assert len(known.captions) == 1
    assert unknown.captions == ()


@pytest.mark.parametrize("raw", [b"", b"<a>", b"<annotation/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]>"])
def test_damaged_annotations_are_refused(raw: bytes) -> None:
    with pytest.raises(CrossfuseError):
        parse_entities_boxes(raw)


def test_phrase_pieces() -> None:
    offsets = [(0, 0), (0, 3), (4, 7), (7, 9), (10, 14), (0, 0)]
    assert phrase_pieces((4, 9), offsets).tolist() == [2, 3]

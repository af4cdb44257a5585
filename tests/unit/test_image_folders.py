"""Labelled photographs: folders, packed folders, CSV lists."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfuse.data.image_folders import decode_square, read_photographs
from crossfuse.errors import CrossfuseError


def jpeg(level: int, size: tuple[int, int] = (12, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, key in enumerate(("n2", "n1")):
        for name in ("b.png", "a.png"):
            place = tmp_path / "train" / key
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(jpeg(40 * number + 20))
    (tmp_path / "classes.json").write_text(json.dumps({"n1": "cat", "n2": "dog"}))
    return tmp_path


def test_classes_and_files_are_sorted_and_named(folder: Path) -> None:
    found = read_photographs(folder, "train", 16)
    assert found.keys == ("n1", "n2")
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.names == ("a.png", "b.png", "a.png", "b.png")
    assert found.pixels.shape == (4, 16, 16, 3)
    assert found.pixels[:, 0, 0, 0].tolist() == [60, 60, 20, 20]


def test_a_packed_folder_and_a_list_read_the_same(folder: Path, tmp_path: Path) -> None:
    direct = read_photographs(folder, "train", 8)
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "images.tar.gz", "w:gz") as tar:
        tar.add(folder / "train", arcname="./train")
    (packed / "classes.json").write_text((folder / "classes.json").read_text())
    np.testing.assert_array_equal(read_photographs(packed, "train", 8).pixels, direct.pixels)
    lines = [f"train/{k}/{n},{k}" for k in ("n2", "n1") for n in ("a.png", "b.png")]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(lines))
    listed = read_photographs(folder / "list.csv", "train", 8)
    np.testing.assert_array_equal(listed.labels, direct.labels)


def test_grey_alpha_tiny_and_long_pictures_become_squares() -> None:
    for data in (
        jpeg(9, (8, 8), "L"),
        jpeg(9, (8, 8), "RGBA"),
        jpeg(9, (400, 20)),
        jpeg(9, (1, 1)),
    ):
        assert decode_square(data, 32).shape == (32, 32, 3)


def test_what_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossfuseError, match="neither a folder 'val'"):
        read_photographs(folder, "val", 8)
    with pytest.raises(CrossfuseError, match="not a picture"):
        decode_square(b"nothing", 8)
    (folder / "list.csv").write_text("file,label\nx,y")
    with pytest.raises(CrossfuseError, match="columns path and label"):
        read_photographs(folder / "list.csv", "train", 8)
    (folder / "list.csv").write_text("path,label\nmissing.png,y")
    with pytest.raises(CrossfuseError, match="line 2"):
        read_photographs(folder / "list.csv", "train", 8)
    (folder / "train" / "n9").mkdir()
    (folder / "train" / "n9" / "x.png").write_bytes(jpeg(1))
    with pytest.raises(CrossfuseError, match=r"'n9' is not in classes\.json"):
        read_photographs(folder, "train", 8)

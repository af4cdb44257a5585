"""Pairs of pictures with a known answer: two crops of one photograph, and which cell is which.

Both crops are cut by an affine map (place, size, aspect, a little turn), then coloured and
sharpened differently; where a cell's centre in crop A lies in crop B follows from the two maps.
The stereo pair that ships with scikit-image gives the same for two real photographs, from its
measured disparities.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from crossfuse.data.images import read_image
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid

SIDE = 224
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Crop:
    """``pixels`` (SIDE, SIDE, 3) uint8; ``to_photo`` (2, 3) takes crop to photograph pixels."""

    pixels: np.ndarray
    to_photo: np.ndarray


def read_photos(folder: Path, split: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Photographs below ``folder``, by name: loose files, or those in an images.tar.gz.

    Where a captions.jsonl.gz lies beside (Flickr8k as packed for this project: split, w, h), only
    the photographs of ``split`` come, and each regains the aspect that it had.

    Raises:
        CrossfuseError: no photographs there.
    """
    known = _known_sizes(folder / "captions.jsonl.gz")
    archive = folder / "images.tar.gz"
    if archive.exists():
        with tarfile.open(archive) as tar:
            for member in tar:
                stored = tar.extractfile(member) if member.isfile() else None
                entry = known.get(Path(member.name).name) if known else None
                if stored is None or (known and (entry is None or entry[0] != split)):
                    continue
                pixels = read_image(stored.read()).pixels
                yield member.name, _reshape(pixels, entry[1:]) if entry else pixels
        return
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise CrossfuseError(f"There are no photographs (JPEG, PNG or WebP) below {folder}.")
    for file in files:
        yield file.name, read_image(file.read_bytes()).pixels


def _known_sizes(path: Path) -> dict[str, tuple[str, int, int]]:
    if not path.exists():
        return {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return {e["file"]: (e["split"], e["w"], e["h"]) for e in entries}


def _reshape(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Undo a squashing: the longer side becomes that of the stored square, times 1.5."""
    scale = 1.5 * max(pixels.shape[:2]) / max(size)
    new = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BICUBIC))


def random_crop(photo: np.ndarray, generator: np.random.Generator, side: int = SIDE) -> Crop:
    """A crop of 45 to 90 % of the shorter side, turned by up to 15 degrees, recoloured."""
    height, width = photo.shape[:2]
    extent = generator.uniform(0.45, 0.9) * min(height, width)
    stretch = np.exp(generator.uniform(-0.2, 0.2))
    angle = generator.uniform(-np.pi / 12, np.pi / 12)
    half = extent / 2 * (abs(np.cos(angle)) + abs(np.sin(angle))) * np.exp(abs(np.log(stretch)) / 2)
    centre = [
        generator.uniform(half, length - half) if 2 * half < length else length / 2
        for length in (width, height)
    ]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([extent * stretch**0.5, extent * stretch**-0.5]) / side
    to_photo = np.column_stack([linear, np.array(centre) - linear @ [side / 2, side / 2]])
    image = Image.fromarray(photo).transform(
        (side, side), Image.Transform.AFFINE, tuple(to_photo.ravel()), Image.Resampling.BICUBIC
    )
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(generator.uniform(0.6, 1.4))
    if generator.random() < 0.15:
        image = image.convert("L").convert("RGB")
    if generator.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.5)))
    return Crop(np.asarray(image), to_photo)


def matching_cells(a: ImageGrid, b: ImageGrid, crop_a: Crop, crop_b: Crop) -> np.ndarray:
    """For each cell of ``a`` the cell of ``b`` nearest to the same point; -1 where b ends."""
    in_photo = a.centres @ crop_a.to_photo[:, :2].T + crop_a.to_photo[:, 2]
    in_b = np.linalg.solve(crop_b.to_photo[:, :2], (in_photo - crop_b.to_photo[:, 2]).T).T
    return cells_at(b, in_b)


def cells_at(grid: ImageGrid, points: np.ndarray) -> np.ndarray:
    """The cell whose square holds each point (N, 2) in pixels; -1 outside or where NaN."""
    place = (points - grid.centres[0]) / grid.cell + 0.5
    with np.errstate(invalid="ignore"):
        inside = ((place >= 0) & (place < [grid.columns, grid.rows])).all(1)
    column, row = np.where(inside[:, None], place, 0).astype(int).T
    return np.where(inside, row * grid.columns + column, -1)


def stereo_pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right photograph of a motorcycle and, for each left pixel, its right one.

    Middlebury 2014 (Scharstein et al.), read from the installed scikit-image: (500, 741, 3) uint8
    twice and (500, 741, 2) float x, y, NaN where not measured.
    """
    from skimage import data

    left, right, disparity = data.stereo_motorcycle()
    y, x = np.mgrid[0 : left.shape[0], 0 : left.shape[1]].astype(float)
    disparity = np.where(np.isfinite(disparity), disparity, np.nan)
    return left, right, np.stack([x + 0.5 - disparity, y + 0.5], axis=-1)

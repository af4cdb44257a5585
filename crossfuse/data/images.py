"""Photographs and feature maps that people upload, and the sample photographs.

Files are recognised by content, never by name.  Every size is read from the header and bounded
before anything is allocated; whatever cannot be used raises one :class:`CrossfuseError` sentence
with the limit and what would work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

MAX_FILE_BYTES = 100_000_000
MAX_PIXELS = 50_000_000  # decoded: 150 MB as RGB
MAX_CHANNELS, MAX_GRID_SIDE, MAX_VALUES = 4096, 512, 16_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
READABLE = Notice("JPEG, PNG, WebP, GIF, BMP or TIFF")
_SIGNATURES = (
    (b"%PDF", Notice("a PDF document")),
    (b"PK\x03\x04", Notice("a ZIP archive or an office document")),
    (b"\x93NUMPY", Notice("a NumPy array")),
    (b"<svg", Notice("an SVG drawing")),
    (b"<?xml", Notice("an XML file")),
    (b"<!DOC", Notice("a web page")),
    (b"<html", Notice("a web page")),
    (b"8BPS", Notice("a Photoshop document")),
    (b"\x1f\x8b", Notice("a compressed archive")),
)
# What Pillow's decoders raise on damaged files, beyond its own error type.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Photo:
    """An upright photograph.

    ``pixels``: uint8 RGB (H, W, 3), read-only; ``original_size``: (width, height) as stored in the
    file, before turning upright or reducing; ``notes``: what was changed on the way, a sentence
    each; ``digest``: SHA-256 of the file.
    """

    pixels: np.ndarray
    original_size: tuple[int, int]
    notes: tuple[str, ...]
    digest: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of ``pixels``; all geometry is in these."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class Sample:
    """A photograph that ships inside an installed package, with its credit."""

    package: str
    path: str
    title: str
    credit: str
    licence: str
    source: str


_CC0, _PUBLIC_DOMAIN, _CC_BY = "CC0 1.0", "public domain", "CC BY 2.0"
_SKIMAGE = "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data."
_FLICKR = "https://www.flickr.com/photos/"
SAMPLES: dict[str, Sample] = {
    "chelsea": Sample(
        "skimage", "data/chelsea.png", "Chelsea the cat", "Stefan van der Walt", _CC0,
        _SKIMAGE + "chelsea",
    ),
    "coffee": Sample(
        "skimage", "data/coffee.png", "A cup of coffee", "Rachel Michetti", _CC0,
        _SKIMAGE + "coffee",
    ),
    "astronaut": Sample(
        "skimage", "data/astronaut.png", "Eileen Collins, astronaut", "NASA", _PUBLIC_DOMAIN,
        _SKIMAGE + "astronaut",
    ),
    "rocket": Sample(
        "skimage", "data/rocket.jpg", "A rocket on its pad", "SpaceX", _PUBLIC_DOMAIN,
        _FLICKR + "spacexphotos/16511594820",
    ),
    "camera": Sample(
        "skimage", "data/camera.png", "A photographer", "Lav Varshney", _CC0, _SKIMAGE + "camera"
    ),
    "china": Sample(
        "sklearn", "datasets/images/china.jpg", "The Summer Palace, Beijing", "danielbuechele",
        _CC_BY, _FLICKR + "danielbuechele/6061409035",
    ),
    "flower": Sample(
        "sklearn", "datasets/images/flower.jpg", "A flower", "vultilion", _CC_BY,
        _FLICKR + "vultilion/6056698931",
    ),
}  # fmt: skip


def sample_photos() -> dict[str, Sample]:
    """The sample photographs whose package is installed, by key."""
    return {key: sample for key, sample in SAMPLES.items() if _sample_path(sample) is not None}


def sample_photo(key: str) -> Photo:
    """One sample photograph, read from the installed package.

    Raises:
        CrossfuseError: unknown key, or the package is not installed.
    """
    sample = SAMPLES.get(key)
    if sample is None:
        raise CrossfuseError(
            "There is no sample photograph {key!r}; there are {samples}.",
            key=key,
            samples=list(SAMPLES),
        )
    path = _sample_path(sample)
    if path is None:
        raise CrossfuseError(
            "The sample photograph {key!r} comes with the package {package}, which is not "
            "installed.",
            key=key,
            package=sample.package,
        )
    return read_image(path.read_bytes())


def _sample_path(sample: Sample) -> Path | None:
    spec = importlib.util.find_spec(sample.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / sample.path
    return path if path.is_file() else None


def read_image(source: bytes | BinaryIO) -> Photo:
    """Read an uploaded photograph: upright, RGB, 8 bits a channel.

    Args:
        source: the file's content, or a binary file object.

    Raises:
        CrossfuseError: empty, too large, damaged, or not a photograph in a readable format.
    """
    data = _read_bounded(source)
    notes: list[str] = []
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            original_size = image.size
            _bound_pixels(image)
            if image.size != original_size:
                notes.append(
                    Notice(
                        "Read at {width} x {height} pixels instead of {stored_width} x "
                        "{stored_height}, because of its size.",
                        width=image.size[0],
                        height=image.size[1],
                        stored_width=original_size[0],
                        stored_height=original_size[1],
                    )
                )
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                notes.append(Notice("The file holds several pictures; the first one is used."))
                image.seek(0)
            deep = any("16" in str(tile[3]) for tile in image.tile)
            turned = _orientation(image) != 1
            image.load()
            if turned:
                notes.append(Notice("Turned upright as its EXIF data say."))
            pixels = _as_rgb(_upright(image, notes), notes, deep)
    except CrossfuseError:
        raise
    except UnidentifiedImageError as error:
        raise CrossfuseError(_what_else(data)) from error
    except Image.DecompressionBombError as error:
        raise CrossfuseError(
            "The picture has more than 178 megapixels; scale it down to at most {limit} "
            "megapixels.",
            limit=MAX_PIXELS // 1_000_000,
        ) from error
    except _DECODER_ERRORS as error:
        raise CrossfuseError(
            "The picture is damaged or ends too early, so it cannot be decoded; save it again as "
            "JPEG or PNG."
        ) from error
    pixels.setflags(write=False)
    return Photo(pixels, original_size, tuple(notes), hashlib.sha256(data).hexdigest())


def _read_bounded(source: bytes | BinaryIO) -> bytes:
    data = source if isinstance(source, bytes) else source.read(MAX_FILE_BYTES + 1)
    if not data:
        raise CrossfuseError("The file is empty (zero bytes); choose another one.")
    if len(data) > MAX_FILE_BYTES:
        raise CrossfuseError(
            "The file is larger than {limit} MB; save it as JPEG or scale it down.",
            limit=MAX_FILE_BYTES // 1_000_000,
        )
    return data


def _bound_pixels(image: Image.Image) -> None:
    """Refuse sizes over the limit before decoding; JPEG can be decoded at half, quarter, eighth."""
    width, height = image.size
    if width * height > MAX_PIXELS and image.format in ("JPEG", "MPO"):
        factor = 2
        while width * height > MAX_PIXELS * factor * factor:
            factor *= 2
        image.draft(image.mode, (width // factor, height // factor))
        width, height = image.size
    if width * height > MAX_PIXELS:
        raise CrossfuseError(
            "The picture has {width} x {height} = {megapixels:.0f} megapixels; the limit is "
            "{limit:g}. Scale it down, or save it as JPEG, which can be read at reduced "
            "size.",
            width=width,
            height=height,
            megapixels=width * height / 1e6,
            limit=MAX_PIXELS / 1e6,
        )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except _DECODER_ERRORS:
        return 1
    return value if value in range(1, 9) else 1


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    # Pillow turns TIFF by itself while loading; then nothing is left to do here.
    try:
        ImageOps.exif_transpose(image, in_place=True)  # else it copies upright pictures too
    except _DECODER_ERRORS:
        notes.append(Notice("Its EXIF data are damaged; the picture is shown as stored."))
    return image


def _as_rgb(image: Image.Image, notes: list[str], deep: bool) -> np.ndarray:
    """Any mode that Pillow decodes -> uint8 (H, W, 3)."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image), notes)
    if deep:
        notes.append(Notice("16 bits a channel were reduced to 8."))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] != 255:
            notes.append(Notice("Transparent parts are shown on white."))
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            layered = Image.alpha_composite(white, layered)
        image = layered
    if image.mode == "CMYK":
        notes.append(Notice("Converted from printing colours (CMYK), without a colour profile."))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(values: np.ndarray, notes: list[str]) -> np.ndarray:
    if not np.isfinite(values).all():
        raise CrossfuseError(
            "The picture contains NaN or infinite values; replace them and save it as PNG."
        )
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        grey = (values - low) * (255.0 / max(high - low, 1e-12))
        notes.append(
            Notice(
                "Brightness {low:g} ... {high:g} was stretched to 0 ... 255.", low=low, high=high
            )
        )
    elif low < 0 or high > 65535:
        raise CrossfuseError(
            "The picture has 32-bit values outside 0 ... 65535; save it as 8- or 16-bit PNG."
        )
    else:
        grey = values / (257.0 if high > 255 else 1.0)
        notes.append(Notice("16 bits a channel were reduced to 8."))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)


def _what_else(data: bytes) -> Notice:
    """One sentence for a file that is no readable picture."""
    head = data[:64].lstrip()
    kind = next((name for start, name in _SIGNATURES if head.startswith(start)), None)
    if data[4:8] == b"ftyp":
        kind = Notice("a HEIC, AVIF or video file")
    if kind is None:
        return Notice(
            "The file is not a picture that can be recognised; upload a {formats} picture.",
            formats=READABLE,
        )
    return Notice(
        "The file looks like {kind}; upload a {formats} picture.", kind=kind, formats=READABLE
    )


def read_feature_map(source: bytes | BinaryIO) -> np.ndarray:
    """Read an uploaded feature map: an NPY file with numbers of shape (C, H, W).

    Nothing is unpickled.  The size is checked from the header before the values are read.

    Returns:
        float32 (C, H, W), all finite.

    Raises:
        CrossfuseError: not NPY, not three axes of numbers, over the limits, cut short, or with
            NaN or infinite values.
    """
    data = _read_bounded(source)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
    except (ValueError, KeyError, SyntaxError, TypeError, EOFError) as error:
        raise CrossfuseError(
            "The file is not a NumPy array; save the feature map with numpy.save."
        ) from error
    if dtype.kind not in "fiu":
        raise CrossfuseError(
            "A feature map holds plain numbers; this array holds {dtype}.", dtype=dtype
        )
    if len(shape) != 3 or min(shape) < 1:
        raise CrossfuseError(
            "A feature map has shape (channels, height, width); this array has {shape}.",
            shape=shape,
        )
    count = shape[0] * shape[1] * shape[2]
    if shape[0] > MAX_CHANNELS or max(shape[1:]) > MAX_GRID_SIDE or count > MAX_VALUES:
        raise CrossfuseError(
            "The feature map {shape} is too large: at most {channels} channels, {side} "
            "cells a side and {millions} million values; pool it.",
            shape=shape,
            channels=MAX_CHANNELS,
            side=MAX_GRID_SIDE,
            millions=MAX_VALUES // 1_000_000,
        )
    body = memoryview(data)[stream.tell() :]
    if len(body) != count * dtype.itemsize:
        raise CrossfuseError(
            "The array's header promises {promised} bytes but {there} follow; save the file again.",
            promised=count * dtype.itemsize,
            there=len(body),
        )
    values = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, dtype=np.float32)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        raise CrossfuseError(
            "The feature map has {count} NaN or infinite values, the first at {place}; "
            "all must be finite.",
            count=len(broken),
            place=tuple(int(i) for i in broken[0]),
        )
    return values

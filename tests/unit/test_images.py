"""Uploads of photographs and feature maps: what is read, what is refused, and how."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from crossfuse.data import images
from crossfuse.data.images import read_feature_map, read_image, sample_photo, sample_photos
from crossfuse.errors import CrossfuseError


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def ramp(width: int = 40, height: int = 24) -> Image.Image:
    """Red grows to the right, green downwards: orientation shows."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), 0 * x], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims to be huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_formats_by_content(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    photo = read_image(io.BytesIO(file_of(ramp(), kind, **options)))
    assert photo.size == photo.original_size == (40, 24)
    assert photo.notes == ()
    difference = np.abs(photo.pixels.astype(int) - np.asarray(ramp()))
    assert difference.max() <= (60 if kind == "JPEG" else 0)
    assert not photo.pixels.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    undo = [
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
    ][orientation - 1]
    stored = ramp() if undo is None else ramp().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_image(file_of(stored, kind, exif=exif))
    assert photo.size == (40, 24)
    assert kind == "TIFF" or photo.original_size == stored.size
    assert np.abs(photo.pixels.astype(int) - np.asarray(ramp())).max() < 60
    assert any("EXIF" in note for note in photo.notes) == (orientation != 1)


def test_modes_are_brought_to_rgb() -> None:
    transparent = ramp().convert("RGBA")
    transparent.putalpha(0)
    photo = read_image(file_of(transparent))
    assert (photo.pixels == 255).all()
    assert "white" in photo.notes[0]

    opaque = read_image(file_of(ramp().convert("RGBA")))
    assert (opaque.pixels == np.asarray(ramp())).all()
    assert opaque.notes == ()

    palette = read_image(file_of(ramp().quantize(256)))
    assert np.abs(palette.pixels.astype(int) - np.asarray(ramp())).mean() < 12

    grey = read_image(file_of(Image.new("L", (5, 4), 77)))
    assert (grey.pixels == 77).all()
    assert (read_image(file_of(Image.new("1", (5, 4), 1))).pixels == 255).all()

    cmyk = read_image(file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(cmyk.pixels.astype(int) - [255, 0, 0]).max() < 12
    assert "CMYK" in cmyk.notes[0]


def test_sixteen_bits() -> None:
    values = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    for kind in ("PNG", "TIFF"):
        photo = read_image(file_of(Image.fromarray(values), kind))
        assert np.abs(photo.pixels[..., 0] - values / 257).max() <= 0.51
        assert "16 bits" in photo.notes[0]
    floats = np.linspace(-1, 1, 100).astype(np.float32).reshape(10, 10)
    photo = read_image(file_of(Image.fromarray(floats), "TIFF"))
    assert (photo.pixels.min(), photo.pixels.max()) == (0, 255)
    floats[3, 3] = np.nan
    with pytest.raises(CrossfuseError, match="NaN"):
        read_image(file_of(Image.fromarray(floats), "TIFF"))


def test_animation_uses_the_first_picture() -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
        photo = read_image(data)
        assert "first" in photo.notes[0]
        assert np.abs(photo.pixels.astype(int) - [255, 0, 0]).max() < 12


def test_smallest_and_longest() -> None:
    assert read_image(file_of(Image.new("RGB", (1, 1), "red"))).pixels.tolist() == [[[255, 0, 0]]]
    assert read_image(file_of(Image.new("RGB", (20_000, 1)))).size == (20_000, 1)


def test_huge_jpeg_is_read_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)
    data = file_of(ramp(1000, 800), "JPEG")
    photo = read_image(data)
    assert photo.size == (250, 200)
    assert photo.original_size == (1000, 800)
    assert "250 x 200" in photo.notes[0]
    with pytest.raises(CrossfuseError, match="1000 x 800"):
        read_image(file_of(ramp(1000, 800)))


@pytest.mark.parametrize("size", [(8_000, 8_000), (12_000, 10_000), (60_000, 60_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(CrossfuseError, match="50"):
        read_image(png_claiming(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_and_damaged_files(kind: str) -> None:
    whole = file_of(ramp(200, 150), kind)
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(CrossfuseError):
            read_image(whole[: int(len(whole) * part)])
    generator = np.random.default_rng(0)
    for _ in range(30):  # damaged bytes: a picture or our sentence, nothing else
        broken = bytearray(whole)
        for place in generator.integers(0, len(broken), 20):
            broken[place] = generator.integers(0, 256)
        with contextlib.suppress(CrossfuseError):
            read_image(bytes(broken))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 something", "PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        (b"PK\x03\x04" + bytes(50), "ZIP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"hello, I am text", "not a picture"),
        (bytes(1000), "not a picture"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, says: str) -> None:
    with pytest.raises(CrossfuseError, match=says):
        read_image(data)


def test_file_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1_000)
    with pytest.raises(CrossfuseError, match="larger than"):
        read_image(io.BytesIO(bytes(2_000)))


def test_every_sample_reads_and_is_credited() -> None:
    for key, sample in sample_photos().items():
        photo = sample_photo(key)
        assert min(photo.size) >= 300
        assert sample.credit
        assert sample.licence
    with pytest.raises(CrossfuseError, match="no sample"):
        sample_photo("../../etc/passwd")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_feature_maps() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    for array in (values, values.astype(">f4"), np.asfortranarray(values), np.ones((1, 1, 1), int)):
        read = read_feature_map(npy(array))
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, array, rtol=1e-6)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("was unpickled",))


def test_bad_feature_maps_are_refused() -> None:
    trap = io.BytesIO()
    np.save(trap, np.array([[[Trap()]]], dtype=object), allow_pickle=True)
    huge = npy(np.zeros((1, 1, 1))).replace(b"(1, 1, 1)", b"(9, 9, 99999)".ljust(9))
    cases = {
        "plain numbers": trap.getvalue(),
        "not a NumPy": file_of(ramp()),
        "has \\(3, 4\\)": npy(np.zeros((3, 4))),
        "too large": npy(np.zeros((5000, 1, 1))),
        "promises": npy(np.zeros((2, 3, 4)))[:-8],
        "NaN or infinite": npy(np.array([[[1.0, np.nan]]])),
        "the first at \\(0, 0, 1\\)": npy(np.array([[[1.0, 1e300]]])),
        "complex": npy(np.zeros((1, 1, 1), complex)),
        "NumPy array|too large": huge,
    }
    for says, data in cases.items():
        with pytest.raises(CrossfuseError, match=says):
            read_feature_map(data)

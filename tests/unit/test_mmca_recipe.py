"""MMCA's recipe from end to end on a made-up pack: train, take up again, evaluate."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import tarfile
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossfuse import registry
from crossfuse.cli import main
from crossfuse.data.captions import PER_IMAGE, CaptionedPhoto, read_pack
from crossfuse.encoders.proposer import ProposerConfig
from crossfuse.encoders.regions import SCENE_FEATURES
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCA, ImageStates, MMCAConfig, SentenceStates
from crossfuse.training import mmca as recipe_of_mmca
from crossfuse.training.mmca_cache import FeatureCache
from crossfuse.training.mmca_evaluation import (
    Encoded,
    full_figures,
    human_correlation,
    phrase_map,
    proposal_recall,
    retrieval_figures,
)
from crossfuse.training.mmca_live import encode_photos
from crossfuse.training.mmca_regions import anchor_shapes, pair_giou
from crossfuse.training.mmca_scene import add_scene, scene_recipe
from crossfuse.training.mmca_sources import CachedSource, RegionMix
from crossfuse.training.mmca_trainer import Recipe, Trainer

TRAIN, DEV = 32, 4
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 50, 200),
    "yellow": (230, 220, 40),
    "black": (10, 10, 10),
    "white": (245, 245, 245),
}
SENTENCES = (
    "A {thing} block lies on a {ground} floor .",
    "A {thing} square in front of a {ground} wall",
    "Somebody painted a {thing} box on {ground} paper .",
    "There is a {thing} patch over something {ground}",
    "One {thing} tile with much {ground} around it .",
)
TINY = {"width": 16, "heads": 2, "feedforward": 24, "convolution": 6}
SHORT = {
    "batch": 8,
    "regions": 6,
    "longest": 10,
    "warmup": 2,
    "cross_batch": 8,
    "joint_every": 1,
    "epochs": 2,
    "joint_from": 0.5,
    "held_out": 4,
}


@dataclass(frozen=True)
class Run:
    """The pack, the work and weights folders, and what two calls of the recipe printed."""

    data: Path
    work: Path
    weights: Path
    first: str
    second: str

    @property
    def cache(self) -> FeatureCache:
        return FeatureCache(self.work / "cache")

    @property
    def checkpoint(self) -> Path:
        return self.work / "mini.pt"


def write_pack(folder: Path) -> None:
    """Blocks of one colour on another; each sentence names the block (1) and the ground (2)."""
    rng = np.random.default_rng(3)
    lines = []
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        for number in range(TRAIN + DEV):
            thing, ground = rng.permutation(list(COLOURS))[:2]
            width, height = 64 + 8 * (number % 3), 56
            left, top = (int(v) for v in rng.integers(2, 20, 2))
            right, bottom = left + int(rng.integers(12, 40)), top + int(rng.integers(12, 30))
            picture = np.empty((height, width, 3), np.uint8)
            picture[:] = COLOURS[ground]
            picture[top:bottom, left:right] = COLOURS[thing]
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "JPEG")
            member = tarfile.TarInfo(f"images/{number}.jpg")
            member.size = stream.tell()
            stream.seek(0)
            archive.addfile(member, stream)
            sentences = []
            for form in SENTENCES:
                text = form.format(thing=thing, ground=ground)
                tokens = text.split(" ")
                places = (("1", thing, "other"), ("2", ground, "scene"), ("9", thing, "unboxed"))
                phrases = [
                    {"chain": chain, "types": [kind], "start": tokens.index(word), "len": 1}
                    for chain, word, kind in places
                ]
                sentences.append({"text": text, "phrases": phrases})
            box = [left / width, top / height, right / width, bottom / height]
            lines.append(
                {
                    "file": f"{number}.jpg",
                    "split": "train" if number < TRAIN else "dev",
                    "w": width,
                    "h": height,
                    "sentences": sentences,
                    "boxes": {"1": [box], "2": [[0.0, 0.0, 1.0, 1.0]]},
                }
            )
    with gzip.open(folder / "captions.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write("\n".join(json.dumps(line) for line in lines))


def assignments(option: str, values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in (option, f"{key}={value}")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of training, then the same command again with a second epoch asked for."""
    root = tmp_path_factory.mktemp("mmca")
    data, work, weights = root / "pack", root / "work", root / "weights"
    data.mkdir()
    write_pack(data)
    command = ["train", "mmca", "--data", str(data), "--work", str(work), "--mirror"]
    command += ["--weights", str(weights), "--name", "mini", "--proposer-epochs", "2"]
    command += assignments("--model", TINY)
    told = []
    for epochs, joint_from in ((1, 1.0), (2, 0.5)):
        with contextlib.redirect_stderr(io.StringIO()) as stream:
            values = SHORT | {"epochs": epochs, "joint_from": joint_from}
            assert main([*command, *assignments("--set", values)]) == 0
        told.append(stream.getvalue())
    return Run(data, work, weights, *told)


def trainer(run: Run, **changes: object) -> Trainer:
    config = replace(MMCAConfig.small(), **TINY)
    recipe = Recipe(**SHORT | changes)
    source = CachedSource(run.cache, RegionMix(recipe.regions), recipe.longest)
    return Trainer(source, np.arange(TRAIN), config, recipe)


def test_training_tells_finite_losses_and_goes_on_where_it_stopped(run: Run) -> None:
    assert "taken up" not in run.first
    assert "epoch 1/1" in run.first
    assert "taken up after epoch 1" in run.second
    assert "epoch 1/2" not in run.second
    assert "epoch 2/2" in run.second
    for text in (run.first, run.second):
        separable, aligned = (
            [float(v) for v in re.findall(rf"{name} (-?[\d.]+)", text)]
            for name in ("separable", "alignment")
        )
        assert len(separable) == len(aligned) == 1
        assert 0 < separable[0] < 20
        assert 0 < aligned[0] < 20
    assert re.search(r"joint 0\.000, wins 0\.000", run.first)
    assert float(re.search(r"joint ([\d.]+)", run.second)[1]) > 0


def test_second_call_makes_no_cache_again(run: Run) -> None:
    for part in ("feature maps", "token states"):
        assert part in run.first
        assert part not in run.second
    assert run.first.count("feature maps of photographs") == 2  # and mirrored
    assert not list(run.work.rglob("*.part"))


def test_cache_holds_every_photograph_and_sentence(run: Run) -> None:
    cache, rows = run.cache, np.arange(3)
    for flip in (False, True):
        shapes = {stride: tuple(m.shape) for stride, m in cache.maps(rows, flip).items()}
        assert shapes == {8: (3, 48, 40, 40), 16: (3, 120, 20, 20), 32: (3, 1280, 10, 10)}
        for kind in ("proposals", "multiscale", "cells"):
            features, boxes = cache.regions(rows, kind, flip)
            assert features.shape == (3, 36, 1448)
            assert features.isfinite().all()
            assert (boxes[..., 2:] >= boxes[..., :2]).all()
            assert 0 <= boxes.min() <= boxes.max() <= 1
    assert len(cache.offset) == (TRAIN + DEV) * PER_IMAGE + 1
    assert all(cache.ids(c)[0] == 101 and cache.ids(c)[-1] == 102 for c in range(5))


def test_long_sentences_are_cut_and_keep_their_end(run: Run) -> None:
    captions = np.arange(4)
    whole, mask = run.cache.words(captions)
    cut, short = run.cache.words(captions, longest=6)
    assert cut.shape == (4, 6, 768)
    assert short.all()
    assert torch.equal(cut[:, :5], whole[:, :5])
    last = mask.sum(1) - 1
    assert torch.equal(cut[:, 5], whole[torch.arange(4), last])
    assert whole[~mask].abs().sum() == 0


def test_weights_load_strictly_and_are_the_average(run: Run) -> None:
    model = registry.load("mmca", "mini", folder=run.weights)
    state = torch.load(run.checkpoint, weights_only=True)
    assert state["position"][0] == 2
    assert model.config.width == TINY["width"]
    assert model.config.bank == (4, 20)  # of the photographs held out, after training
    assert torch.allclose(model.bank_images.norm(dim=1), torch.ones(()), atol=2e-3)
    for name, value in model.named_parameters():
        assert torch.allclose(value, state["average"][name].float(), rtol=2e-3, atol=2e-3), name
    card = json.loads((run.weights / "regions" / "card.json").read_text())
    assert len(ProposerConfig.from_dict(card["config"]).shapes) == 3
    assert "non-commercial" in card["licence"]


def test_a_resumed_run_is_the_uninterrupted_one(run: Run, tmp_path: Path) -> None:
    whole = trainer(run)
    whole.run_epoch(lambda _: None)
    whole.save(tmp_path / "one.pt")
    whole.run_epoch(lambda _: None)
    resumed = trainer(run)
    resumed.resume(tmp_path / "one.pt")
    assert resumed.epoch == 1
    resumed.run_epoch(lambda _: None)
    assert resumed.epoch == whole.epoch == 2
    steps = {int(s["step"]) for s in resumed.optimiser.state_dict()["state"].values()}
    assert max(steps) == 2 * (TRAIN // SHORT["batch"])
    for (name, one), two in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name


def test_a_loss_that_is_not_finite_stops_the_run(run: Run) -> None:
    broken = trainer(run)
    with torch.no_grad():
        broken.temperatures.separable.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="epoch 0"):
        broken.run_epoch(lambda _: None)


def test_evaluation_prints_figures_in_range(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [photo for photo in read_pack(run.data) if photo.split == "dev"]
    human = tmp_path / "human.csv"
    rows = [
        f'{image.file},"{other.captions[0].text}",{float(image is other)}'
        for image in photos
        for other in photos
    ]
    human.write_text("\n".join(["file,sentence,score", *rows, "absent.jpg,Nothing .,1"]))
    command = ["evaluate", "mmca", "--data", str(run.data), "--full", "--human", str(human)]
    assert main([*command, "--shortlist", "6", "2", "--alphas", "0", "0.5", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["photographs"] == DEV
    assert set(figures["retrieval"]) == {
        "separable",
        "reranked",
        "bank_separable",
        "bank_reranked",
        "alpha_0.0",
        "alpha_0.5",
        "full",
    }
    for found in figures["retrieval"].values():
        for direction in ("i2t", "t2i"):
            one, five, ten = (found[f"{direction}_r{k}"] for k in (1, 5, 10))
            assert 0 <= one <= five <= ten <= 100
        assert found["t2i_r5"] == 100  # four photographs
        assert found["mean_recall"] == pytest.approx(found["rsum"] / 6)
    assert 0 < figures["retrieval"]["reranked"]["pairs_of_all_percent"] <= 100
    assert set(figures["proposal_recall_36"]) == {"proposals", "multiscale", "cells"}
    assert all(0 <= value <= 100 for value in figures["proposal_recall_36"].values())
    assert set(figures["grounding"]) == {"map", "baselines", "untrained"}
    assert figures["human"]["pairs"] == DEV * DEV
    assert -1 <= figures["human"]["kendall_tau"] <= 1


def test_evaluation_of_a_split_or_a_photograph_that_is_not_there(run: Run, tmp_path: Path) -> None:
    options = Namespace(data=run.data, split="nowhere", limit=0)
    with pytest.raises(CrossfuseError, match="no photograph of the split 'nowhere'"):
        recipe_of_mmca.evaluate(options)
    with pytest.raises(CrossfuseError, match=r"lacks 1 photographs, first gone\.jpg"):
        encode_photos(run.data, [CaptionedPhoto("gone.jpg", "dev", ())], "cells")


@pytest.mark.parametrize(
    ("text", "told"), [("colour=1", "no field 'colour'"), ("batch=many", "not FIELD=JSON")]
)
def test_a_wrong_assignment_says_so(text: str, told: str) -> None:
    with pytest.raises(CrossfuseError, match=told):
        recipe_of_mmca._assignments([text], Recipe)
    assert recipe_of_mmca._assignments(["windows=[1, 2]"], MMCAConfig) == {"windows": (1, 2)}


def perfect(count: int = 3) -> tuple[MMCA, Encoded]:
    """Every sentence has the embedding of its photograph, and the cross unit does not count."""
    torch.manual_seed(0)
    model = MMCA(replace(MMCAConfig.tiny(), alpha=0.0)).eval()
    inputs = model.example_inputs(model.config, count * PER_IMAGE)
    with torch.no_grad():
        images = model.encode_images(inputs["regions"][:count], inputs["boxes"][:count])
        sentences = model.encode_sentences(inputs["words"], inputs["word_mask"])
    unit = torch.eye(count, images.embedding.shape[1])
    return model, Encoded(
        ImageStates(images.tokens, images.mask, unit),
        SentenceStates(sentences.tokens, sentences.mask, unit.repeat_interleave(PER_IMAGE, 0)),
        inputs["boxes"][:count],
        np.arange(count),
    )


def test_perfect_scores_find_everything_first() -> None:
    model, encoded = perfect()
    figures = retrieval_figures(model, encoded, (5, 1), (0.0,))
    figures["full"] = full_figures(model, encoded)
    for name, found in figures.items():
        assert found["i2t_r1"] == found["t2i_r1"] == found["mean_recall"] == 100, name
    assert figures["reranked"]["shortlist_recall_t2i"] == 100
    assert figures["reranked"]["pairs_scored"] == 3 * PER_IMAGE


def test_human_scores_like_the_models_agree_and_bad_files_are_told(
    run: Run, tmp_path: Path
) -> None:
    photos = read_pack(run.data)[:3]
    model, encoded = perfect()
    path = tmp_path / "scores.csv"
    lines = [f'{a.file},"{b.captions[0].text}",{int(a is b)}' for a in photos for b in photos]
    path.write_text("\n".join(["file,sentence,score", *lines]))
    found = human_correlation(model, encoded, photos, path)
    assert found["pairs"] == 9
    assert found["kendall_tau"] == pytest.approx(1)
    assert found["spearman_rho"] == pytest.approx(1)
    path.write_text("\n".join(["file,sentence,score", *lines[:2]]))
    with pytest.raises(CrossfuseError, match="2 rows of this split"):
        human_correlation(model, encoded, photos, path)
    path.write_text("picture,score\n1.jpg,2")
    with pytest.raises(CrossfuseError, match="needs file, sentence, score"):
        human_correlation(model, encoded, photos, path)


def test_proposals_that_are_the_truth_reach_all_of_it() -> None:
    boxes = np.array([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]], np.float32)
    assert proposal_recall([boxes], [boxes]) == 100
    assert proposal_recall([boxes], [boxes[:1]]) == 50
    assert proposal_recall([boxes], [boxes[:0]]) == 0


def test_phrase_map_is_a_distribution_over_regions() -> None:
    block = np.random.default_rng(0).random((2, 4, 5)).astype(np.float16)
    assert phrase_map(block, np.array([1, 2]), None).sum() == pytest.approx(1)
    one = phrase_map(block, np.array([1]), [1])
    assert np.allclose(one, block[1, 1] / block[1, 1].astype(float).sum(), atol=1e-6)


def test_anchor_shapes_find_the_sizes_that_there_are() -> None:
    rng = np.random.default_rng(0)
    sides = np.repeat([[0.1, 0.2], [0.8, 0.7]], 30, axis=0) * rng.uniform(0.95, 1.05, (60, 2))
    corner = rng.uniform(0, 0.15, (60, 2))
    small, middle, large = anchor_shapes(np.concatenate([corner, corner + sides], 1), (1, 1, 2))
    assert np.allclose(small, [[0.1, 0.2]], rtol=0.06)
    assert np.allclose(large, [[0.8, 0.7]] * 2, rtol=0.06)
    assert len(middle) == 1  # no box has that size: one of all shapes stands in


def test_generalised_iou_by_hand() -> None:
    here = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.25, 1.0]])
    there = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.75, 0.0, 1.0, 1.0]])
    iou, giou = pair_giou(here, there)
    assert torch.allclose(iou, torch.tensor([1.0, 0.0]))
    assert torch.allclose(giou, torch.tensor([1.0, -0.5]))


def test_a_second_pair_is_trained_beside_a_model(run: Run, tmp_path: Path) -> None:
    """Over cached patch tokens, taken up again from its checkpoint; the model's part is kept."""
    torch.manual_seed(0)
    model = MMCA(replace(MMCAConfig.small(), **TINY, feature_dropout=0.0)).eval()
    recipe = replace(scene_recipe(0), **{**SHORT, "joint": 0.0, "alignment": 0.0})
    said: list[str] = []
    both = add_scene(model, run.data, tmp_path, "mini", recipe, False, said.append)
    again = add_scene(model, run.data, tmp_path, "mini", recipe, False, said.append)
    assert any("taken up after epoch 2" in line for line in said)
    assert both.config.scene_size == SCENE_FEATURES
    assert 0.0 <= both.config.scene_share <= 0.7
    assert both.bank_images.shape == (4, 2 * TINY["width"])
    for name, value in both.state_dict().items():
        assert torch.allclose(value, again.state_dict()[name], atol=1e-5), name
    for name, value in model.separable.state_dict().items():
        assert torch.equal(value, both.separable.state_dict()[name])

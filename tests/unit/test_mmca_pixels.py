"""Training of MMCA from pixels: views, boxes that follow them, encoders tuned and stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossfuse.encoders.image import MEAN, SCALE, load_image_encoder
from crossfuse.encoders.regions import SIDE, load_region_encoder, squashed
from crossfuse.encoders.text import MiniLM
from crossfuse.encoders.tuned import TunedEncoders, tuned_minilm, tuned_tail
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCAConfig
from crossfuse.training import mmca_variants
from crossfuse.training.mmca_pixels import (
    augmented,
    filled,
    left_and_right,
    moved,
    whole,
)
from crossfuse.training.mmca_trainer import Recipe
from crossfuse.training.mmca_variants import VARIANTS, Stock, split_rows


@pytest.fixture(scope="module")
def text() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def stock(text: MiniLM) -> Stock:
    """Eight grey photographs with one white square each, and five sentences for each."""
    rng = np.random.default_rng(0)
    pixels = torch.full((8, 3, 224, 224), 90, dtype=torch.uint8)
    boxes = torch.zeros(8, 36, 4)
    for row in range(8):
        x, y = (int(v) for v in rng.integers(0, 120, 2))
        pixels[row, :, y : y + 80, x : x + 80] = 240
        boxes[row, :3] = torch.tensor([x, y, x + 80, y + 80]) / 224
    texts = [f"a square on the left number {n}" for n in range(40)]
    encodings = text.tokenizer.encode_batch(texts)
    ids = torch.tensor([e.ids for e in encodings])
    network = load_image_encoder("lite2").network
    return Stock(pixels, boxes, ids, [e.offsets for e in encodings], network, text)


def test_boxes_follow_a_cut_and_a_mirrored_view() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.75, 1.0], [0.0, 0.0, 0.3, 1.0], [0.0, 0, 0, 0]]])
    window = torch.tensor([[0.25, 0.0, 0.5, 1.0]])
    plain, mask = moved(boxes, window, torch.tensor([False]))
    assert torch.allclose(plain[0, 0], torch.tensor([0.5, 0.5, 1.0, 1.0]))
    assert mask.tolist() == [[True, False, False]]  # a sixth of the second one is left
    turned, _ = moved(boxes, window, torch.tensor([True]))
    assert torch.allclose(turned[0, 0], torch.tensor([0.0, 0.5, 0.5, 1.0]))


def test_the_moved_box_lies_on_the_thing_in_the_view(stock: Stock) -> None:
    torch.manual_seed(1)
    views, window, mirrored = augmented(stock.pixels, 128)
    boxes, mask = moved(stock.boxes, window, mirrored)
    assert views.shape == (8, 3, 128, 128)
    assert mirrored.any()
    assert not mirrored.all()
    inside = []
    for view, box, real in zip(views, boxes[:, 0], mask[:, 0], strict=True):
        if real:
            x0, y0, x1, y1 = (box * 128).round().int().tolist()
            bright = view.mean(0) > 0.5
            inside.append(float(bright[y0:y1, x0:x1].float().mean()))
    assert len(inside) >= 4
    assert np.median(inside) > 0.9


def test_a_whole_photograph_is_what_the_page_encodes() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    here = whole(torch.from_numpy(pixels).permute(2, 0, 1)[None], SIDE)
    there = (torch.from_numpy(squashed(pixels).copy()).permute(2, 0, 1).float() - MEAN) / SCALE
    assert (here[0] - there).abs().max() <= 1.01 / SCALE  # rounding of one grey level


def test_missing_boxes_repeat_the_last_or_are_the_frame() -> None:
    boxes = torch.zeros(2, 36, 4)
    boxes[0, 0] = torch.tensor([0.1, 0.1, 0.2, 0.2])
    full = filled(boxes)
    assert torch.equal(full[0], boxes[0, :1].expand(36, 4))
    assert torch.equal(full[1], torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(36, 4))


def test_left_and_right_change_places(text: MiniLM) -> None:
    table = left_and_right(text)
    left, right, dog = (text.tokenizer.token_to_id(w) for w in ("left", "right", "dog"))
    assert table[[left, right, dog]].tolist() == [right, left, dog]


def test_held_out_rows_are_the_same_in_every_run() -> None:
    learnt, held_out = split_rows(np.arange(100), 50)
    assert len(held_out) == 12
    assert not set(learnt) & set(held_out)
    assert np.array_equal(held_out, split_rows(np.arange(100), 50)[1])


@pytest.mark.parametrize("name", ["whole", "no_cross_unit", "image_frozen", "words_from_scratch"])
def test_each_variant_trains_what_it_should(stock: Stock, name: str) -> None:
    recipe = Recipe(
        batch=4, regions=4, side=64, warmup=1, epochs=1, tune_from=0.0, joint_from=0.0,
        cross_batch=4, negatives=1, joint_every=1, image_rate=1e-3, text_rate=1e-3, held_out=0,
    )  # fmt: skip
    config = replace(MMCAConfig.small(), width=16, heads=2, feedforward=24, convolution=6)
    told: list[str] = []
    # Two epochs, since the encoders' rate starts from zero.
    trainer = mmca_variants.run(
        stock, np.arange(8), replace(recipe, epochs=2), config, VARIANTS[name], told.append
    )
    assert len(told) == 2
    fresh = TunedEncoders(stock.network, stock.text.bert)
    encoders = trainer.source.encoders
    assert encoders is not None

    def moved_by(part: str, key: str) -> float:
        now, before = (getattr(e, part).state_dict()[key] for e in (encoders, fresh))
        return float((now - before).abs().max())

    image, low, high = (
        "head.weight",
        "table.encoder/layer/0/output/dense/weight",
        ("table.encoder/layer/5/output/dense/weight"),
    )
    assert (moved_by("image", image) > 0) == (name != "image_frozen")
    assert moved_by("text", high) > 0
    assert (moved_by("text", low) > 0) == (name == "words_from_scratch")
    depthwise = next(
        k for k, v in fresh.image.state_dict().items() if v.dim() == 4 and v.shape[1] == 1
    )
    assert moved_by("image", depthwise) == 0


def test_tuned_weights_come_back_into_both_encoders(stock: Stock, text: MiniLM) -> None:
    encoders = TunedEncoders(stock.network, text.bert)
    with torch.no_grad():
        encoders.image.head.bias.add_(1.0)
        encoders.text_parameters()["encoder.layer.5.output.dense.bias"][0] += 5.0
    state = {k: v.clone() for k, v in encoders.changed().items()}
    tail = tuned_tail(stock.network, state)
    fine = torch.randn(1, 48, 8, 8)
    assert torch.allclose(tail(fine)[32], encoders.image(fine)[32])
    assert set(tail(fine)) == {8, 16, 32}
    sentence = "two dogs play"
    plain, tuned = text.encode([sentence])[0], tuned_minilm(state).encode([sentence])[0]
    assert torch.equal(plain.states[:, :384], tuned.states[:, :384])  # layer 3 stays
    assert (plain.states[:, 384:] - tuned.states[:, 384:]).abs().max() > 0.05
    state.pop("image.head.bias")
    with pytest.raises(CrossfuseError, match="does not fit"):
        tuned_tail(stock.network, state)
    with pytest.raises(CrossfuseError, match="does not fit MiniLM"):
        tuned_minilm({"text.encoder.layer.9.bias": torch.zeros(3)})


def test_an_unchanged_tail_gives_the_features_of_the_published_encoder(stock: Stock) -> None:
    encoder = load_region_encoder()
    photo = np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)
    plain = encoder.encode([photo])[0]
    encoder.tail = tuned_tail(
        stock.network, TunedEncoders(stock.network, stock.text.bert).changed()
    )
    again = encoder.encode([photo])[0]
    assert torch.equal(plain.boxes, again.boxes)
    assert torch.allclose(plain.features, again.features, atol=1e-4)


def test_boxes_from_a_file_are_checked(stock: Stock, tmp_path: Path) -> None:
    path, before = tmp_path / "boxes.npy", stock.boxes
    np.save(path, before.numpy().astype(np.float16))
    stock.read_boxes(path)
    assert torch.allclose(stock.boxes, before, atol=1e-3)
    np.save(path, np.zeros((3, 36, 4), np.float16))
    with pytest.raises(CrossfuseError, match="must hold boxes"):
        stock.read_boxes(path)

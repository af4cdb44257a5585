"""The region proposer: choice of boxes, assignment of anchors, views of a photograph, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossfuse.encoders.efficientnet_lite import EfficientNetLite
from crossfuse.encoders.image import load_image_encoder
from crossfuse.encoders.proposer import (
    CHANNELS,
    ProposerConfig,
    RegionProposer,
    box_iou,
    choose_boxes,
)
from crossfuse.training.mmca_regions import (
    anchor_shapes,
    assign,
    candidates,
    pad_boxes,
    plain_view,
    proposer_loss,
    random_view,
    recall_at,
    train_proposer,
)

THINGS = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.6, 0.1, 0.8, 0.3]])


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    return load_image_encoder("lite2").network


def small(boxes: np.ndarray | None = None) -> RegionProposer:
    torch.manual_seed(0)
    shapes = anchor_shapes(THINGS.numpy() if boxes is None else boxes, (1, 1, 2))
    return RegionProposer(ProposerConfig(width=16, shapes=shapes))


def test_choice_spreads_and_drops_duplicates_and_slivers() -> None:
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.49], [0.5, 0.5, 1, 1], [0, 0, 0.001, 1]])
    scores = torch.tensor([0.9, 0.8, 0.3, 0.95])
    chosen, found = choose_boxes(boxes[None], scores[None], 36, 0.65)
    assert found.tolist() == [2]
    assert torch.equal(chosen[0, :2], boxes[[0, 2]])
    assert torch.equal(chosen[0, 2:], torch.tensor([0.0, 0, 1, 1]).expand(34, 4))
    assert choose_boxes(boxes[None, 3:], torch.ones(1, 1), 36, 0.65)[1].tolist() == [0]
    every, found = choose_boxes(boxes[None], scores[None], 2, 1.0)
    assert found.tolist() == [2]
    assert torch.equal(every[0], boxes[:2])


def test_choice_of_a_photograph_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    corner = torch.rand(3, 200, 2) * 0.6
    boxes = torch.cat([corner, corner + 0.05 + 0.3 * torch.rand(3, 200, 2)], -1)
    scores = torch.rand(3, 200)
    together, _ = choose_boxes(boxes, scores, 9, 0.4)
    for row in range(3):
        alone, _ = choose_boxes(boxes[row : row + 1], scores[row : row + 1], 9, 0.4)
        assert torch.equal(alone[0], together[row])
        overlaps = box_iou(alone[0], alone[0]).fill_diagonal_(0)
        assert overlaps.max() <= 0.4


def test_tuned_stage_starts_as_the_encoders_own(network: EfficientNetLite) -> None:
    model = small()
    model.stage.start_from(network)
    with torch.no_grad():
        maps = network.pyramid(torch.randn(1, 3, 96, 96), (8, 16, 32))
        assert torch.equal(model.stage(maps[8]), maps[16])
        assert torch.equal(network(torch.ones(1, 3, 64, 64), 32), network.pyramid(
            torch.ones(1, 3, 64, 64), (32,))[32])  # fmt: skip


def test_anchors_match_the_order_of_the_outputs() -> None:
    model = small().eval()
    for out in model.outs:
        torch.nn.init.zeros_(out.weight)  # type: ignore[arg-type]
    maps = {s: torch.randn(1, c, 160 // s, 160 // s) for s, c in CHANNELS.items()}
    boxes, logits = model(maps)
    anchors = model.anchors(5)
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    assert torch.allclose(boxes[0], torch.cat([low, high], 1).clamp(0, 1), atol=1e-6)
    assert torch.equal(logits, torch.full_like(logits, -4.0))


def test_every_true_box_gets_an_anchor_and_no_anchor_two() -> None:
    model = small()
    anchors = model.anchors()
    low, high = anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2
    boxes = torch.cat([low, high], 1).clamp(0, 1)[None].expand(2, -1, -1)
    tiny = torch.tensor([0.42, 0.42, 0.44, 0.44])
    truth = torch.stack([torch.cat([THINGS, tiny[None]])] * 2)
    real = torch.tensor([[True, True, True], [True, False, False]])
    own, target = assign(boxes, torch.full(boxes.shape[:2], 0.02), anchors, truth, real)
    for row, count in ((0, 3), (1, 1)):
        taken = own[row, target[row] > 0].unique(dim=0)
        assert len(taken) == count
    iou = box_iou(THINGS[:1], boxes[0]).max()
    assert target[1].max().item() == pytest.approx(float(iou), abs=1e-4)


def test_plain_view_is_what_the_page_sees() -> None:
    from crossfuse.encoders.image import MEAN, SCALE
    from crossfuse.encoders.regions import squashed

    photo = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    view = plain_view(torch.from_numpy(photo).permute(2, 0, 1)[None])[0] * SCALE + MEAN
    there = torch.from_numpy(squashed(photo).copy()).permute(2, 0, 1).float()
    assert (view - there).abs().max() <= 1


def test_boxes_move_with_the_picture() -> None:
    """A white box on black is where the moved box says, in every view."""
    pixels = torch.zeros(12, 3, 224, 224, dtype=torch.uint8)
    pixels[:, :, 56:168, 84:140] = 255
    box = torch.tensor([84, 56, 140, 168]) / 224
    boxes, real = box.expand(12, 1, 4), torch.ones(12, 1, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    view, moved, left = random_view(pixels, boxes, real, generator)
    assert left.float().mean() > 0.8
    for picture, place in zip(view[left[:, 0]], moved[left[:, 0], 0], strict=True):
        bright = picture.mean(0)
        bright = bright > (bright.max() + bright.min()) / 2
        rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
        seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 320
        assert (seen - place).abs().max() < 0.02


def test_loss_teaches_one_photograph() -> None:
    model = small()
    maps = {s: torch.randn(2, c, 160 // s, 160 // s) for s, c in CHANNELS.items()}
    truth, real = pad_boxes([THINGS.numpy()] * 2, 4)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        proposer_loss(model, maps, truth, real).backward()
        optimiser.step()
    model.train()
    boxes, logits = model(maps)
    chosen, _ = choose_boxes(boxes, logits.sigmoid(), 5, model.config.overlap)
    assert recall_at(chosen, truth, real) == 1.0


def test_photograph_without_boxes_gives_a_finite_loss() -> None:
    model = small()
    maps = {s: torch.randn(1, c, 160 // s, 160 // s) for s, c in CHANNELS.items()}
    truth, real = pad_boxes([np.zeros((0, 4))], 4)
    assert torch.isfinite(proposer_loss(model, maps, truth, real))


def test_training_runs_from_pixels_to_boxes(network: EfficientNetLite) -> None:
    pixels = torch.randint(0, 255, (4, 3, 224, 224), dtype=torch.uint8)
    boxes = [THINGS.numpy()] * 4
    told: list[str] = []
    model = train_proposer(
        network, pixels, boxes, np.arange(4), small().config,
        schedule=lambda step: step / 2, batch=2, log=told.append,
    )  # fmt: skip
    assert "2 steps of 2" in told[-1]
    assert not model.training
    found, scores = candidates(model, network, pixels[:2])
    assert found.shape == (*scores.shape, 4)
    assert bool(found.isfinite().all())
    maps: dict[int, Tensor] = network.pyramid(plain_view(pixels[:1]), (8, 16, 32))
    assert len(model.propose(maps, 36)[0]) == 36


def test_a_mirrored_look_proposes_at_mirrored_places() -> None:
    model = small().eval()
    maps = {s: torch.randn(1, c, 160 // s, 160 // s) for s, c in CHANNELS.items()}
    boxes, logits = model(maps)
    nothing = {s: torch.zeros_like(m) for s, m in maps.items()}
    best = boxes[0, logits[0].argmax()]
    alone = model.propose(maps, 1)[0]
    assert torch.equal(alone[0], best)
    both = model.propose(nothing, 200, mirrored=maps)[0]
    turned = torch.stack([1 - best[2], best[1], 1 - best[0], best[3]])
    assert box_iou(turned[None], both).max() > model.config.overlap


def test_config_survives_a_round_trip() -> None:
    config = ProposerConfig(width=16, overlap=0.5)
    assert ProposerConfig.from_dict(config.to_dict()) == config

"""MMCA trained from pixels, whole or with one part left out: the runs behind the card's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfuse.data.captions import CaptionedPhoto
from crossfuse.encoders.image import EfficientNetLite, load_image_encoder
from crossfuse.encoders.proposer import REGIONS, RegionProposer
from crossfuse.encoders.text import MiniLM
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCAConfig
from crossfuse.training.mmca_evaluation import choose_alpha, encode_split
from crossfuse.training.mmca_pixels import (
    PixelSource,
    SplitFeatures,
    proposed_boxes,
    read_captions,
)
from crossfuse.training.mmca_regions import read_pixels
from crossfuse.training.mmca_sources import RegionMix
from crossfuse.training.mmca_trainer import Recipe, Trainer

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
SHORTLIST = (50, 50)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """What a run changes: fields of recipe and model, and which encoders are trained."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    tune: tuple[str, ...] = ("image", "text")
    from_scratch: bool = False


VARIANTS = {
    "whole": Variant(),
    # Word-region alignment trains queries and keys of the cross unit: no unit, no such term.
    "no_cross_unit": Variant({"joint": 0.0, "alignment": 0.0}, {"alpha": 0.0}),
    "no_self_unit": Variant(model={"image_layers": 0}),
    "words_frozen": Variant(tune=("image",)),
    "image_frozen": Variant(tune=("text",)),
    # Soft targets are MiniLM's: left out, so that nothing of it is in the run.
    "words_from_scratch": Variant({"soft": 0.0, "text_rate": 3e-4}, from_scratch=True),
}


@dataclass
class Stock:
    """A captioned data set on one device: what :class:`PixelSource` draws from."""

    pixels: Tensor
    boxes: Tensor
    ids: Tensor
    ranges: list[list[tuple[int, int]]]
    network: EfficientNetLite
    text: MiniLM

    @classmethod
    def read(
        cls,
        data: Path,
        photos: Sequence[CaptionedPhoto],
        proposer: RegionProposer | Path,
        device: torch.device,
        say: Say,
    ) -> Stock:
        """``proposer``: finds the boxes now; or a file of boxes (see :meth:`read_boxes`)."""
        network, text = load_image_encoder("lite2", device).network, MiniLM()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pixels = read_pixels(data, photos).to(device)
        say(f"{len(pixels)} photographs read")
        ids, ranges = read_captions(photos, text, device)
        stock = cls(pixels, torch.empty(0), ids, ranges, network, text)
        if isinstance(proposer, Path):
            stock.read_boxes(proposer)
        else:
            stock.boxes = proposed_boxes(pixels, network, proposer.to(device), say)
        return stock

    def read_boxes(self, path: Path) -> None:
        """Boxes from an ``.npy`` (N, 36, 4) in 0...1, zero where a photograph has fewer.

        Raises:
            CrossfuseError: another shape, or values out of 0...1.
        """
        boxes = np.load(path, allow_pickle=False)
        if boxes.shape != (len(self.pixels), REGIONS, 4) or not (
            boxes.min() >= -0.01 and boxes.max() <= 1.01
        ):
            raise CrossfuseError(
                f"{path} must hold boxes ({len(self.pixels)}, {REGIONS}, 4) in 0...1; it has "
                f"{boxes.shape}."
            )
        self.boxes = torch.from_numpy(boxes.astype(np.float32)).clamp(0, 1).to(self.pixels.device)

    def source(self, recipe: Recipe, variant: Variant) -> PixelSource:
        return PixelSource(
            self.pixels, self.boxes, self.ids, self.network, self.text,
            RegionMix(recipe.regions), longest=recipe.longest, side=recipe.side,
            tune=variant.tune, from_scratch=variant.from_scratch,
        )  # fmt: skip


def split_rows(rows: np.ndarray, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Train rows -> those learnt from and those held out (at most an eighth), always the same."""
    order = np.random.default_rng(0).permutation(rows)
    count = min(held_out, len(rows) // 8)
    return np.sort(order[count:]), np.sort(order[:count])


def run(
    stock: Stock,
    rows: np.ndarray,
    recipe: Recipe,
    config: MMCAConfig,
    variant: Variant,
    say: Say,
    checkpoint: Path | None = None,
    after_epoch: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Train, and choose alpha on the rows held out; ``trainer.average`` is the result."""
    recipe, config = replace(recipe, **variant.recipe), replace(config, **variant.model)
    learnt, held_out = split_rows(rows, recipe.held_out)
    torch.manual_seed(recipe.seed)  # of the words from scratch
    trainer = Trainer(stock.source(recipe, variant), learnt, config, recipe)
    trainer.run(say, checkpoint, after_epoch)
    if len(held_out):
        settle(trainer, held_out, say)
    return trainer


def settle(trainer: Trainer, held_out: np.ndarray, say: Say) -> None:
    """What photographs held out of training are for: alpha of the averaged model, and its bank."""
    source, model = trainer.source, trainer.average
    assert isinstance(source, PixelSource)
    assert trainer.average_encoders is not None
    features = SplitFeatures(source, trainer.average_encoders)
    encoded = encode_split(model, features, held_out, "proposals")
    if trainer.recipe.joint:
        alpha = choose_alpha(model, encoded, SHORTLIST, ALPHAS)
        say(f"alpha {alpha} is best on {len(held_out)} photographs held out")
        model.config = replace(model.config, alpha=alpha)
    model.keep_bank(encoded.images.embedding, encoded.sentences.embedding)

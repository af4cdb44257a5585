"""MMCA training from pixels: augmentation on the device, encoders trained with the model.

All photographs (224 x 224, uint8) and word pieces lie on the device; a step cuts, mirrors and
colours its photographs anew. Boxes follow the cut, and "left" and "right" change places in the
sentences of a mirrored photograph. Training looks at ``side`` = 256 px, cut out; the page and the
evaluation look at the whole frame at 320 px: things have about the same size in both (Touvron et
al., "Fixing the train-test resolution discrepancy", NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.data.captions import PER_IMAGE, CaptionedPhoto
from crossfuse.encoders.image import MEAN, SCALE, EfficientNetLite
from crossfuse.encoders.proposer import REGIONS, RegionProposer
from crossfuse.encoders.regions import SIDE, grid_boxes, multiscale_boxes, pool_regions
from crossfuse.encoders.text import TAKEN_LAYERS, Bert, MiniLM
from crossfuse.encoders.tuned import SPLIT, TunedEncoders
from crossfuse.training.mmca_sources import RegionMix, Views

VISIBLE = 0.35  # a box counts in a cut photograph if at least this share of it is in


class PixelSource:
    """Views of photographs and token states of sentences, through encoders that can be trained.

    Args:
        pixels: (N, 3, 224, 224) uint8; boxes: (N, 36, 4) in 0...1, best first, without area where
            a photograph has fewer; ids: (5 N, n) word pieces, 0 where padded; all on one device.
        tune: which of "image" and "text" are trained.
        from_scratch: the text encoder starts from random weights instead of MiniLM's.
    """

    def __init__(
        self,
        pixels: Tensor,
        boxes: Tensor,
        ids: Tensor,
        network: EfficientNetLite,
        text: MiniLM,
        mix: RegionMix,
        *,
        longest: int = 22,
        side: int = 256,
        tune: Sequence[str] = ("image", "text"),
        from_scratch: bool = False,
    ) -> None:
        self.pixels, self.boxes, self.ids = pixels, boxes, ids
        self.device, self.mix, self.side = pixels.device, mix, side
        self.short, self.swap = _cut(ids, longest), left_and_right(text).to(self.device)
        self.network = network.to(self.device)
        self.means = caption_means(text.bert.to(self.device), ids)
        self.encoders = TunedEncoders(network, text.bert).to(self.device)
        if from_scratch:
            self.encoders.forget_words()
        self.encoders.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if "image" in tune:
            for parameter in self.encoders.image.tunable():
                parameter.requires_grad_(True)
        if "text" in tune:
            for parameter in self.encoders.text_parameters().values():
                parameter.requires_grad_(True)

    def statistics(self, rows: np.ndarray, sample: int = 600) -> tuple[Tensor, Tensor]:
        chosen = rows[:: max(1, len(rows) // sample)]
        features = self.features(chosen, "proposals", self.encoders)[0].flatten(0, 1)
        return features.mean(0), 1.0 / features.std(0).clamp(min=1e-3)

    def images(self, rows: np.ndarray, rng: np.random.Generator, tune: bool) -> Views:
        index = torch.from_numpy(rows).to(self.device)
        x, window, mirrored = augmented(self.pixels[index], self.side)
        kind = self.mix.draw(rng)
        if kind == "proposals":
            boxes, mask = moved(self.boxes[index], window, mirrored)
        else:
            fixed = fixed_boxes(kind).to(self.device)
            boxes = fixed.expand(len(rows), *fixed.shape)
            mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=self.device)
        order = (torch.rand(mask.shape, device=self.device) + 10.0 * ~mask).argsort(1)
        order = order[:, : self.mix.count]
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        mask = mask.gather(1, order)
        # Where a cut has left no box, the whole view is one.
        empty = ~mask.any(1)
        boxes[:, 0] = torch.where(empty[:, None], boxes.new_tensor([0.0, 0, 1, 1]), boxes[:, 0])
        mask[:, 0] |= empty
        with torch.set_grad_enabled(tune and torch.is_grad_enabled()):
            features = pool_regions(self._maps(x, self.encoders), boxes)
        return Views(features, boxes, mask, mirrored)

    def words(self, captions: np.ndarray, mirrored: Tensor, tune: bool) -> tuple[Tensor, Tensor]:
        ids = self.short[torch.from_numpy(captions).to(self.device)]
        ids = torch.where(mirrored[:, None], self.swap[ids], ids)
        with torch.set_grad_enabled(tune and torch.is_grad_enabled()):
            return _states(self.encoders.text, ids), ids > 0

    def _maps(self, x: Tensor, encoders: TunedEncoders) -> dict[int, Tensor]:
        with torch.no_grad():
            fine = self.network(x, SPLIT)
        return encoders.image(fine)

    @torch.no_grad()
    def features(
        self, rows: np.ndarray, kind: str, encoders: TunedEncoders, chunk: int = 64
    ) -> tuple[Tensor, Tensor]:
        """Region features (B, 36, C) and boxes of whole photographs, as the page sees them."""
        found, places = [], []
        for start in range(0, len(rows), chunk):
            index = torch.from_numpy(rows[start : start + chunk]).to(self.device)
            if kind == "proposals":
                boxes = filled(self.boxes[index])
            else:
                boxes = fixed_boxes(kind).to(self.device).expand(len(index), REGIONS, 4)
            maps = self._maps(whole(self.pixels[index], SIDE), encoders)
            found.append(pool_regions(maps, boxes))
            places.append(boxes)
        return torch.cat(found), torch.cat(places)

    @torch.no_grad()
    def states(self, captions: np.ndarray, encoders: TunedEncoders) -> tuple[Tensor, Tensor]:
        """Token states and mask of whole sentences."""
        ids = self.ids[torch.from_numpy(captions).to(self.device)]
        ids = ids[:, : int((ids > 0).sum(1).max())]
        return _states(encoders.text, ids), ids > 0


class SplitFeatures:
    """A source's features as evaluation reads them (whole photographs and sentences)."""

    def __init__(self, source: PixelSource, encoders: TunedEncoders) -> None:
        self.source, self.encoders = source, encoders
        lengths = (source.ids > 0).sum(1).cpu().numpy()
        self.offset = np.concatenate([[0], np.cumsum(lengths)])

    def regions(self, rows: np.ndarray, kind: str) -> tuple[Tensor, Tensor]:
        return self.source.features(rows, kind, self.encoders)

    def words(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.source.states(captions, self.encoders)


def augmented(pixels: Tensor, side: int, least: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs cut, mirrored, coloured and partly blanked: a new draw each.

    Args:
        pixels: (B, 3, H, W) uint8.
        least: the smallest share of the frame that a cut keeps.

    Returns:
        (B, 3, side, side) normalised for the encoder, the window (B, 4) as x, y, width, height in
        0...1 of the frame, and which are mirrored (B,).
    """
    count, device = len(pixels), pixels.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, device=device) * (high - low) + low

    area, ratio = draw(least, 1.0), draw(-0.2, 0.2).exp()
    uncut = draw(0, 1) < 0.2
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1.0)
    size = torch.where(uncut[:, None], torch.ones_like(size), size)
    corner = draw(0, 1, 2) * (1.0 - size)
    mirrored = draw(0, 1) < 0.5
    place = (torch.arange(side, device=device) + 0.5) / side
    across = torch.where(mirrored[:, None], 1.0 - place, place)
    x = corner[:, :1] + size[:, :1] * across
    y = corner[:, 1:] + size[:, 1:] * place
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    view = F.grid_sample(
        pixels.float(), grid * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    grey = view.mean(1, keepdim=True)
    view = grey + (view - grey) * draw(0.7, 1.3, 1, 1, 1)
    middle = view.mean((1, 2, 3), keepdim=True)
    view = middle + (view - middle) * draw(0.7, 1.3, 1, 1, 1) + draw(-25, 25, 1, 1, 1)
    hole, hole_side = draw(-0.1, 0.9, 2), draw(0.1, 0.35, 2) * (draw(0, 1) < 0.3)[:, None]
    in_x = (place - hole[:, :1]).abs() * 2 < hole_side[:, :1]
    in_y = (place - hole[:, 1:]).abs() * 2 < hole_side[:, 1:]
    view = view.clamp(0, 255).masked_fill((in_y[:, :, None] & in_x[:, None])[:, None], MEAN)
    view = (view - MEAN) / SCALE
    return (
        view.contiguous(memory_format=torch.channels_last),
        torch.cat([corner, size], 1),
        mirrored,
    )


def moved(boxes: Tensor, window: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) of the frame as boxes of a window of it, and which of them count (B, N)."""
    corner, size = window[:, None, :2], window[:, None, 2:]
    low, high = (boxes[..., :2] - corner) / size, (boxes[..., 2:] - corner) / size
    before = (high - low).prod(-1)
    low, high = low.clamp(0, 1), high.clamp(0, 1)
    mask = ((high - low).prod(-1) >= VISIBLE * before) & (before > 0)
    turned = mirrored[:, None]
    left = torch.where(turned, 1 - high[..., 0], low[..., 0])
    right = torch.where(turned, 1 - low[..., 0], high[..., 0])
    return torch.stack([left, low[..., 1], right, high[..., 1]], -1), mask


def filled(boxes: Tensor) -> Tensor:
    """(B, 36, 4): boxes without area replaced by the last one that has some, or by the frame."""
    real = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    last = (real.sum(1) - 1).clamp(min=0)
    stand_in = boxes[torch.arange(len(boxes), device=boxes.device), last]
    frame = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    stand_in = torch.where(real.any(1, keepdim=True), stand_in, frame)
    return torch.where(real[..., None], boxes, stand_in[:, None])


def whole(pixels: Tensor, side: int) -> Tensor:
    """Whole photographs at ``side`` px, normalised for the encoder."""
    grown = F.interpolate(pixels.float(), (side, side), mode="bilinear", align_corners=False)
    grown = (grown.round() - MEAN) / SCALE
    return grown.contiguous(memory_format=torch.channels_last)


def fixed_boxes(kind: str) -> Tensor:
    return grid_boxes() if kind == "cells" else multiscale_boxes()


def left_and_right(text: MiniLM) -> Tensor:
    """A table of word pieces in which "left" and "right" have changed places."""
    table = torch.arange(text.tokenizer.get_vocab_size())
    left, right = (text.tokenizer.token_to_id(word) for word in ("left", "right"))
    table[left], table[right] = right, left
    return table


def _cut(ids: Tensor, longest: int) -> Tensor:
    """Sentences cut to ``longest`` pieces; the last piece ([SEP]) is kept."""
    lengths = (ids > 0).sum(1)
    short = ids[:, :longest].clone()
    ends = ids.gather(1, (lengths - 1)[:, None])
    long = (lengths > longest).nonzero()[:, 0]
    short[long, -1] = ends[long, 0]
    return short


def _states(bert: Bert, ids: Tensor) -> Tensor:
    hidden = bert(ids, ids > 0)
    return torch.cat([hidden[layer] for layer in TAKEN_LAYERS], -1)


@torch.no_grad()
def caption_means(bert: nn.Module, ids: Tensor, chunk: int = 1024) -> Tensor:
    """Unit mean of the published last layer over each caption's pieces: (captions, 384)."""
    means = []
    for start in range(0, len(ids), chunk):
        some = ids[start : start + chunk]
        mask = (some > 0)[..., None]
        means.append((bert(some, some > 0)[-1] * mask).sum(1))
    return F.normalize(torch.cat(means), dim=-1)


def read_captions(
    photos: Sequence[CaptionedPhoto], text: MiniLM, device: torch.device
) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    """All captions, five a photograph: word pieces (5 N, longest), 0 where padded, and ranges.

    The ranges say which characters of its caption each piece stands for.
    """
    texts = [caption.text for photo in photos for caption in photo.captions[:PER_IMAGE]]
    encodings = text.tokenizer.encode_batch(texts)
    ids = np.zeros((len(texts), max(len(e.ids) for e in encodings)), np.int64)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
    return torch.from_numpy(ids).to(device), [encoding.offsets for encoding in encodings]


@torch.inference_mode()
def proposed_boxes(
    pixels: Tensor,
    network: EfficientNetLite,
    proposer: RegionProposer,
    say: Callable[[str], None],
    chunk: int = 100,
) -> Tensor:
    """The proposer's boxes of all photographs: (N, 36, 4), zero where there are fewer."""
    boxes = pixels.new_zeros((len(pixels), REGIONS, 4), dtype=torch.float32)
    for start in range(0, len(pixels), chunk):
        x, maps = whole(pixels[start : start + chunk], SIDE), {}
        fine = network.stem(x)
        ends = {network.ends[stride]: stride for stride in (8, 16)}
        for index, block in enumerate(network.blocks, start=1):
            fine = block(fine)
            if index in ends:
                maps[ends[index]] = fine
        maps[32] = network.head(fine)
        for row, own in enumerate(proposer.propose(maps, REGIONS), start=start):
            boxes[row, : len(own)] = own
        if start % 1000 == 0:
            say(f"regions of photographs: {start} of {len(pixels)}")
    return boxes

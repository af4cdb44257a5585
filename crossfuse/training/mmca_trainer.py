"""Training of MMCA on captioned photographs, from cached features of frozen encoders.

Two phases, one optimiser:

* **separable**: symmetric InfoNCE (van den Oord et al., 2018) on i0 . c0, some captions a photo,
  partly with soft targets from the text encoder's likeness of captions,
  and the word-region term: InfoNCE on the mean over words of the best region's score, where the
  score is the word -> region attention score of the cross unit (:meth:`MMCA.alignment`). Boxes of
  phrases are never used here: alignment is learnt from which sentence belongs to which photo.
* **joint**: in addition the paper's hinge loss with the hardest negatives, on S(I, T), and a
  cross-entropy over the same candidates. Exact mining would run the cross unit on B x B pairs;
  here i0 . c0 chooses the negatives, and the unit runs on B positives and 2 K B negatives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.data.captions import PER_IMAGE
from crossfuse.encoders.proposer import REGIONS
from crossfuse.models.mmca import MMCA, ImageStates, MMCAConfig, SentenceStates
from crossfuse.training.mmca_cache import FeatureCache


@dataclass(frozen=True)
class Recipe:
    """One training run; the rate falls linearly to zero over the last ``decay_epochs``.

    A step sees ``regions`` of the 36 regions, drawn anew, and sentences cut to ``longest`` pieces:
    a third of the arithmetic, and a strong regulariser.
    """

    batch: int = 200
    captions: int = 2
    regions: int = 16
    longest: int = 22
    rate: float = 1.5e-3
    weight_decay: float = 0.1
    warmup: int = 60
    separable_epochs: int = 4
    joint_epochs: int = 20
    decay_epochs: int = 10
    region_kinds: tuple[str, ...] = ("proposals", "multiscale", "cells")
    region_odds: tuple[float, ...] = (0.65, 0.2, 0.15)
    drop_words: float = 0.15
    drop_regions: float = 0.05
    soft: float = 0.4
    soft_temperature: float = 0.05
    alignment: float = 0.5
    alignment_batch: int = 100
    margin: float = 0.2
    negatives: int = 2
    cross_batch: int = 64
    joint_every: int = 4
    ema: float = 0.99
    seed: int = 0

    @property
    def epochs(self) -> int:
        return self.separable_epochs + self.joint_epochs


class Temperatures(nn.Module):
    """Learnt inverse temperatures (log) of the contrastive terms; used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.separable = nn.Parameter(torch.tensor(math.log(20.0)))
        self.alignment = nn.Parameter(torch.tensor(math.log(20.0)))
        self.pair = nn.Parameter(torch.tensor(math.log(20.0)))

    def of(self, name: str) -> Tensor:
        return getattr(self, name).clamp(max=math.log(80.0)).exp()


def contrast(
    log_odds: Tensor, per_image: int, likeness: Tensor | None = None, soft: float = 0.0
) -> Tensor:
    """InfoNCE both ways. log_odds: (B, B * per_image), captions of one image side by side.

    Image -> caption: each of an image's captions against all captions of other images.

    ``likeness`` (B, B * per_image): how well each caption would do for each image, judged by text
    alone. With ``soft`` > 0 that share of the target is its softmax, so that a caption which could
    as well be of another photograph is not pushed away from it.
    """
    images = len(log_odds)
    log_odds = log_odds.float()
    target = torch.arange(images).repeat_interleave(per_image)
    to_image = F.cross_entropy(log_odds.T, target)
    own = target[None] == torch.arange(images)[:, None]
    others = log_odds.masked_fill(own, -torch.inf).logsumexp(1)
    positive = log_odds[own].view(images, per_image)
    to_caption = (torch.logaddexp(others[:, None], positive) - positive).mean()
    hard = (to_image + to_caption) / 2
    if likeness is None or not soft:
        return hard
    softened = F.cross_entropy(log_odds.T, likeness.T.softmax(1))
    softened = softened + F.cross_entropy(log_odds, likeness.softmax(1))
    return (1.0 - soft) * hard + soft * softened / 2


def word_region_score(scores: Tensor, mask: Tensor) -> Tensor:
    """Mean over real words of the best region's score: (B, n, C, k), (B, n) -> (C, B)."""
    best = scores.amax(-1)
    weights = mask.to(best.dtype)[..., None]
    return ((best * weights).sum(1) / weights.sum(1).clamp(min=1)).T


def hard_negatives(similarity: Tensor, count: int, own: Tensor) -> Tensor:
    """For each row, ``count`` columns drawn from its 2 * count best columns that are not own.

    similarity: (B, B); own: (B, B) bool, True = a true pair. Returns (B, count).
    """
    best = similarity.masked_fill(own, -torch.inf).topk(2 * count, dim=1).indices
    draw = torch.rand(best.shape).argsort(1)[:, :count]
    return best.gather(1, draw)


def joint_loss(
    model: MMCA,
    images: ImageStates,
    sentences: SentenceStates,
    inverse_temperature: Tensor,
    recipe: Recipe,
) -> tuple[Tensor, float]:
    """Hinge with the hardest negative, and cross-entropy, of S over shortlisted candidates.

    Row i of ``images`` belongs to row i of ``sentences``. Returns the loss and the share of rows
    whose true pair beats all its candidates.
    """
    count, negatives = len(images.tokens), recipe.negatives
    with torch.no_grad():
        separable = images.embedding.float() @ sentences.embedding.float().T
        own = torch.eye(count, dtype=torch.bool)
        captions = hard_negatives(separable, negatives, own)
        photos = hard_negatives(separable.T, negatives, own)
    here = torch.arange(count)
    rows = here.repeat_interleave(negatives)
    image_index = torch.cat([here, rows, photos.flatten()])
    sentence_index = torch.cat([here, captions.flatten(), rows])
    out = model.cross(images.take(image_index), sentences.take(sentence_index))
    pair, crossed = out.similarity.float(), out.crossed.float()
    loss, wins = pair.new_zeros(()), 0.0
    for scores, weight in ((pair, 1.0), (crossed, 0.5)):
        positive = scores[:count]
        for part in scores[count:].view(2, count, negatives):
            hinge = (recipe.margin - positive + part.amax(1)).clamp(min=0).mean()
            table = torch.cat([positive[:, None], part], 1) * inverse_temperature
            entropy = F.cross_entropy(table, torch.zeros(count, dtype=torch.long))
            loss = loss + weight * (hinge + 0.5 * entropy)
            if weight == 1.0:
                wins += float((table.argmax(1) == 0).float().mean()) / 2
    return loss, wins


def learning_rate(recipe: Recipe, steps_an_epoch: int, step: int) -> float:
    """Warm-up, stable, linear decay; as a factor of ``recipe.rate``."""
    total, decay = recipe.epochs * steps_an_epoch, recipe.decay_epochs * steps_an_epoch
    return max(0.0, min(1.0, (step + 1) / recipe.warmup, (total - step) / max(1, decay)))


class Trainer:
    """Everything a run needs to go on: model, averaged model, optimiser, position."""

    def __init__(self, cache: FeatureCache, rows: np.ndarray, config: MMCAConfig, recipe: Recipe):
        self.cache, self.rows, self.recipe = cache, rows, recipe
        torch.manual_seed(recipe.seed)
        self.model, self.average = MMCA(config), MMCA(config).requires_grad_(False)
        self.temperatures = Temperatures()
        self.means = sentence_means(cache)
        self.epoch = 0
        groups = [*self.model.parameters(), *self.temperatures.parameters()]
        self.optimiser = torch.optim.AdamW(
            groups, recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )
        mean, scale = feature_statistics(cache, rows, recipe.region_kinds)
        self.model.feature_mean.copy_(mean)
        self.model.feature_scale.copy_(scale)
        self.average.load_state_dict(self.model.state_dict())

    def run_epoch(self, log: Callable[[str], None]) -> None:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.epoch))
        torch.manual_seed(recipe.seed * 1000 + self.epoch)
        joint = self.epoch >= recipe.separable_epochs
        order = rng.permutation(self.rows)
        steps = len(order) // recipe.batch
        sums = dict.fromkeys(("separable", "alignment", "joint", "wins"), 0.0)
        self.model.train()
        start = time.time()
        for step in range(steps):
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            factor = learning_rate(recipe, steps, self.epoch * steps + step)
            for group in self.optimiser.param_groups:
                group["lr"] = recipe.rate * factor
            with torch.autocast("cpu", torch.bfloat16):
                loss, parts = self._loss(rows, rng, joint and step % recipe.joint_every == 0)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
            self.optimiser.step()
            self._update_average(self.epoch * steps + step)
            for name, value in parts.items():
                sums[name] += value / steps
            if not math.isfinite(float(loss.detach())):
                raise FloatingPointError(f"the loss is not finite: epoch {self.epoch}, {parts}")
        self.epoch += 1
        told = ", ".join(f"{name} {value:.3f}" for name, value in sums.items())
        log(f"epoch {self.epoch}/{recipe.epochs}: {told}; {time.time() - start:.0f} s")

    def _loss(
        self, rows: np.ndarray, rng: np.random.Generator, joint: bool
    ) -> tuple[Tensor, dict[str, float]]:
        recipe, model = self.recipe, self.model
        regions, boxes = self._read_regions(rows, rng)
        region_mask = torch.rand(regions.shape[:2]) >= recipe.drop_regions
        region_mask[:, 0] = True
        images = model.encode_images(regions, boxes, region_mask)
        which = np.argsort(rng.random((len(rows), PER_IMAGE)), axis=1)[:, : recipe.captions]
        words, mask = self.cache.words((rows[:, None] * PER_IMAGE + which).ravel(), recipe.longest)
        kept = torch.rand(mask.shape) >= recipe.drop_words
        kept[:, 0] = True
        sentences = model.encode_sentences(words, mask & kept)
        similarity = images.embedding.float() @ sentences.embedding.float().T
        separable = contrast(
            similarity * self.temperatures.of("separable"),
            recipe.captions,
            self._likeness(rows, which),
            recipe.soft,
        )
        loss, parts = separable, {"separable": float(separable.detach())}
        if recipe.alignment:
            few = torch.arange(min(recipe.alignment_batch, len(rows)))
            some = sentences.take(few * recipe.captions)
            score = word_region_score(model.alignment(images.take(few), some), inner_words(some))
            aligned = contrast(score.float() * self.temperatures.of("alignment"), 1)
            loss = loss + recipe.alignment * aligned
            parts["alignment"] = float(aligned.detach())
        if joint:
            few = torch.arange(min(recipe.cross_batch, len(rows)))
            pair, wins = joint_loss(
                model,
                images.take(few),
                sentences.take(few * recipe.captions + recipe.captions - 1),
                self.temperatures.of("pair"),
                recipe,
            )
            loss = loss + pair
            parts |= {"joint": float(pair.detach()), "wins": wins}
        return loss, parts

    def _likeness(self, rows: np.ndarray, which: np.ndarray) -> Tensor:
        """(B, B * captions): cosine of each caption with the mean caption of each image."""
        captions = self.means[(rows[:, None] * PER_IMAGE + which).ravel()]
        groups = rows[:, None] * PER_IMAGE + np.arange(PER_IMAGE)
        images = F.normalize(self.means[groups].mean(1), dim=-1)
        return images @ captions.T / self.recipe.soft_temperature

    def _read_regions(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe, cache = self.recipe, self.cache
        kinds = [kind for kind in recipe.region_kinds if cache.has_regions(kind)]
        odds = np.array([recipe.region_odds[recipe.region_kinds.index(kind)] for kind in kinds])
        kind = str(rng.choice(kinds, p=odds / odds.sum()))
        only = np.sort(rng.permutation(REGIONS)[: recipe.regions])
        features, boxes = cache.regions(rows, kind, only=only)
        if cache.has_regions(kind, flip=True):
            mirrored = rng.random(len(rows)) < 0.5
            features[mirrored], boxes[mirrored] = cache.regions(
                rows[mirrored], kind, flip=True, only=only
            )
        return features, boxes

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        keep = min(self.recipe.ema, (1 + step) / (10 + step))
        for averaged, current in zip(
            self.average.parameters(), self.model.parameters(), strict=True
        ):
            averaged.lerp_(current, 1.0 - keep)

    def save(self, path: Path) -> None:
        """Write a checkpoint from which training goes on exactly (epochs are the unit)."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "config": self.model.config.to_dict(),
                "recipe": asdict(self.recipe),
                "epoch": self.epoch,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "temperatures": self.temperatures.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            part,
        )
        part.replace(path)

    def resume(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.temperatures.load_state_dict(state["temperatures"])
        self.optimiser.load_state_dict(state["optimiser"])


def inner_words(sentences: SentenceStates) -> Tensor:
    """The mask without [CLS] (first) and [SEP] (last real position)."""
    mask = sentences.mask.clone()
    mask[:, 0] = False
    position = torch.arange(mask.shape[1])
    last = torch.where(sentences.mask, position, -1).amax(1)
    mask[torch.arange(len(mask)), last] = False
    return mask


def sentence_means(cache: FeatureCache) -> Tensor:
    """Unit mean of the last layer over each caption's word pieces: (captions, 384)."""
    means = np.stack(
        [
            cache.last_states(caption).astype(np.float32).mean(0)
            for caption in range(len(cache.offset) - 1)
        ]
    )
    return F.normalize(torch.from_numpy(means), dim=-1)


def feature_statistics(
    cache: FeatureCache, rows: np.ndarray, kinds: tuple[str, ...], sample: int = 600
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each region feature over a sample of photographs."""
    kind = next(kind for kind in kinds if cache.has_regions(kind))
    chosen = np.sort(rows[:: max(1, len(rows) // sample)])
    features = cache.regions(chosen, kind)[0].flatten(0, 1)
    return features.mean(0), 1.0 / features.std(0).clamp(min=1e-3)

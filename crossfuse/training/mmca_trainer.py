"""Training of MMCA on captioned photographs.

One optimiser, terms that join one after the other (as shares of the run):

* from the start: symmetric InfoNCE (van den Oord et al., 2018) on i0 . c0, some captions a photo,
  partly with soft targets from the text encoder's likeness of captions, and the word-region term:
  InfoNCE on the mean over words of the best region's score, where the score is the word -> region
  attention score of the cross unit (:meth:`MMCA.alignment`). Boxes of phrases are never used here:
  alignment is learnt from which sentence belongs to which photo;
* from ``joint_from``: the paper's hinge loss with the hardest negatives and a cross-entropy over
  the same candidates, on S(I, T) and on i1 . c1 alone. Exact mining would run the cross unit on
  B x B pairs; here i0 . c0 chooses the negatives: the unit runs on B positives and 2 K B negatives;
* from ``tune_from``: the encoders, at a low rate, where the source lets them be trained.
"""

from __future__ import annotations

import copy
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
from crossfuse.models.mmca import MMCA, MMCAConfig
from crossfuse.training.mmca_losses import (
    Temperatures,
    contrast,
    inner_words,
    joint_loss,
    word_region_score,
)
from crossfuse.training.mmca_sources import Source, Views


@dataclass(frozen=True)
class Recipe:
    """One training run. Fields named ``..._from`` are shares of it, 0...1.

    A step sees ``regions`` of the 36 regions, drawn anew, and sentences cut to ``longest`` pieces:
    a third of the arithmetic, and a strong regulariser. With ``seconds`` the run lasts that long
    by the clock instead of ``epochs``.
    """

    batch: int = 200
    captions: int = 2
    regions: int = 16
    longest: int = 22
    side: int = 256
    rate: float = 1.5e-3
    image_rate: float = 2e-4
    text_rate: float = 5e-5
    weight_decay: float = 0.1
    warmup: int = 60
    epochs: int = 24
    seconds: float = 0.0
    tune_from: float = 0.1
    joint_from: float = 0.15
    decay_from: float = 0.5
    drop_words: float = 0.15
    drop_regions: float = 0.05
    soft: float = 0.4
    soft_temperature: float = 0.05
    alignment: float = 0.5
    alignment_batch: int = 100
    joint: float = 1.0
    margin: float = 0.2
    negatives: int = 2
    cross_batch: int = 64
    joint_every: int = 4
    ema: float = 0.99
    held_out: int = 500
    seed: int = 0

    @classmethod
    def on_gpu(cls) -> Recipe:
        """Larger batches, more negatives, and the cross unit in every step."""
        return cls(
            batch=256, captions=3, regions=24, alignment_batch=256, negatives=12, cross_batch=256,
            joint_every=1,
        )  # fmt: skip

    def factor(self, progress: float, step: int) -> float:
        """Of the rates: warm-up, stable, then a cosine down to zero."""
        if progress <= self.decay_from:
            return min(1.0, (step + 1) / self.warmup)
        rest = min(1.0, (progress - self.decay_from) / (1.0 - self.decay_from))
        return min(1.0, (step + 1) / self.warmup) * 0.5 * (1.0 + math.cos(math.pi * rest))

    def tuning(self, progress: float) -> float:
        """Of the encoders' rates: zero until ``tune_from``, then up within a twentieth."""
        return min(1.0, max(0.0, (progress - self.tune_from) / 0.05))


class Trainer:
    """Everything a run needs to go on: model, encoders, their averages, optimiser, position."""

    def __init__(self, source: Source, rows: np.ndarray, config: MMCAConfig, recipe: Recipe):
        self.source, self.rows, self.recipe = source, rows, recipe
        torch.manual_seed(recipe.seed)
        self.model = MMCA(config).to(source.device)
        self.temperatures = Temperatures().to(source.device)
        self.epoch, self.step, self.elapsed = 0, 0, 0.0
        groups: list[dict[str, Any]] = [
            {
                "params": [*self.model.parameters(), *self.temperatures.parameters()],
                "rate": recipe.rate,
                "weight_decay": recipe.weight_decay,
            }
        ]
        encoders = source.encoders
        for part, rate in (("image", recipe.image_rate), ("text", recipe.text_rate)):
            tuned = [] if encoders is None else list(getattr(encoders, part).parameters())
            tuned = [parameter for parameter in tuned if parameter.requires_grad]
            if tuned:
                groups.append({"params": tuned, "rate": rate, "weight_decay": 1e-2, "tuned": True})
        self.trained = [p for group in groups for p in group["params"]]
        fused = source.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(groups, recipe.rate, betas=(0.9, 0.98), fused=fused)
        mean, scale = source.statistics(rows)
        self.model.separable.feature_mean.copy_(mean)
        self.model.separable.feature_scale.copy_(scale)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.average_encoders = copy.deepcopy(encoders)
        if self.average_encoders is not None:
            self.average_encoders.requires_grad_(False)

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0...1."""
        recipe = self.recipe
        done = self.elapsed / recipe.seconds if recipe.seconds else self.epoch / recipe.epochs
        return min(1.0, done)

    def run(
        self,
        say: Callable[[str], None],
        checkpoint: Path | None = None,
        after_epoch: Callable[[Trainer], None] | None = None,
    ) -> None:
        """All epochs, from where ``checkpoint`` stopped if it is there; it is kept up to date."""
        if checkpoint is not None and checkpoint.exists():
            self.resume(checkpoint)
            say(f"taken up after epoch {self.epoch}")
        while self.progress < 1.0:
            self.run_epoch(say)
            if checkpoint is not None:
                self.save(checkpoint)
            if after_epoch is not None:
                after_epoch(self)

    def run_epoch(self, log: Callable[[str], None]) -> None:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, self.epoch))
        torch.manual_seed(recipe.seed * 1000 + self.epoch)
        order = rng.permutation(self.rows)
        steps = len(order) // recipe.batch
        sums: dict[str, Tensor] = {}
        self.model.train()
        start, before = time.time(), self.elapsed
        for step in range(steps):
            within = 1.0 / recipe.epochs * step / steps
            progress = self.progress + (0.0 if recipe.seconds else within)
            self._set_rates(progress)
            rows = order[step * recipe.batch : (step + 1) * recipe.batch]
            with torch.autocast(self.source.device.type, torch.bfloat16):
                loss, parts = self._loss(rows, rng, progress)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, 2.0)
            self.optimiser.step()
            self._update_average()
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / steps
            self.step += 1
            if recipe.seconds and step % 4 == 3:
                loss.item()  # the clock must not run ahead of the device
                self.elapsed = before + time.time() - start
        told = {name: float(value) for name, value in sums.items()}
        self.elapsed = before + time.time() - start
        self.epoch += 1
        if not all(math.isfinite(value) for value in told.values()):
            raise FloatingPointError(f"the loss is not finite: epoch {self.epoch - 1}, {told}")
        parts_told = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
        length = f"{recipe.seconds:.0f} s" if recipe.seconds else str(recipe.epochs)
        log(f"epoch {self.epoch}/{length}: {parts_told}; {time.time() - start:.1f} s")

    def _set_rates(self, progress: float) -> None:
        factor, tuning = self.recipe.factor(progress, self.step), self.recipe.tuning(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor * (tuning if group.get("tuned") else 1.0)

    def _loss(
        self, rows: np.ndarray, rng: np.random.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        recipe, model, source = self.recipe, self.model, self.source
        tune = recipe.tuning(progress) > 0
        views = source.images(rows, rng, tune)
        images = model.encode_images(views.features, views.boxes, self._kept(views))
        which = np.argsort(rng.random((len(rows), PER_IMAGE)), axis=1)[:, : recipe.captions]
        captions = (rows[:, None] * PER_IMAGE + which).ravel()
        mirrored = views.mirrored.repeat_interleave(recipe.captions)
        words, mask = source.words(captions, mirrored, tune)
        kept = torch.rand(mask.shape, device=mask.device) >= recipe.drop_words
        kept[:, 0] = True
        sentences = model.encode_sentences(words, mask & kept)
        similarity = images.embedding.float() @ sentences.embedding.float().T
        loss = contrast(
            similarity * self.temperatures.of("separable"),
            recipe.captions,
            self._likeness(rows, captions) if recipe.soft else None,
            recipe.soft,
        )
        parts = {"separable": loss.detach()}
        if recipe.alignment:
            few = torch.arange(min(recipe.alignment_batch, len(rows)), device=mask.device)
            some = sentences.take(few * recipe.captions)
            score = word_region_score(model.alignment(images.take(few), some), inner_words(some))
            aligned = contrast(score.float() * self.temperatures.of("alignment"), 1)
            loss = loss + recipe.alignment * aligned
            parts["alignment"] = aligned.detach()
        parts |= {"joint": torch.zeros_like(loss), "wins": torch.zeros_like(loss)}
        if recipe.joint and progress >= recipe.joint_from and not self.step % recipe.joint_every:
            few = torch.arange(min(recipe.cross_batch, len(rows)), device=mask.device)
            pair, wins = joint_loss(
                model,
                images.take(few),
                sentences.take(few * recipe.captions + recipe.captions - 1),
                self.temperatures.of("pair"),
                recipe.negatives,
                recipe.margin,
            )
            loss = loss + recipe.joint * pair
            parts |= {"joint": pair.detach(), "wins": wins}
        return loss, parts

    def _kept(self, views: Views) -> Tensor:
        """The mask with some regions left out; never all of them."""
        kept = torch.rand(views.mask.shape, device=views.mask.device) >= self.recipe.drop_regions
        kept[:, 0] = True
        return views.mask & kept

    def _likeness(self, rows: np.ndarray, captions: np.ndarray) -> Tensor:
        """(B, B * captions): cosine of each caption with the mean caption of each image."""
        means = self.source.means
        groups = torch.from_numpy(rows[:, None] * PER_IMAGE + np.arange(PER_IMAGE))
        images = F.normalize(means[groups.to(means.device)].mean(1), dim=-1)
        chosen = means[torch.from_numpy(captions).to(means.device)]
        return images @ chosen.T / self.recipe.soft_temperature

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.average, self.model)]
        if self.average_encoders is not None and self.source.encoders is not None:
            pairs.append((self.average_encoders, self.source.encoders))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for slow, fast in pairs:
            for ours, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
                if theirs.requires_grad:
                    averaged.append(ours)
                    current.append(theirs.detach())
        torch._foreach_lerp_(averaged, current, 1.0 - keep)

    def save(self, path: Path) -> None:
        """Write a checkpoint from which training goes on exactly (epochs are the unit)."""
        encoders = self.source.encoders
        part = path.with_suffix(".part")
        torch.save(
            {
                "config": self.model.config.to_dict(),
                "recipe": asdict(self.recipe),
                "position": (self.epoch, self.step, self.elapsed),
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "encoders": None if encoders is None else encoders.state_dict(),
                "average_encoders": None
                if self.average_encoders is None
                else self.average_encoders.state_dict(),
                "temperatures": self.temperatures.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            part,
        )
        part.replace(path)

    def resume(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location=self.source.device, weights_only=True)
        self.epoch, self.step, self.elapsed = state["position"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if self.source.encoders is not None and self.average_encoders is not None:
            self.source.encoders.load_state_dict(state["encoders"])
            self.average_encoders.load_state_dict(state["average_encoders"])
        self.temperatures.load_state_dict(state["temperatures"])
        self.optimiser.load_state_dict(state["optimiser"])

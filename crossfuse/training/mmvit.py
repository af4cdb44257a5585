"""Train and evaluate MMViT: from scratch, or distilled from a frozen EfficientNet-Lite2.

    crossfuse train mmvit --data tiny200 --cache CACHE --out RUN --distil 0.5 --name mmvit_tiny200
    crossfuse evaluate mmvit --data tiny200 --weights mmvit_tiny200 --json

The loss is cross-entropy to ``distil * teacher + (1 - distil) * smoothed label``, plus, with a
teacher, one minus the cosine between a projection of our features and the teacher's. A run ends
after ``--epochs`` or, on a machine with other work to do, after ``--minutes`` of its own time; the
cosine schedule follows whichever is given. It can be stopped at any time: the same command resumes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse import weights
from crossfuse.data.image_folders import Photographs, read_photographs
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training import augmentation, distillation
from crossfuse.training.mmvit_evaluation import (
    add_evaluate_arguments,
    calibrate,
    evaluate,
)
from crossfuse.training.warm_start import warm_start

__all__ = ["add_evaluate_arguments", "add_train_arguments", "evaluate", "train"]

SAVE_EVERY = 120.0  # seconds


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of classes, or CSV list")
    parser.add_argument("--cache", type=Path, required=True, help="where prepared data is kept")
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoints and log")
    parser.add_argument("--stem", choices=("lite2", "convolutions", "patch"), default="lite2")
    parser.add_argument("--side", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument(
        "--fusion", default="joint", choices=("joint", "sequential", "class_token", "none")
    )
    parser.add_argument("--width", type=int, default=44)
    parser.add_argument("--distil", type=float, default=0.0, help="weight of the teacher, 0 to 1")
    parser.add_argument("--start", help="weights to begin with, for other classes too")
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, help="end after so many minutes instead")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate (AdamW)")
    parser.add_argument("--mixup", type=float, default=0.0, help="mixup's alpha; 0 = off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (mixed precision there)")
    parser.add_argument(
        "--prepare-only", action="store_true", help="compute the teacher, then stop"
    )
    parser.add_argument("--name", help="write the weights to assets/weights/NAME at the end")


def config_of(arguments: argparse.Namespace, classes: int) -> MMViTConfig:
    if arguments.stem == "lite2":
        config = MMViTConfig.small(classes, arguments.side, arguments.views)
    else:
        config = MMViTConfig.from_scratch(classes, arguments.side, arguments.views)
    return replace(config, stem=arguments.stem, fusion=arguments.fusion, width=arguments.width)


@dataclass(frozen=True)
class Source:
    """Batches of inputs and targets; ``taps`` when the frozen stem was computed beforehand."""

    photographs: Photographs
    features: distillation.TeacherFeatures | None
    targets: Tensor
    usable: np.ndarray
    arguments: argparse.Namespace
    config: MMViTConfig

    def batches(
        self, generator: np.random.Generator
    ) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """One pass over the photographs: (inputs of the model, targets, teacher's features)."""
        order = generator.permutation(self.usable)
        size = self.arguments.batch
        for start in range(0, len(order) - size + 1, size):
            index = np.sort(order[start : start + size])
            targets = self.targets[index]
            pooled = None
            if self.features is not None and self.arguments.distil > 0:
                pooled = torch.from_numpy(self.features.pooled[index]).float()
            if self.arguments.stem == "lite2":
                assert self.features is not None
                yield self._taps(index), targets, pooled
                continue
            pixels = torch.from_numpy(self.photographs.pixels[index])
            images = augmentation.shifted_crops(
                distillation.to_teacher(pixels, self.config.image_size)
            )
            images = augmentation.jittered(augmentation.flipped(images))
            images, targets = augmentation.mixed(images, targets, self.arguments.mixup)
            yield augmentation.erased(images), targets, pooled

    def _taps(self, index: np.ndarray) -> tuple[Tensor, ...]:
        """Stored maps, half of them mirrored: nearly what the stem makes of a mirrored picture."""
        assert self.features is not None
        flip = (torch.rand(len(index)) < 0.5)[:, None, None, None]
        return tuple(
            torch.where(flip, part.flip(3), part) if len(part) else part
            for part in self.features.taps(index, self.config)
        )


def train(arguments: argparse.Namespace) -> None:
    """Train, calibrate on half of the validation photographs, and write weights with a card."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    photographs = cached_photographs(arguments, "train")
    features = None
    if arguments.stem == "lite2" or arguments.distil > 0:
        folder = arguments.cache / "train_teacher"
        features = distillation.prepare(photographs.pixels, folder)
        if arguments.prepare_only:
            return
    config = config_of(arguments, len(photographs.classes))
    model = MMViT(config)
    if config.stem == "lite2":
        state = distillation.load_lite2().state_dict()
        model.stem.load_state_dict(distillation.front_state(state))
    if arguments.start:
        begun, _ = weights.load_weights(arguments.start)
        same = {k: v for k, v in begun.items() if v.shape == model.state_dict()[k].shape}
        model.load_state_dict(same, strict=False)
    source = make_source(photographs, features, config, arguments)
    if features is not None and config.stem == "lite2" and not arguments.start:
        chosen = source.usable[:: max(1, len(source.usable) // 6000)]
        warm_start(model, features, chosen, photographs.labels[chosen])
    state = fit(model, source, arguments)
    model.load_state_dict(state, strict=False)
    validation = cached_photographs(arguments, "val")
    figures, calibration = calibrate(model.eval(), validation)
    card = _card(arguments, config, photographs, figures, calibration, state)
    print({name: round(value, 4) for name, value in figures.items()}, flush=True)
    weights.save_weights("weights", model, card, folder=arguments.out, half=True)
    if arguments.name:
        weights.save_weights(arguments.name, model, card, half=True)


def cached_photographs(arguments: argparse.Namespace, split: str) -> Photographs:
    """The photographs of a split, decoded once and kept under ``--cache``."""
    side = arguments.side
    pixels = arguments.cache / f"{split}_{side}.npy"
    rest = arguments.cache / f"{split}_{side}.npz"
    if not rest.exists():
        found = read_photographs(arguments.data, split, side)
        arguments.cache.mkdir(parents=True, exist_ok=True)
        np.save(pixels, found.pixels)
        np.savez(
            rest, labels=found.labels, classes=found.classes, keys=found.keys, names=found.names
        )
    with np.load(rest, allow_pickle=False) as archive:
        texts = [tuple(map(str, archive[name])) for name in ("classes", "keys", "names")]
        labels = archive["labels"]
    return Photographs(np.load(pixels, mmap_mode="r"), labels, *texts)


def make_source(
    photographs: Photographs,
    features: distillation.TeacherFeatures | None,
    config: MMViTConfig,
    arguments: argparse.Namespace,
    smoothing: float = 0.1,
) -> Source:
    """Targets of every photograph: smoothed labels, mixed with the teacher's where it is asked."""
    classes = len(photographs.classes)
    labels = torch.from_numpy(np.asarray(photographs.labels))
    targets = F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    usable = np.arange(len(photographs))
    if features is not None:
        usable = np.flatnonzero(features.done)
        if arguments.distil > 0:
            classifier = distillation.load_lite2()._fc
            assert isinstance(classifier, nn.Linear)
            with torch.inference_mode():
                pooled = torch.from_numpy(np.asarray(features.pooled[usable])).float()
                logits = classifier(pooled)
            matched = distillation.match_classes(
                logits.log_softmax(-1).numpy(), photographs.labels[usable], classes
            )
            soft = logits[:, matched].softmax(-1)
            targets[usable] = torch.lerp(targets[usable], soft, arguments.distil)
    return Source(photographs, features, targets, usable, arguments, config)


def fit(model: MMViT, source: Source, arguments: argparse.Namespace) -> dict[str, Tensor]:
    """The training loop; returns the averaged weights (EMA) of the trained part.

    Raises:
        CrossfuseError: fewer photographs than one batch takes.
    """
    if len(source.usable) < arguments.batch:
        raise CrossfuseError(
            f"There are {len(source.usable)} photographs to train on, fewer than one batch of "
            f"{arguments.batch}; a smaller --batch would work."
        )
    device = torch.device(arguments.device)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    projection = nn.Linear(model.head.in_features, 1280)
    parameters = [*trained.values(), *projection.parameters()]
    decayed = [p for p in parameters if p.dim() > 1]
    plain = [p for p in parameters if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=arguments.rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    average = {name: p.detach().clone() for name, p in trained.items()}
    step, seen, elapsed = 0, 0, 0.0
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / "checkpoint.pt"
    model.to(device).train()
    projection.to(device)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        projection.load_state_dict(saved["projection"])
        optimiser.load_state_dict(saved["optimiser"])
        for group in optimiser.param_groups:
            group["fused"] = True
        average, step, seen = saved["average"], saved["step"], saved["seen"]
        elapsed = saved["elapsed"]
    total = arguments.epochs * len(source.usable)

    def save() -> None:
        temporary = checkpoint.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(),
                "projection": projection.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step,
                "seen": seen,
                "elapsed": elapsed,
            },
            temporary,
        )
        temporary.replace(checkpoint)

    def progress() -> float:
        return elapsed / (60 * arguments.minutes) if arguments.minutes else seen / total

    generator = np.random.default_rng((arguments.seed, step))
    first = step
    image = (arguments.side, arguments.side)
    last_saved = last = time.monotonic()
    running = 0.0
    while progress() < 1:
        for inputs, targets, pooled in source.batches(generator):
            rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(1, progress())))
            for group in optimiser.param_groups:
                group["lr"] = arguments.rate * max(rate, 0.005)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                if isinstance(inputs, tuple):
                    output = model.from_stem(tuple(part.to(device) for part in inputs), image)
                else:
                    output = model(inputs.to(device))
            loss = F.cross_entropy(output.logits.float(), targets.to(device))
            running = 0.98 * running + 0.02 * float(loss.detach())
            if pooled is not None and arguments.mixup == 0:
                guess = projection(output.features.float())
                loss = loss + 1 - F.cosine_similarity(guess, pooled.to(device)).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step, seen = step + 1, seen + len(targets)
            decay = min(0.998, step / (step + 20))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), list(trained.values()), 1 - decay)
            now = time.monotonic()
            elapsed, last = elapsed + now - last, now
            if step % 50 == 0:
                print(
                    f"step {step}  epoch {seen / len(source.usable):.2f}  "
                    f"loss {running / (1 - 0.98 ** max(step - first, 1)):.3f}  "
                    f"{seen / elapsed:.1f} photographs/s  "
                    f"done {progress():.3f}",
                    flush=True,
                )
            if now - last_saved > SAVE_EVERY:
                save()
                last_saved = now
            if progress() >= 1:
                break
    save()
    return {name: value.cpu() for name, value in average.items()}


def _card(
    arguments: argparse.Namespace,
    config: MMViTConfig,
    photographs: Photographs,
    figures: dict[str, float],
    calibration: dict[str, float],
    state: dict[str, Tensor],
) -> dict[str, Any]:
    stem = (
        "The stem is the first 20 of 21 blocks of EfficientNet-Lite2 (ImageNet-1K weights, "
        "Apache-2.0), frozen; the views and the pyramid on it were trained here."
        if config.stem == "lite2"
        else "Nothing in it was trained elsewhere."
    )
    teacher = (
        f" Distilled from EfficientNet-Lite2 (weight {arguments.distil:g}), which has seen these "
        "photographs in its own training."
        if arguments.distil > 0
        else ""
    )
    begun = f" Begun with the weights {arguments.start}." if arguments.start else ""
    return {
        "model": "mmvit",
        "config": asdict(config),
        "classes": list(photographs.classes),
        "data": f"{arguments.data.name}: {len(photographs)} photographs, "
        f"{len(photographs.classes)} classes, {arguments.side} px",
        "licence": "Learnt from ImageNet photographs: non-commercial research and education.",
        "recipe": f"{stem}{teacher}{begun} A reduced model, not the paper's.",
        "seed": arguments.seed,
        "trained_parameters": sum(value.numel() for value in state.values()),
        "calibration": calibration,
        "metrics": figures,
        "command": f"crossfuse evaluate mmvit --data {arguments.data.name} "
        f"--weights {arguments.name or 'NAME'} --json",
    }

"""Train and evaluate a small MMViT on sounds that are made by rule.

    crossfuse train mmvit_sound --out RUN --name mmvit_sound
    crossfuse evaluate mmvit_sound --json

Nothing is downloaded and no sound is heard twice: every one is drawn from a seed
(:mod:`crossfuse.data.made_sounds`). Figures say how well a few made-up kinds are told apart, and
nothing about sounds of the world.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse import registry, weights
from crossfuse.data.audio import BANDS, spectrogram
from crossfuse.data.made_sounds import DOUBT, SOUNDS, UNSEEN, make_sound
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training.mmvit_evaluation import calibration_of, measure, rejection

CALIBRATION_SEED, TEST_SEED = 1_000_003, 2_000_003  # training seeds are small
TEST_SEEDS = 3


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--name", help="also write the weights to assets/weights/NAME")
    parser.add_argument("--steps", type=int, default=600, help="batches of new sounds")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (AdamW)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sounds", type=int, default=800, help="to calibrate and to test on")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", help="which weights; the registry's first by default")
    parser.add_argument("--sounds", type=int, default=800, help="how many a seed")


def config() -> MMViTConfig:
    """One channel, 64 x 64, cells of 4 and 8 frames: about 0.3 million parameters."""
    return MMViTConfig(
        classes=len(SOUNDS), image_size=BANDS, channels=1, stride=4, width=24, heads=2,
        blocks=(0, 0), key_stride=2, mlp_ratio=2.0, cross_in_last_stage=True, head="all_views",
        stem="convolutions",
    )  # fmt: skip


def made(count: int, seed: int, kinds: tuple[str, ...] = SOUNDS) -> tuple[Tensor, Tensor]:
    """Spectrograms (count, 1, 64, 64) and labels (count,), the kinds taking turns."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % len(kinds)
    pictures = np.stack([spectrogram(make_sound(kinds[i], generator)) for i in labels])
    return torch.from_numpy(pictures)[:, None], torch.from_numpy(labels)


def train(arguments: argparse.Namespace) -> None:
    """Train, calibrate on sounds of another seed, write weights and card."""
    torch.manual_seed(arguments.seed)
    model = MMViT(config()).train()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.rate, total_steps=arguments.steps
    )
    targets = F.one_hot(torch.arange(len(SOUNDS))) * 0.95 + 0.05 / len(SOUNDS)
    even = torch.full((1, len(SOUNDS)), 1 / len(SOUNDS))
    doubting = arguments.batch // 8
    began = time.monotonic()
    for step in range(arguments.steps):
        seed = arguments.seed * arguments.steps + step
        images, labels = made(arguments.batch - doubting, 2 * seed)
        others, _ = made(doubting, 2 * seed + 1, DOUBT[step % len(DOUBT) :] + DOUBT)
        # Of sounds that are of no kind it should say that every kind is as likely.
        wanted = torch.cat([targets[labels], even.expand(doubting, -1)])
        loss = F.cross_entropy(model(torch.cat([images, others])).logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            took = time.monotonic() - began
            print(f"step {step + 1}  loss {loss.item():.3f}  {took:.0f} s", flush=True)
    finish(model.eval(), arguments)


def finish(model: MMViT, arguments: argparse.Namespace) -> None:
    """Calibrate on sounds of another seed; write weights and card."""
    # It was taught to doubt by its probabilities: they are what tells its doubt.
    calibration = calibration_of(
        *answers(model, arguments.sounds, CALIBRATION_SEED), by="confidence", turned_away=0.02
    )
    card = {
        "model": "mmvit_sound",
        "config": asdict(model.config),
        "classes": list(SOUNDS),
        "data": f"{arguments.steps * arguments.batch} sounds made by rule, none of them twice",
        "licence": "Apache-2.0, like the project",
        "recipe": "Trained here from nothing, on made-up sounds only: a demonstration. An eighth "
        f"of them are of none of the kinds ({', '.join(DOUBT)}), to learn doubt from; it is "
        f"measured on others ({', '.join(UNSEEN)}).",
        "seed": arguments.seed,
        "trained_parameters": sum(p.numel() for p in model.parameters()),
        "calibration": calibration,
        "metrics": figures(model, calibration, arguments.sounds),
        "command": "crossfuse evaluate mmvit_sound --json",
        "train": f"crossfuse train mmvit_sound --out RUN --steps {arguments.steps} "
        f"--batch {arguments.batch} --seed {arguments.seed}",
    }
    print(card["metrics"])
    weights.save_weights("weights", model, card, folder=arguments.out, half=True)
    if arguments.name:
        weights.save_weights(arguments.name, model, card, half=True)


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, calibration and doubt on sounds of seeds that were never trained on."""
    name = arguments.weights or registry.entry("mmvit_sound").weights[0]
    model = registry.load("mmvit_sound", name)
    assert isinstance(model, MMViT)
    calibration = weights.card(name)["calibration"]
    return {"weights": name, **figures(model, calibration, arguments.sounds)}


def figures(model: MMViT, calibration: dict[str, Any], count: int) -> dict[str, float]:
    """Means over test seeds, the spread of top-1, and a trivial baseline's top-1.

    ``held_out_ece``: calibration error; nothing here was seen in training or calibration.
    ``baseline_top1``: ridge regression on the mean and the spread of every band over time.
    ``rejected_inside`` / ``rejected_outside``: share called none of these, the latter of sounds of
    kinds that were in no training.
    """
    rows = []
    for seed in range(TEST_SEED, TEST_SEED + TEST_SEEDS):
        logits, labels = answers(model, count, seed)
        outside, _ = answers(model, count // 4, seed, UNSEEN)
        rows.append(
            measure(logits, labels, calibration["temperature"])
            | rejection(logits, outside, calibration)
            | {"baseline_top1": baseline(count, seed)}
        )
    found = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    found["held_out_ece"] = found["ece"]
    return found | {"top1_spread": statistics.stdev(row["top1"] for row in rows)}


@torch.inference_mode()
def answers(
    model: MMViT, count: int, seed: int, kinds: tuple[str, ...] = SOUNDS
) -> tuple[Tensor, Tensor]:
    """Logits and labels of sounds made from a seed."""
    images, labels = made(count, seed, kinds)
    return torch.cat([model(part).logits for part in images.split(64)]), labels


def baseline(count: int, seed: int) -> float:
    """Top-1 of a ridge regression on each band's mean and spread over time, blind to order."""

    def features(images: Tensor) -> Tensor:
        bands = images[:, 0]
        ones = torch.ones(len(bands), 1)
        return torch.cat([bands.mean(2), bands.std(2), ones], 1).double()

    images, labels = made(2000, CALIBRATION_SEED + seed)
    known, targets = features(images), F.one_hot(labels).double()
    solved = torch.linalg.solve(known.T @ known + torch.eye(known.shape[1]), known.T @ targets)
    images, labels = made(count, seed)
    return float(((features(images) @ solved).argmax(1) == labels).double().mean())

"""Train and evaluate a small MMViT on sounds that are made by rule (:mod:`crossfuse.data.audio`).

    crossfuse train mmvit_sound --out RUN --name mmvit_sound
    crossfuse evaluate mmvit_sound --json

Nothing is downloaded: every sound is drawn anew from its seed. Figures say how well six made-up
kinds are told apart, and nothing about sounds of the world.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse import registry, weights
from crossfuse.data.audio import BANDS, SOUNDS, make_sound, spectrogram
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training.mmvit_evaluation import fit_temperature, measure

TEST_SEED = 1_000_003


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--name", help="also write the weights to assets/weights/NAME")
    parser.add_argument("--sounds", type=int, default=1800, help="how many to train on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", help="which weights; the registry's first by default")
    parser.add_argument("--sounds", type=int, default=600, help="how many, never trained on")


def config() -> MMViTConfig:
    """One channel, 64 x 64, cells of 8 and 16: about 0.3 million parameters."""
    return MMViTConfig(
        classes=len(SOUNDS), image_size=BANDS, channels=1, stride=8, width=24, heads=2,
        blocks=(0, 0), key_stride=1, mlp_ratio=2.0, cross_in_last_stage=True, head="all_views",
        stem="convolutions",
    )  # fmt: skip


def made(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Spectrograms (count, 1, 64, 64) and labels (count,), the kinds taking turns."""
    generator = np.random.default_rng(seed)
    kinds = [SOUNDS[i % len(SOUNDS)] for i in range(count)]
    pictures = np.stack([spectrogram(make_sound(kind, generator)) for kind in kinds])
    return torch.from_numpy(pictures)[:, None], torch.arange(count) % len(SOUNDS)


def train(arguments: argparse.Namespace) -> None:
    """Train, calibrate on sounds of another seed, write weights and card."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    images, labels = made(arguments.sounds, arguments.seed)
    model = MMViT(config()).train()
    steps = arguments.epochs * (len(labels) // 32)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    began = time.monotonic()
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(labels))[: len(labels) // 32 * 32].view(-1, 32)
        for index in order:
            # A sound may begin at any time: frames are rolled, never bands.
            batch = images[index].roll(int(torch.randint(-8, 9, ())), dims=3)
            loss = F.cross_entropy(model(batch).logits, labels[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        took = time.monotonic() - began
        print(f"epoch {epoch + 1}  loss {loss.item():.3f}  {took:.0f} s", flush=True)
    model.eval()
    with torch.inference_mode():
        logits = model(made(300, TEST_SEED + 1)[0]).logits
    truth = torch.arange(300) % len(SOUNDS)
    temperature = fit_temperature(logits, truth)
    confidence, guess = (logits / temperature).softmax(-1).max(-1)
    threshold = float(confidence[guess == truth].quantile(0.05))
    card = {
        "model": "mmvit_sound",
        "config": asdict(model.config),
        "classes": list(SOUNDS),
        "data": f"{len(labels)} sounds made by rule, seed {arguments.seed}",
        "licence": "Apache-2.0, like the project",
        "recipe": "Trained here from nothing, on made-up sounds only: a demonstration.",
        "seed": arguments.seed,
        "trained_parameters": sum(p.numel() for p in model.parameters()),
        "calibration": {"temperature": temperature, "threshold": threshold},
        "metrics": _figures(model, 600, temperature),
        "command": "crossfuse evaluate mmvit_sound --json",
    }
    print(card["metrics"])
    weights.save_weights("weights", model, card, folder=arguments.out, half=True)
    if arguments.name:
        weights.save_weights(arguments.name, model, card, half=True)


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and calibration on sounds of a seed that was never trained on."""
    name = arguments.weights or registry.entry("mmvit_sound").weights[0]
    model = registry.load("mmvit_sound", name)
    assert isinstance(model, MMViT)
    temperature = float(weights.card(name)["calibration"]["temperature"])
    return {"weights": name, **_figures(model, arguments.sounds, temperature)}


def _figures(model: MMViT, count: int, temperature: float) -> dict[str, float]:
    images, labels = made(count, TEST_SEED)
    with torch.inference_mode():
        return measure(model(images).logits, labels, temperature)

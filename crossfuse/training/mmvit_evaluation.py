"""Accuracy, calibration and rejection of a trained MMViT."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse import registry, weights
from crossfuse.data.image_folders import Photographs, read_photographs
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmvit import MMViT
from crossfuse.training.distillation import to_teacher

KEPT = 0.8  # share of right answers that "none of these" leaves standing


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of classes, or CSV list")
    parser.add_argument("--split", default="val", help="which split (default: val)")
    parser.add_argument("--weights", help="which weights; the registry's first by default")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument("--outside", type=Path, help="photographs of none of the classes")


def evaluate(arguments: argparse.Namespace) -> dict[str, float | int | str]:
    """Accuracy and calibration of stored weights on a split of a data set.

    Raises:
        CrossfuseError: the classes of the data are not those of the weights.
    """
    name = arguments.weights or registry.entry("mmvit").weights[0]
    card = weights.card(name)
    model = registry.load("mmvit", name)
    assert isinstance(model, MMViT)
    photographs = read_photographs(arguments.data, arguments.split, model.config.image_size)
    if list(photographs.classes) != card["classes"]:
        raise CrossfuseError(
            f"{arguments.data} has {len(photographs.classes)} classes that are not the "
            f"{len(card['classes'])} of {name!r}."
        )
    index = np.arange(len(photographs))
    if arguments.limit and arguments.limit < len(index):
        index = np.linspace(0, len(index) - 1, arguments.limit).astype(int)
    logits = predict(model, photographs.pixels[index])
    labels = torch.from_numpy(photographs.labels[index])
    figures: dict[str, float | int | str] = {"weights": name, "photographs": len(index)}
    figures |= measure(logits, labels, card["calibration"]["temperature"])
    if arguments.outside:
        others = read_photographs(arguments.outside, arguments.split, model.config.image_size)
        outside = predict(model, others.pixels)
        figures |= rejection(logits, outside, card["calibration"])
    return figures


@torch.inference_mode()
def predict(model: MMViT, pixels: np.ndarray, batch: int = 64) -> Tensor:
    """Logits (N, classes) of photographs (N, side, side, 3) uint8, computed where the model is."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.array(pixels[start : start + batch])).to(device)
        parts.append(model(to_teacher(part, model.config.image_size)).logits.cpu())
    return torch.cat(parts)


def measure(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Top-1 and top-5 accuracy, expected calibration error (15 equal bins) and log-loss."""
    probabilities = (logits / temperature).softmax(-1)
    confidence, guess = probabilities.max(-1)
    correct = (guess == labels).float()
    best = probabilities.topk(min(5, logits.shape[1]), dim=-1).indices
    bins = (confidence * 15).long().clamp(max=14)
    error = sum(
        float((confidence[bins == b] - correct[bins == b]).sum().abs())
        for b in range(15)
        if bool((bins == b).any())
    )
    return {
        "top1": float(correct.mean()),
        "top5": float((best == labels[:, None]).any(-1).float().mean()),
        "ece": error / len(labels),
        "log_loss": float(F.cross_entropy(logits / temperature, labels)),
    }


def calibrate(model: MMViT, photographs: Photographs) -> tuple[dict[str, float], dict[str, float]]:
    """Temperature from the even photographs, figures on all and on the odd ones (``held_out_``).

    The threshold of "none of these" is the confidence that 80 % of the rightly named photographs
    of the even half exceed: a stricter one lets too many pictures of other things pass.
    """
    logits = predict(model, photographs.pixels)
    labels = torch.from_numpy(np.asarray(photographs.labels))
    half = torch.arange(len(labels)) % 2 == 0
    temperature = fit_temperature(logits[half], labels[half])
    confidence, guess = (logits[half] / temperature).softmax(-1).max(-1)
    right = confidence[guess == labels[half]]
    threshold = float(right.quantile(1 - KEPT)) if len(right) else 0.0
    figures = measure(logits, labels, temperature)
    held_out = measure(logits[~half], labels[~half], temperature)
    figures |= {f"held_out_{name}": value for name, value in held_out.items()}
    return figures, {"temperature": temperature, "threshold": threshold}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least log-loss (Guo et al. 2017), by a fine scan from 0.25 to 4."""
    candidates = torch.logspace(-2, 2, 161, base=2)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in candidates])
    return float(candidates[losses.argmin()])


def rejection(inside: Tensor, outside: Tensor, calibration: dict[str, float]) -> dict[str, float]:
    """Share called "none of these" among photographs of the classes, and of none of them."""
    scale, threshold = calibration["temperature"], calibration["threshold"]

    def rejected(logits: Tensor) -> float:
        return float(((logits / scale).softmax(-1).max(-1).values < threshold).float().mean())

    return {"rejected_inside": rejected(inside), "rejected_outside": rejected(outside)}

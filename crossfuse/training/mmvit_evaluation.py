"""Accuracy, calibration and rejection of a trained MMViT."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from crossfuse import registry, weights
from crossfuse.data.image_folders import Photographs, read_photographs
from crossfuse.errors import CrossfuseError
from crossfuse.explain.typicality import quantiles, score, typicality
from crossfuse.models.mmvit import MMViT
from crossfuse.training.distillation import to_teacher

TURNED_AWAY = 0.1  # least share of photographs of the classes that "none of these" is said of
RIGHT = 0.85  # share of the named photographs that are to be named rightly


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of classes, or CSV list")
    parser.add_argument("--split", default="val", help="which split (default: val)")
    parser.add_argument("--weights", help="which weights; the registry's first by default")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument(
        "--apart", metavar="TEXT",
        help="give the photographs with this in their name apart as well (ILSVRC2012_val: those "
        "that a teacher trained on ImageNet has not seen)",
    )  # fmt: skip
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
    figures |= naming(logits, labels, card["calibration"])
    if arguments.apart:
        if not any(arguments.apart in name for name in photographs.names):
            raise CrossfuseError(f"No photograph has {arguments.apart!r} in its name.")
        named = [arguments.apart in photographs.names[i] for i in index]
        found = measure(logits[named], labels[named], card["calibration"]["temperature"])
        figures |= {"apart_photographs": sum(named)}
        figures |= {f"apart_{key}": value for key, value in found.items()}
    if arguments.outside:
        others = read_photographs(arguments.outside, arguments.split, model.config.image_size)
        outside = predict(model, others.pixels)
        figures |= rejection(logits, outside, card["calibration"], labels)
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


def calibrate(model: MMViT, photographs: Photographs) -> tuple[dict[str, float], dict[str, Any]]:
    """Calibration from the even photographs, figures on all and on the odd ones (``held_out_``)."""
    logits = predict(model, photographs.pixels)
    labels = torch.from_numpy(np.asarray(photographs.labels))
    half = torch.arange(len(labels)) % 2 == 0
    calibration = calibration_of(logits[half], labels[half])
    figures = measure(logits, labels, calibration["temperature"])
    held_out = measure(logits[~half], labels[~half], calibration["temperature"])
    held_out |= naming(logits[~half], labels[~half], calibration)
    figures |= {f"held_out_{name}": value for name, value in held_out.items()}
    return figures, calibration


def calibration_of(
    logits: Tensor, labels: Tensor, *, by: str = "confidence", turned_away: float = TURNED_AWAY
) -> dict[str, Any]:
    """A card's calibration from photographs (or sounds) of the classes that were not trained on.

    The temperature of least log-loss; the score by which "none of these" is said, with its
    quantiles; and ``threshold``, the rank below which it is said
    (:mod:`crossfuse.explain.typicality`). That rank is the lowest above which, with 95 % certainty
    (Wilson's lower bound), 85 % of what is named is named rightly (selective classification with
    guaranteed risk, Geifman & El-Yaniv 2017, arXiv 1705.08500), but at least ``turned_away``: a
    model that is nearly always right is to doubt pictures of other things, too.
    """
    calibration: dict[str, Any] = {
        "temperature": fit_temperature(logits, labels),
        "score": by,
    }
    scores = score(logits, calibration)
    order = scores.argsort(descending=True)
    right = (logits.argmax(-1) == labels)[order].float()
    good = torch.nonzero(lower_bound(right.cumsum(0)) >= RIGHT).flatten()
    named = (int(good[-1]) + 1) / len(right) if len(good) else 0.0
    threshold = round(max(turned_away, 1 - named), 4)
    return calibration | {"threshold": threshold, "quantiles": quantiles(scores)}


def lower_bound(right: Tensor, z: float = 1.645) -> Tensor:
    """Wilson's one-sided 95 % lower bound of the share of right ones; ``right`` (N,): how many
    there are among the first 1, 2, ... N."""
    count = torch.arange(1, len(right) + 1)
    share = right / count
    middle = share + z**2 / (2 * count)
    spread = z * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    return (middle - spread) / (1 + z**2 / count)


def naming(logits: Tensor, labels: Tensor, calibration: dict[str, Any]) -> dict[str, float]:
    """``named``: share of photographs of the classes that get a name; ``named_right``: of those,
    the share whose name is right."""
    named = ranks(logits, calibration) >= calibration["threshold"]
    right = (logits.argmax(-1) == labels).numpy()
    return {
        "named": float(named.mean()),
        "named_right": float(right[named].mean()) if named.any() else 0.0,
    }


def ranks(logits: Tensor, calibration: dict[str, Any]) -> np.ndarray:
    """How typical each picture is: (B, classes) -> (B,) from 0 to 1."""
    known = calibration["quantiles"]
    return np.array([typicality(float(value), known) for value in score(logits, calibration)])


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least log-loss (Guo et al. 2017), by a fine scan from 0.25 to 4."""
    candidates = torch.logspace(-2, 2, 161, base=2)
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in candidates])
    return float(candidates[losses.argmin()])


def rejection(
    inside: Tensor,
    outside: Tensor,
    calibration: dict[str, Any],
    labels: Tensor | None = None,
) -> dict[str, float]:
    """How well the score tells logits of photographs of the classes from those of other things.

    ``rejected_inside``, ``rejected_outside``: shares of which "none of these" is said; ``auroc``:
    probability that one of the classes scores higher than another thing; ``fpr95``: share of other
    things that pass where 95 % of the classes' photographs do. With labels ``auroc_right``: the
    same for the photographs that would be named rightly, which are those that should pass.
    """
    known, other = (score(part, calibration).numpy() for part in (inside, outside))
    threshold = calibration["threshold"]

    def auroc(scores: np.ndarray) -> float:
        truth = np.repeat([1, 0], [len(scores), len(other)])
        return float(roc_auc_score(truth, np.concatenate([scores, other])))

    found = {
        "rejected_inside": float((ranks(inside, calibration) < threshold).mean()),
        "rejected_outside": float((ranks(outside, calibration) < threshold).mean()),
        "auroc": auroc(known),
        "fpr95": float((other >= np.quantile(known, 0.05)).mean()),
    }
    if labels is not None:
        found["auroc_right"] = auroc(known[(inside.argmax(-1) == labels).numpy()])
    return found

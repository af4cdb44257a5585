"""Do views and scales matter? Variants of about equal size, trained on equally many photographs.

    python -m crossfuse.training.mmvit_ablation --data imagenette --cache CACHE --out RUN --seeds 3

Every variant stands on the same frozen stem and sees the same photographs in the same order; widths
are chosen so that the numbers of trained parameters are within a few per cent. Short runs from
random weights: the differences are about these budgets, not about fully trained models.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training import distillation
from crossfuse.training.mmvit import add_train_arguments, cached_photographs, fit, make_source
from crossfuse.training.mmvit_evaluation import measure


def variants(classes: int, side: int) -> dict[str, MMViTConfig]:
    """The model as it is, and with one thing changed; all of nearly the same size."""
    base = MMViTConfig.small(classes, side)
    size = trained_parameters(base)
    changed = {
        "two views": base,
        "one view (fine)": replace(base, views=1),
        "one view (coarse)": replace(base, views=1, stride=2 * base.stride),
        "three views": replace(base, views=3),
        "two views, cross off": replace(base, fusion="none"),
        "two views, one scale": replace(base, blocks=(5,)),
    }
    return {name: with_size(config, size) for name, config in changed.items()}


def trained_parameters(config: MMViTConfig) -> int:
    return sum(p.numel() for p in MMViT(config).parameters() if p.requires_grad)


def with_size(config: MMViTConfig, size: int) -> MMViTConfig:
    """The same config at the width that comes nearest to so many parameters."""
    step = config.heads * 2
    widths = range(step * 4, step * 64, step)
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if trained_parameters(replace(config, width=widths[middle])) < size:
            low = middle + 1
        else:
            high = middle
    near = [replace(config, width=widths[i]) for i in {max(low - 1, 0), low}]
    return min(near, key=lambda c: abs(trained_parameters(c) - size))


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a variant: accuracy over seeds, parameters."""
    torch.set_num_threads(arguments.threads)
    photographs = cached_photographs(arguments, "train")
    validation = cached_photographs(arguments, "val")
    features = distillation.open_features(arguments.cache / "train_teacher", len(photographs))
    held_out = distillation.prepare(validation.pixels, arguments.cache / "val_teacher")
    labels = torch.from_numpy(np.asarray(validation.labels))
    rows = []
    for name, config in variants(len(photographs.classes), arguments.side).items():
        source = make_source(photographs, features, config, arguments)
        scores = []
        for seed in range(arguments.seeds):
            arguments.seed = seed
            arguments.out = arguments.runs / f"{name.replace(' ', '_')}_{seed}"
            torch.manual_seed(seed)
            model = MMViT(config)
            model.load_state_dict(fit(model, source, arguments), strict=False)
            scores.append(accuracy(model.eval(), held_out, labels, arguments.side))
        rows.append(
            {
                "variant": name,
                "top1": round(100 * statistics.mean(scores), 2),
                "spread": round(100 * statistics.stdev(scores), 2) if len(scores) > 1 else None,
                "seeds": len(scores),
                "parameters": trained_parameters(config),
                "width": config.width,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


@torch.inference_mode()
def accuracy(
    model: MMViT, features: distillation.TeacherFeatures, labels: torch.Tensor, side: int
) -> float:
    """Top-1 on photographs whose stem was computed beforehand."""
    parts = []
    for start in range(0, len(labels), 128):
        index = np.arange(start, min(start + 128, len(labels)))
        taps = features.taps(index, model.config)
        parts.append(model.from_stem(taps, (side, side)).logits)
    return measure(torch.cat(parts), labels, 1.0)["top1"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.set_defaults(epochs=4.0)
    given = parser.parse_args()
    given.runs = given.out
    found = run(given)
    given.runs.mkdir(parents=True, exist_ok=True)
    (given.runs / "ablation.json").write_text(json.dumps(found, indent=2), encoding="utf-8")

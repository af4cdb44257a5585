"""Do views and scales matter? Variants of about equal size, trained on equally many photographs.

    python -m crossfuse.training.mmvit_ablation --data imagenette --cache CACHE --out RUN \\
        --batch 256 --device cuda --card mmvit_imagenette

Nothing in them was trained elsewhere, unless ``--stem lite2`` puts all of them on the frozen stem
(with ``--keep-maps`` that can be done without a GPU). Every variant sees the same photographs for
as many epochs under the same recipe; widths are chosen so that the numbers of parameters are within
a few per cent. Short runs at few pixels: the differences are about these budgets, not about fully
trained models. Every run adds a line to ``ablation.jsonl``; runs that are there already are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crossfuse import weights
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training.mmvit import (
    add_train_arguments,
    begun_model,
    cached_photographs,
    material_of,
)
from crossfuse.training.mmvit_evaluation import measure, predict
from crossfuse.training.mmvit_trainer import fit, settle

FILE = "ablation.jsonl"
DEFAULT_SEEDS = (0, 1, 2)


def variants(classes: int, side: int, stem: str = "residual") -> dict[str, MMViTConfig]:
    """The model as it is, and with one thing changed; all of nearly the same size.

    On convolutions of their own, or (``stem`` "lite2") on the frozen stem.
    """
    make = MMViTConfig.small if stem == "lite2" else MMViTConfig.from_scratch
    base = make(classes, side)
    size = parameters_of(base)
    changed = {
        "two views": base,
        "one view (fine)": replace(base, views=1),
        "one view (coarse)": replace(base, views=1, stride=2 * base.stride),
        "three views": replace(base, views=3),
        "two views, cross off": replace(base, fusion="none"),
        # As many blocks, all at the first resolution.
        "two views, one scale": replace(base, blocks=(sum(base.blocks) + 4,)),
    }
    return {name: with_size(config, size) for name, config in changed.items()}


def parameters_of(config: MMViTConfig) -> int:
    """Trained parameters of a config."""
    with torch.device("meta"):
        return sum(p.numel() for p in MMViT(config).parameters() if p.requires_grad)


def with_size(config: MMViTConfig, size: int) -> MMViTConfig:
    """The same config at the width that comes nearest to so many parameters."""
    step = config.heads * 2
    widths = range(step * 4, step * 64, step)
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if parameters_of(replace(config, width=widths[middle])) < size:
            low = middle + 1
        else:
            high = middle
    near = [replace(config, width=widths[i]) for i in {max(low - 1, 0), low}]
    return min(near, key=lambda c: abs(parameters_of(c) - size))


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every chosen variant with every seed, seed by seed; see :func:`summary`."""
    torch.set_num_threads(arguments.threads)
    photographs = cached_photographs(arguments, "train")
    validation = cached_photographs(arguments, "val")
    labels = torch.from_numpy(validation.labels)
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    chosen = variants(len(photographs.classes), arguments.side, arguments.stem)
    shared = begun_model(chosen["two views"], arguments)
    material = material_of(photographs, shared, None, arguments)
    ended = time.monotonic() + 60 * (arguments.stop_after or 1e9)
    longest = 0.0
    for seed in arguments.seeds:
        for name in arguments.variants or chosen:
            known = {(row["variant"], row["seed"]) for row in read(folder)}
            began = time.monotonic()
            if (name, seed) in known or began + longest > ended:
                continue
            arguments.seed = seed
            arguments.out = folder / f"{name.replace(' ', '_')}_{seed}"
            torch.manual_seed(seed)
            model = MMViT(chosen[name])
            model.stem.load_state_dict(shared.stem.state_dict())
            trained = fit(model, material, arguments)
            settle(model, trained, photographs)
            logits = predict(model, validation.pixels)
            row = {
                "variant": name,
                "seed": seed,
                "top1": measure(logits, labels, 1.0)["top1"],
                "parameters": parameters_of(chosen[name]),
                "width": chosen[name].width,
                "epochs": round(trained.epochs, 2),
                "photographs_per_second": round(trained.photographs_per_second, 1),
            }
            with (folder / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            longest = max(longest, time.monotonic() - began)
    arguments.out = folder
    return summary(read(folder))


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs that are recorded under a folder."""
    file = folder / FILE
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: accuracy in per cent, mean and standard deviation over its seeds, and
    the mean of its difference to "two views" over the seeds that both have, with its deviation."""
    base = {row["seed"]: row["top1"] for row in rows if row["variant"] == "two views"}
    found = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = {row["seed"]: row for row in rows if row["variant"] == name}
        scores = [100 * row["top1"] for row in own.values()]
        behind = [100 * (own[seed]["top1"] - base[seed]) for seed in own if seed in base]
        first = next(iter(own.values()))
        found.append(
            {
                "variant": name,
                "top1": round(statistics.mean(scores), 2),
                "spread": round(statistics.stdev(scores), 2) if len(scores) > 1 else None,
                "difference": round(statistics.mean(behind), 2) if behind else None,
                "difference_spread": round(statistics.stdev(behind), 2)
                if len(behind) > 1
                else None,
                "seeds": len(scores),
                "parameters": first["parameters"],
                "epochs": first["epochs"],
            }
        )
    return found


def table(rows: Sequence[dict[str, Any]], data: str, side: int) -> dict[str, Any]:
    """The summary as a card carries it and the page shows it: title, rows, note."""
    found = summary(rows)
    return {
        "title": "Do views and scales matter?",
        "rows": [
            {
                "variant": row["variant"],
                "top-1 %": row["top1"],
                "± (seeds)": row["spread"],
                "to two views": row["difference"],
                "± (pairs)": row["difference_spread"],
                "seeds": row["seeds"],
                "parameters": row["parameters"],
            }
            for row in found
        ],
        "note": f"Each trained from nothing on {data} for {found[0]['epochs']:g} epochs at {side} "
        "pixels with one recipe; widths chosen for nearly equal numbers of parameters. Differences "
        "are taken seed by seed. Short trainings: they compare budgets, not finished models.",
    }


def write_table(name: str, found: dict[str, Any]) -> None:
    """Put the table into the card of stored weights."""
    card = weights.card(name) | {"ablations": [found]}
    path = weights.WEIGHTS / name / "card.json"
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_train_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=DEFAULT_SEEDS)
    parser.add_argument("--variants", nargs="+", help="some of them, in this order")
    parser.add_argument("--stop-after", type=float, help="minutes; begin no run that would be over")
    parser.add_argument("--card", help="put the table into the card of these weights")
    parser.set_defaults(
        stem="residual", epochs=30.0, side=64, stored_side=160, cutmix=1.0, crop=0.35, warm_up=100
    )
    given = parser.parse_args()
    print(json.dumps(run(given), indent=2))
    if given.card:
        write_table(given.card, table(read(given.out), given.data.name, given.side))

"""Training and evaluation of MCA + 3D-CNN on EEG: the commands, honest by default.

``crossfuse evaluate mca_eeg --dataset eegmat --data DIR --protocol subject --json`` leaves one
person out at a time (``eeg_protocols``), for MCA and every method beside it, and names the figure
of random windows, which leaks, next to it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfuse.encoders.eeg_normalise import Normalisation
from crossfuse.models.mca_eeg import MCAEEG, MCAEEGConfig
from crossfuse.training.eeg_datasets import Trial, load_dataset
from crossfuse.training.eeg_fit import METHODS, TrainRecipe, Windows, cut, fit, scores_of
from crossfuse.training.eeg_protocols import PARTS, Setting, combine, run_protocol, splits
from crossfuse.training.eeg_scores import calibrate, summary

COMMAND = "crossfuse evaluate mca_eeg --dataset eegmat --data DIR --protocol subject --json"


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=("eegmat", "deap"), default="eegmat")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--scale", default="valence", help="DEAP's rating to tell high from low")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument(
        "--jobs", type=int, default=_processors(), help="processes that share the folds"
    )
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda": where networks learn')


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    _shared(parser)
    parser.add_argument(
        "--features",
        choices=("ours", "paper", "recording"),
        default="ours",
        help="ours: z-scored by the baseline, smoothed; paper: baseline subtracted, no smoothing, "
        "one map a trial; recording: z-scored by all of a person's columns (transductive)",
    )
    parser.add_argument("--protocol", choices=("subject", "paper"), default="subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder to write weights into")
    parser.add_argument("--name", default="mca_eeg")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _shared(parser)
    parser.add_argument("--protocol", choices=("subject", "paper", "pretrained"), default="subject")
    parser.add_argument("--folds", type=int, default=0, help="0 = leave one person out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--features",
        choices=("ours", "recording"),
        default="ours",
        help="of all methods but paper's: z-scored by the baseline, or by all of a person's "
        "columns (transductive)",
    )
    parser.add_argument("--keep", type=Path, default=None, help="keep finished folds in a folder")
    parser.add_argument("--save", type=Path, default=None, help="also write the figures here")


def setting(features: str, trials: Sequence[Trial], epochs: int | None = None) -> Setting:
    """Windows, network and recipe that go with a kind of features."""
    channels, bands, _ = trials[0].de.shape
    paper = features == "paper"
    config = MCAEEGConfig(
        channels=channels,
        bands=bands,
        scaling="minmax" if paper else "none",
        dropout=0.0 if paper else 0.5,
    )
    recipe = TrainRecipe.paper() if paper else TrainRecipe()
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    return Setting(cut(trials, scope="trial" if paper else "window"), config, recipe)


def normalisation(name: str) -> Normalisation:
    if name == "paper":
        return Normalisation.paper()
    return Normalisation(method="recording") if name == "recording" else Normalisation()


def train(args: argparse.Namespace) -> Path:
    """Fit on everyone in the folder, set the threshold on held-out people, write weights and card.

    ``--protocol paper`` trains on 90 % of the windows at random instead and sets no threshold.
    """
    from crossfuse.weights import save_weights

    trials = load_dataset(args.dataset, args.data, normalisation(args.features), scale=args.scale)
    one = setting(args.features, trials, args.epochs)
    windows, recipe = one.windows, one.recipe
    use = np.ones(len(windows), bool)
    shape = (1.0, 0.0)
    figures: dict[str, Any] = {}
    if args.protocol == "subject":
        folds = 0 if len(windows.people) < 8 else 7
        held = run_protocol(
            {"mca": one},
            "subject",
            ["mca"],
            [args.seed],
            folds=folds,
            jobs=args.jobs,
            device=args.device,
            say=print,
        )["mca"]
        run = held["runs"][0]
        shape = calibrate(np.array(run["scores"]), windows.label)
        figures = {"held_out": held["mean"], "folds": folds or len(windows.people)}
    else:
        use = next(splits(windows, "paper", 1, args.seed))[0]
    model = fit(windows, use, one.config, recipe, args.seed, args.device).cpu()
    fold_into(model, *shape)
    card = {
        "model": "mca_eeg",
        "config": asdict(one.config),
        "task": f"{args.dataset}: "
        + ("rest or mental arithmetic" if args.dataset == "eegmat" else f"{args.scale} >= 5"),
        "features": {
            "recipe": "paper",
            "normalisation": asdict(normalisation(args.features)),
            "baseline_seconds": 60 if args.dataset == "eegmat" else 3,
            "rate": 128,
        },
        "training": asdict(recipe),
        "seed": args.seed,
        "protocol": args.protocol,
        "people": list(windows.people),
        "windows": int(use.sum()),
        "metrics": figures,
    }
    target = save_weights(args.name, model, card, folder=args.out)
    print(f"wrote {target}")
    return target


def fold_into(model: MCAEEG, slope: float, shift: float) -> None:
    """Put score -> slope * score + shift into the linear layer (two classes)."""
    with torch.no_grad():
        model.classifier.weight.mul_(slope)
        model.classifier.bias.mul_(slope).add_(torch.tensor([-shift / 2, shift / 2]))


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a protocol as a plain dictionary; also written to ``--save``.

    Under ``subject``, ``random_windows_LEAKING`` holds the same methods on ten random parts.
    """
    began = time.time()
    sets = {args.features: _load(args, args.features)}
    judged = sets[args.features]
    result: dict[str, Any]
    if args.protocol == "pretrained":
        result = _pretrained(setting(args.features, judged).windows)
    else:
        if "paper" in args.methods:
            sets["paper"] = _load(args, "paper")
        kinds = {name: setting(name, trials, args.epochs) for name, trials in sets.items()}
        settings = {
            method: kinds["paper" if method == "paper" else args.features]
            for method in args.methods
        }

        def ask(protocol: str, seeds: int, folds: int) -> dict[str, Any]:
            found = run_protocol(
                settings,
                protocol,
                args.methods,
                list(range(seeds)),
                folds=folds,
                jobs=args.jobs,
                device=args.device,
                keep=args.keep,
                say=_say,
            )
            for method in found.values():
                for run in method["runs"]:
                    del run["scores"]  # thousands of numbers; --keep has them
            return found

        people = len(kinds[args.features].windows.people)
        result = {
            "methods": ask(args.protocol, args.seeds, args.folds),
            "training": {name: asdict(one.recipe) for name, one in kinds.items()},
            "folds": args.folds or (people if args.protocol == "subject" else PARTS),
        }
        if args.protocol == "subject":
            result["random_windows_LEAKING"] = ask("paper", 1, args.folds)
    windows = setting(args.features, judged).windows
    result = {
        "dataset": args.dataset,
        "protocol": args.protocol,
        "features": args.features,
        "people": list(windows.people),
        "windows": len(windows),
        "trials": len(judged),
        "chance": 0.5,
        "order_confound": args.dataset == "eegmat",
        "command": COMMAND,
        "device": args.device,
        "seconds": round(time.time() - began, 1),
        **result,
    }
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _load(args: argparse.Namespace, features: str) -> list[Trial]:
    covariance = features != "paper" and args.protocol != "pretrained" and "riemann" in args.methods
    rule = normalisation(features)
    return load_dataset(args.dataset, args.data, rule, scale=args.scale, covariance=covariance)


def _say(line: str) -> None:
    """Progress goes to standard error: standard output holds the figures alone."""
    print(line, file=sys.stderr, flush=True)


def _pretrained(windows: Windows) -> dict[str, Any]:
    """The released weights on people they have not seen."""
    from crossfuse import registry
    from crossfuse.weights import card

    document = card("mca_eeg")
    seen = [name for name in windows.people if name in document.get("people", [])]
    model = registry.load("mca_eeg")
    assert isinstance(model, MCAEEG)
    score = scores_of(model, windows, np.ones(len(windows), bool))
    figures = summary(
        score, windows.label, windows.person, windows.trial, people=windows.people, trials=True
    )
    return {
        "methods": {"mca": combine([figures | {"seed": int(document.get("seed", 0))}])},
        "seen_in_training": seen,
    }

"""Training and evaluation of MCA + 3D-CNN on EEG: honest by default.

Protocol ``subject`` holds out whole people (leave-one-subject-out, or ``--folds``); protocol
``paper`` is the random split over pooled windows that the literature uses, which leaks: windows
of one trial lie on both sides. Each method gets the same windows, the same normalisation by the
person's baseline segment (which is never scored), and the same cross-fitted threshold: the score
of a held-out person is shifted and scaled by a logistic curve fitted to the held-out scores of
the *other* people. Trials are scored by the mean of their windows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.encoders.eeg_normalise import Normalisation
from crossfuse.errors import CrossfuseError
from crossfuse.models.mca_eeg import (
    MCAEEG,
    MCAEEGConfig,
    mutual_cross_attention,
    scale_columns,
)
from crossfuse.training.eeg_datasets import Trial, load_dataset
from crossfuse.training.eeg_scores import calibrate, cross_calibrate, summary

METHODS = ("mca", "concatenate", "logistic", "riemann")
COMMAND = "crossfuse evaluate mca_eeg --dataset eegmat --data DIR --protocol subject --json"


@dataclass(frozen=True)
class TrainRecipe:
    """AdamW with one cycle; noise is added per channel and band, whole channels are dropped.

    ``noise`` is in standard deviations of the baseline. ``balanced``: each epoch sees as many
    windows of one class as of the other, drawn anew. ``paper()`` is the published recipe.
    """

    epochs: int = 8
    rate: float = 1e-3
    decay: float = 1e-3
    batch: int = 32
    noise: float = 0.3
    channel_dropout: float = 0.1
    cycle: bool = True
    balanced: bool = True

    @classmethod
    def paper(cls) -> TrainRecipe:
        return cls(12, 2e-4, 1e-4, 32, 0.0, 0.0, False, False)


@dataclass(frozen=True)
class Windows:
    """``de``, ``psd`` (N, C, F, W); ``covariance`` (N, C, C) or None; ``label``, ``person`` and
    ``trial`` (N,) integers. ``fused`` is there for the paper's scope: the network sees it as it
    is, because its attention ran over whole trials."""

    de: Tensor
    psd: Tensor
    label: np.ndarray
    person: np.ndarray
    trial: np.ndarray
    people: tuple[str, ...]
    covariance: np.ndarray | None = None
    fused: Tensor | None = None  # (N, C, F, W), where one map is shared by a trial's windows

    def __len__(self) -> int:
        return len(self.label)


def cut(trials: Sequence[Trial], width: int = 3, scope: str = "window") -> Windows:
    """Non-overlapping windows of ``width`` columns; the rest of a trial's columns is dropped.

    ``scope``: "window" leaves the attention to the network, "trial" fuses each whole trial first
    and scales its columns, as the paper does, so that all windows of a trial share its maps.
    """
    people = tuple(dict.fromkeys(trial.person for trial in trials))
    parts: dict[str, list[Any]] = {key: [] for key in ("de", "psd", "label", "person", "trial")}
    covariances: list[np.ndarray] = []
    fused: list[Tensor] = []
    for number, trial in enumerate(trials):
        count = trial.de.shape[-1] // width
        for key, columns in (("de", trial.de), ("psd", trial.psd)):
            blocks = columns[..., : count * width].unflatten(-1, (count, width))
            parts[key].append(blocks.permute(2, 0, 1, 3))
        parts["label"] += [trial.label] * count
        parts["person"] += [people.index(trial.person)] * count
        parts["trial"] += [number] * count
        if trial.covariance is not None:
            covariances.append(trial.covariance[:count])
        if scope == "trial":
            both = (part[None, ..., : count * width] for part in (trial.de, trial.psd))
            z = scale_columns(mutual_cross_attention(*both).output)[0]
            fused.append(z.unflatten(-1, (count, width)).permute(2, 0, 1, 3))
    return Windows(
        torch.cat(parts["de"]).contiguous(),
        torch.cat(parts["psd"]).contiguous(),
        np.array(parts["label"]),
        np.array(parts["person"]),
        np.array(parts["trial"]),
        people,
        np.concatenate(covariances) if covariances else None,
        torch.cat(fused).contiguous() if fused else None,
    )


# --- the network -----------------------------------------------------------------------------


def fit(
    windows: Windows,
    use: np.ndarray,
    config: MCAEEGConfig,
    recipe: TrainRecipe,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> MCAEEG:
    """Train on the windows ``use`` (bool)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MCAEEG(config)
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        model.train()
        de, psd = windows.de[use], windows.psd[use]
        fused = None if windows.fused is None else windows.fused[use]
        label = torch.from_numpy(windows.label[use])
        size = len(label)
        if recipe.balanced:
            size = config.classes * int(torch.bincount(label, minlength=config.classes).min())
        steps = max(1, size // recipe.batch)
        optimiser = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.decay)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if recipe.cycle:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, recipe.rate, total_steps=steps * recipe.epochs, pct_start=0.2
            )
        else:
            schedule = torch.optim.lr_scheduler.StepLR(optimiser, 10 * steps, 0.2)
        for epoch in range(recipe.epochs):
            order = _order(label, recipe.balanced, generator)
            for step in range(steps):
                pick = order[step * recipe.batch : (step + 1) * recipe.batch]
                if fused is not None:
                    logits = model.classify(fused[pick][:, None])
                else:
                    inputs = _augment(de[pick], psd[pick], recipe, generator)
                    logits = model(*inputs).logits[:, 0]
                loss = F.cross_entropy(logits, label[pick])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
            if progress:
                progress((epoch + 1) / recipe.epochs)
    return model.eval()


def _order(label: Tensor, balanced: bool, generator: torch.Generator) -> Tensor:
    """One epoch's order of windows; as many of each class as the rarest has, if balanced."""
    order = torch.randperm(len(label), generator=generator)
    if not balanced:
        return order
    classes = [order[label[order] == one] for one in torch.unique(label)]
    fewest = min(len(part) for part in classes)
    mixed = torch.cat([part[:fewest] for part in classes])
    return mixed[torch.randperm(len(mixed), generator=generator)]


def _augment(
    de: Tensor, psd: Tensor, recipe: TrainRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count, channels, bands, _ = de.shape
    if recipe.noise:
        shape = (2, count, channels, bands, 1)
        noise = recipe.noise * torch.randn(shape, generator=generator)
        de, psd = de + noise[0], psd + noise[1]
    if recipe.channel_dropout:
        kept = torch.rand(count, channels, 1, 1, generator=generator) > recipe.channel_dropout
        de, psd = de * kept, psd * kept
    return de, psd


def scores_of(model: MCAEEG, windows: Windows, use: np.ndarray) -> np.ndarray:
    """Logit of class 1 minus logit of class 0 for each window."""
    with torch.no_grad():
        if windows.fused is not None:
            logits = model.classify(windows.fused[use][:, None])
        else:
            logits = model(windows.de[use], windows.psd[use]).logits[:, 0]
    return (logits[:, 1] - logits[:, 0]).numpy()


# --- the methods beside it -------------------------------------------------------------------


def fit_and_score(
    method: str,
    windows: Windows,
    train: np.ndarray,
    test: np.ndarray,
    config: MCAEEGConfig,
    recipe: TrainRecipe,
    seed: int,
) -> np.ndarray:
    """Scores of the test windows by one of ``METHODS`` trained on the train windows."""
    if method in ("mca", "concatenate"):
        if method == "concatenate":
            config = replace(config, fusion="concatenate")
            windows = replace(windows, fused=None)
        return scores_of(fit(windows, train, config, recipe, seed), windows, test)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if method == "logistic":
        table = torch.cat([windows.de, windows.psd], 2).mean(-1).flatten(1).numpy()
        strength = 0.003
    elif method == "riemann":
        if windows.covariance is None:
            raise CrossfuseError("this data set was loaded without covariances")
        from pyriemann.tangentspace import TangentSpace

        space = TangentSpace(metric="riemann").fit(windows.covariance[train])
        table, strength = space.transform(windows.covariance), 0.003
    else:
        raise CrossfuseError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    line = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=strength, class_weight="balanced", max_iter=500),
    )
    line.fit(table[train], windows.label[train])
    result: np.ndarray = line.decision_function(table[test])
    return result


# --- protocols -------------------------------------------------------------------------------


def splits(
    windows: Windows, protocol: str, folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(train, test) masks. ``subject``: whole people are held out, one at a time for ``folds`` = 0.
    ``paper``: random windows, in ten parts, whatever trial or person they are of."""
    if protocol == "subject":
        people = np.random.default_rng(1).permutation(len(windows.people))
        count = len(people) if folds in (0, None) else folds
        if not 2 <= count <= len(people):
            raise CrossfuseError(
                f"{count} folds were asked for {len(people)} people; at least two people and at "
                "most one fold a person are needed"
            )
        for part in range(count):
            test = np.isin(windows.person, people[part::count])
            yield ~test, test
    elif protocol == "paper":
        parts = np.random.default_rng(seed).permutation(len(windows)) % 10
        for part in range(folds or 1):
            test = parts == part % 10
            yield ~test, test
    else:
        raise CrossfuseError(f"there is no protocol {protocol!r}; there are subject and paper")


def run_protocol(
    windows: Windows,
    protocol: str,
    method: str,
    seeds: Sequence[int],
    *,
    config: MCAEEGConfig,
    recipe: TrainRecipe,
    folds: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All seeds of one method under one protocol: per seed and mean +- spread."""
    runs = []
    for seed in seeds if method in ("mca", "concatenate") else seeds[:1]:
        score = np.full(len(windows), np.nan)
        for train, test in splits(windows, protocol, folds, seed):
            score[test] = fit_and_score(method, windows, train, test, config, recipe, seed)
        judged = ~np.isnan(score)
        part = {k: getattr(windows, k)[judged] for k in ("label", "person", "trial")}
        if protocol == "subject":
            final = cross_calibrate(score[judged], part["label"], part["person"])
        else:
            final = score[judged]
        runs.append(
            summary(final, **part, people=windows.people, trials=protocol == "subject")
            | {"seed": int(seed), "scores": [round(float(v), 3) for v in score[judged]]}
        )
        say(f"{protocol} {method} seed {seed}: {_brief(runs[-1])}")
    return combine(runs)


def combine(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every figure, and the runs themselves."""
    keys = [k for k, v in runs[0].items() if isinstance(v, float)]
    mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in keys}
    spread = {key: round(float(np.std([run[key] for run in runs])), 4) for key in keys}
    return {"mean": mean, "spread": spread, "seeds": [run["seed"] for run in runs], "runs": runs}


def _brief(run: dict[str, Any]) -> str:
    names = ("window_balanced_accuracy", "trial_balanced_accuracy", "window_auc")
    return ", ".join(f"{name} {run[name]:.3f}" for name in names if name in run)


# --- commands --------------------------------------------------------------------------------


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=("eegmat", "deap"), default="eegmat")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--scale", default="valence", help="DEAP's rating to tell high from low")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument(
        "--features",
        choices=("ours", "paper", "recording"),
        default="ours",
        help="ours: z-scored by the baseline, smoothed; paper: baseline subtracted, no smoothing, "
        "one map a trial; recording: z-scored by all of a person's columns (transductive)",
    )


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    _shared(parser)
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
    parser.add_argument("--save", type=Path, default=None, help="also write the figures here")


def setting(args: argparse.Namespace, trials: Sequence[Trial]) -> tuple[MCAEEGConfig, TrainRecipe]:
    """The network and the training recipe that go with ``--features``."""
    channels, bands, _ = trials[0].de.shape
    paper = args.features == "paper"
    config = MCAEEGConfig(
        channels=channels,
        bands=bands,
        scaling="minmax" if paper else "none",
        dropout=0.0 if paper else 0.5,
    )
    recipe = TrainRecipe.paper() if paper else TrainRecipe()
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    return config, recipe


def scope_of(args: argparse.Namespace) -> str:
    return "trial" if args.features == "paper" else "window"


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
    windows = cut(trials, scope=scope_of(args))
    config, recipe = setting(args, trials)
    use = np.ones(len(windows), bool)
    shape = (1.0, 0.0)
    figures: dict[str, Any] = {}
    if args.protocol == "subject":
        folds = 0 if len(windows.people) < 8 else 7
        held = run_protocol(
            windows,
            "subject",
            "mca",
            [args.seed],
            config=config,
            recipe=recipe,
            folds=folds,
            say=print,
        )
        run = held["runs"][0]
        shape = calibrate(np.array(run["scores"]), windows.label)
        figures = {"held_out": held["mean"], "folds": folds or len(windows.people)}
    else:
        use = next(splits(windows, "paper", 1, args.seed))[0]
    model = fit(windows, use, config, recipe, args.seed)
    fold_into(model, *shape)
    card = {
        "model": "mca_eeg",
        "config": asdict(config),
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
    """Figures of a protocol as a plain dictionary; also written to ``--save``."""
    began = time.time()
    covariance = "riemann" in args.methods and args.protocol != "pretrained"
    trials = load_dataset(
        args.dataset,
        args.data,
        normalisation(args.features),
        scale=args.scale,
        covariance=covariance,
    )
    windows = cut(trials, scope=scope_of(args))
    if args.protocol == "pretrained":
        result = _pretrained(windows)
    else:
        config, recipe = setting(args, trials)
        result = {
            "methods": {
                method: run_protocol(
                    windows,
                    args.protocol,
                    method,
                    list(range(args.seeds)),
                    config=config,
                    recipe=recipe,
                    folds=args.folds,
                    say=(lambda line: None) if getattr(args, "json", False) else print,
                )
                for method in args.methods
            },
            "training": asdict(recipe),
            "folds": args.folds or (len(windows.people) if args.protocol == "subject" else 1),
        }
    result = {
        "dataset": args.dataset,
        "protocol": args.protocol,
        "features": args.features,
        "people": list(windows.people),
        "windows": len(windows),
        "trials": len(trials),
        "chance": 0.5,
        "order_confound": args.dataset == "eegmat",
        "seconds": round(time.time() - began, 1),
        **result,
    }
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


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

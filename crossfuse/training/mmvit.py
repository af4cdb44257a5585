"""Train and evaluate MMViT: from scratch, or distilled from a frozen EfficientNet-Lite2.

    crossfuse train mmvit --data imagenette --cache CACHE --out RUN --stem residual --side 144 \\
        --stored-side 160 --begin-side 64 --end-side 112 --batch 128 --crop 0.3 --colour 0.3 \\
        --mixup 0.2 --muon --rate 5e-3 --warm-up 100 --average 0.994 --bf16 --epochs 55
    crossfuse evaluate mmvit --data imagenette --weights mmvit_imagenette_scratch --json

The loss is cross-entropy to ``distil * teacher + (1 - distil) * smoothed label``, plus, with a
teacher, one minus the cosine between a projection of our features and the teacher's. With
``--outside``, photographs of none of the classes are to get even probabilities (outlier exposure,
Hendrycks et al. 2019). A run ends after ``--epochs`` or, on a machine with other work to do, after
``--minutes`` of its own time. It can be stopped at any time: the same command resumes.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfuse import weights
from crossfuse.data.image_folders import Photographs, read_photographs
from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FrozenFront
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.training import distillation
from crossfuse.training.mmvit_evaluation import (
    add_evaluate_arguments,
    calibrate,
    evaluate,
)
from crossfuse.training.mmvit_material import (
    AugmentedPhotographs,
    KeptMaps,
    Material,
    keep_maps,
    smoothed,
)
from crossfuse.training.mmvit_trainer import Trained, fit, load_average, settle
from crossfuse.training.warm_start import warm_start

__all__ = ["add_evaluate_arguments", "add_train_arguments", "evaluate", "train"]

WARM_START = 6000  # photographs at most
KNOWN_TO_TEACHER = 0.2  # outside photographs of more teacher's mass on our classes are left out


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of classes, or CSV list")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded pixels are kept")
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoints and log")
    parser.add_argument(
        "--stem", choices=("lite2", "residual", "convolutions", "patch"), default="lite2"
    )
    parser.add_argument("--side", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--stored-side", type=int, help="side of the pixels kept; default: --side")
    parser.add_argument("--begin-side", type=int, help="of the crops at first; default: --end-side")
    parser.add_argument("--end-side", type=int, help="of the crops at last; default: --side")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument(
        "--fusion", default="joint", choices=("joint", "sequential", "class_token", "none")
    )
    parser.add_argument("--width", type=int, help="of the first stage; default: the config's")
    parser.add_argument("--distil", type=float, default=0.0, help="weight of the teacher, 0 to 1")
    parser.add_argument("--start", help="weights to begin with, for other classes too")
    parser.add_argument("--outside", type=Path, help="photographs of none of the classes")
    parser.add_argument(
        "--coarse-outside", type=int, default=0, metavar="SIDE",
        help="the outside photographs' true side, where that is coarser: some of ours get it too",
    )  # fmt: skip
    parser.add_argument(
        "--keep-maps", action="store_true",
        help="compute the frozen stem once for each whole photograph: for machines without a GPU",
    )  # fmt: skip
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, help="end after so many minutes instead")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate (AdamW)")
    parser.add_argument("--warm-up", type=int, default=200, help="steps of linear warm-up")
    parser.add_argument("--average", type=float, default=0.998, help="decay of averaged weights")
    parser.add_argument("--drop-path", type=float, help="stochastic depth; default: the config's")
    parser.add_argument("--crop", type=float, default=0.25, help="smallest area of random crops")
    parser.add_argument("--colour", type=float, default=0.4, help="strength of colour changes")
    parser.add_argument("--mixup", type=float, default=0.0, help="mixup's alpha; 0 = off")
    parser.add_argument("--cutmix", type=float, default=0.0, help="CutMix's alpha; 0 = off")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (mixed precision there)")
    parser.add_argument("--muon", action="store_true", help="Muon for matrices, AdamW for the rest")
    parser.add_argument("--bf16", action="store_true", help="mixed precision on a CPU, too")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model first")
    parser.add_argument(
        "--prepare-only", action="store_true", help="decode the photographs, then stop"
    )
    parser.add_argument("--name", help="write the weights to assets/weights/NAME at the end")


def config_of(arguments: argparse.Namespace, classes: int) -> MMViTConfig:
    """The config that the options ask for."""
    make = MMViTConfig.small if arguments.stem == "lite2" else MMViTConfig.from_scratch
    config = make(classes, arguments.side, arguments.views)
    given = {name: getattr(arguments, name) for name in ("width", "drop_path")}
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(config, stem=arguments.stem, fusion=arguments.fusion, **changed)


def train(arguments: argparse.Namespace) -> None:
    """Train, calibrate on half of the validation photographs, and write weights with a card."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    photographs = cached_photographs(arguments, "train")
    validation = cached_photographs(arguments, "val")
    if arguments.prepare_only:
        return
    config = config_of(arguments, len(photographs.classes))
    model = begun_model(config, arguments)
    teacher = None
    if arguments.distil > 0:
        teacher = distillation.Teacher()
        teacher.to(arguments.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher.match(photographs, arguments.side)
    material = material_of(photographs, model, teacher, arguments)
    if config.stem == "lite2" and not arguments.start:
        warm(model, material, photographs, arguments)
    trained = fit(model, material, arguments)
    settle(model, trained, photographs)
    figures, calibration = calibrate(model, validation)
    card = _card(arguments, config, photographs, figures, calibration, trained)
    print({name: round(value, 4) for name, value in figures.items()}, flush=True)
    state = model.state_dict()
    if config.stem == "lite2":
        state = {name: value for name, value in state.items() if not name.startswith("stem.")}
        card["borrowed"] = {"stem.": "efficientnet-lite2"}
    weights.save_weights("weights", state, card, folder=arguments.out, half=True)
    if arguments.name:
        weights.save_weights(arguments.name, state, card, half=True)


def begun_model(config: MMViTConfig, arguments: argparse.Namespace) -> MMViT:
    """A model before its first step, on the device."""
    model = MMViT(config)
    if config.stem == "lite2":
        state = distillation.load_lite2().state_dict()
        model.stem.load_state_dict(distillation.front_state(state))
    if arguments.start:
        load_average(model, arguments.start)
    return model.to(arguments.device)


def warm(
    model: MMViT, material: Material, photographs: Photographs, arguments: argparse.Namespace
) -> None:
    """:func:`warm_start` from some of the photographs."""
    chosen = np.arange(0, len(photographs), max(1, len(photographs) // WARM_START))
    labels = _on(photographs.labels[chosen], arguments.device)
    if isinstance(material, KeptMaps):
        taps = tuple(tap[chosen].float() for tap in material.taps)
    else:
        parts = [
            model.stem(distillation.to_teacher(_on(pixels, arguments.device), arguments.side))
            for pixels in np.array_split(photographs.pixels[chosen], -(-len(chosen) // 64))
        ]
        taps = tuple(torch.cat(found) for found in zip(*parts, strict=True))
    warm_start(model, taps, labels)


def material_of(
    photographs: Photographs,
    model: MMViT,
    teacher: distillation.Teacher | None,
    arguments: argparse.Namespace,
) -> Material:
    """The photographs on the device; of the outside ones, those that the teacher does not know.

    Raises:
        CrossfuseError: ``--keep-maps`` for a stem that is trained.
    """
    classes, side, stem = len(photographs.classes), arguments.side, model.stem
    frozen = stem if isinstance(stem, FrozenFront) else None
    if arguments.keep_maps and frozen is None:
        raise CrossfuseError("--keep-maps is for the frozen stem: --stem lite2.")
    outside = None
    if arguments.outside:
        others = read_photographs(arguments.outside, "train", arguments.stored_side or side)
        outside = _on(others.pixels, arguments.device)
        if teacher is not None:
            mass = [teacher(distillation.to_teacher(part, side)).mass for part in outside.split(64)]
            outside = outside[torch.cat(mass) < KNOWN_TO_TEACHER]
            print(f"outside: {len(outside)} of {len(others)} photographs are used", flush=True)
    pixels = _on(photographs.pixels, arguments.device)
    labels = _on(photographs.labels, arguments.device)
    if not arguments.keep_maps:
        return AugmentedPhotographs(pixels, labels, classes, arguments, frozen, teacher, outside)
    assert frozen is not None
    strides = {min(model.config.stride << view, 32) for view in range(model.config.views)}
    taps, pooled = keep_maps(pixels, side, frozen, teacher, strides=strides)
    targets = smoothed(labels, classes)
    if teacher is not None and pooled is not None:
        said = teacher.classifier(pooled.float())[:, teacher.matched].softmax(-1)
        targets = torch.lerp(targets, said, arguments.distil)
    kept = None
    if outside is not None:
        kept, _ = keep_maps(outside, side, frozen, None, strides=strides)
    return KeptMaps(taps, labels, targets, pooled, side, kept)


def _on(values: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.array(values)).to(device)


def cached_photographs(arguments: argparse.Namespace, split: str) -> Photographs:
    """The photographs of a split, decoded once and kept under ``--cache``."""
    side = arguments.stored_side or arguments.side
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


def _card(
    arguments: argparse.Namespace,
    config: MMViTConfig,
    photographs: Photographs,
    figures: dict[str, float],
    calibration: dict[str, float],
    trained: Trained,
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
    outside = (
        f" Photographs of none of the classes ({arguments.outside.name}) were shown with even "
        "targets."
        if arguments.outside
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
        "recipe": f"{stem}{teacher}{outside}{begun} A reduced model, not the paper's.",
        "seed": arguments.seed,
        "epochs": round(trained.epochs, 1),
        "trained_parameters": sum(value.numel() for value in trained.average.values()),
        "calibration": calibration,
        "metrics": figures,
        "command": f"crossfuse evaluate mmvit --data {arguments.data.name} "
        f"--weights {arguments.name or 'NAME'} --json",
    }

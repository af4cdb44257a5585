"""Training and evaluation of MIT on CrossFuse Rooms.

First both encoders learn from tags, each for itself (``start``). Every variant that learns from
tags goes on from there for the same number of steps with the backbone frozen, so that they differ
in the fusion alone. The upper bound learns from point labels for as long as both steps together.
``crossfuse train mit`` runs one variant (and the start, if that is not there yet) and goes on where
it was stopped; ``crossfuse evaluate mit`` makes one table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from crossfuse.data.rooms import CLASSES, generate
from crossfuse.data.rooms.catalogue import fetch_package
from crossfuse.models.mit import MIT, MITConfig, MITOutput, Standardise
from crossfuse.models.mit_answers import segment_logits
from crossfuse.training.mit_batches import Bank, Batch
from crossfuse.training.mit_data import COPIES, Scan, load_scans
from crossfuse.training.mit_fit import Budget, Loss, begin_from, fit, load_checkpoint
from crossfuse.training.mit_losses import EVERYWHERE, class_losses, supervised_loss, tag_loss
from crossfuse.training.mit_scenes import load_scenes
from crossfuse.training.mit_score import score
from crossfuse.training.mit_table import summary, trivial
from crossfuse.weights import WEIGHTS, save_weights

VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "interlaced": ("tags", {}, "tags; interlaced, 3-D asks first (the paper's order)"),
    "code_order": ("tags", {"first_query": "2d"}, "tags; interlaced, photographs ask first"),
    "not_interlaced": ("tags", {"interlaced": False}, "tags; 3-D asks in every block"),
    "only_3d": ("tags", {"decoder_depth": 0}, "tags; no photographs"),
    "supervised": ("labels", {}, "point labels: upper bound, same network"),
    "retrained": ("pseudo", {}, "the network of 'interlaced', on its pseudo-labels"),
    "second_stage": ("pseudo", {"decoder_depth": 0}, "3-D only, pseudo-labels of 'interlaced'"),
}
BATCH = 16
ROOMS = 320  # training rooms by default
VAL_ROOMS, ROOM_SEED = 48, 11
PUBLISHED = "interlaced"
START_RATE, RATE = 2e-3, 1e-3
FALSE_ALARMS = 0.01


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True,
        help="folder of crossfuse data rooms; where it holds none they are composed first",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="interlaced")
    parser.add_argument("--start-steps", type=int, default=2000, help="of the common start")
    parser.add_argument("--steps", type=int, default=1000, help=f"of {BATCH} scans each")
    parser.add_argument("--batch", type=int, default=BATCH, help="scans a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", type=int, default=None, help="use only the first so many rooms")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--publish", action="store_true", help="write assets/weights/mit at the end"
    )


def image_encoder(device: str = "cpu") -> Any:
    """The frozen image encoder that MIT was trained with."""
    from crossfuse.encoders.image import load_image_encoder
    from crossfuse.encoders.views import ENCODER

    return load_image_encoder(ENCODER, device)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant, or all, and what they begin from; returns validation scores by variant."""
    torch.set_num_threads(args.threads)
    compose_missing(args.data, args.rooms or ROOMS, args.threads)
    scans, held = read_data(args.data, args.device, args.rooms, args.threads)
    start = Budget(args.start_steps, args.batch, START_RATE)
    then = Budget(args.steps, args.batch, RATE)
    bank = Bank(scans, args.device)
    results: dict[str, Any] = {}
    for variant in VARIANTS if args.variant == "all" else (args.variant,):
        model = train_variant(variant, scans, bank, args.out, args.seed, start, then)
        results[variant] = score(model, held, args.device)
        brief = {k: v for k, v in results[variant].items() if not isinstance(v, dict)}
        print(json.dumps({"variant": variant, **brief}), flush=True)
        if args.publish and variant == PUBLISHED:
            publish(args, model.cpu(), len(scans), results[variant])
    return results


def compose_missing(data: Path, rooms: int, workers: int) -> None:
    """Compose training and validation rooms in ``data`` unless there are some.

    Raises:
        CrossfuseError: the furniture is not installed and cannot be fetched.
    """
    if any(data.glob("train/room_*/room.json")) and any(data.glob("val/room_*/room.json")):
        return
    package = fetch_package(data / "furniture")
    generate(
        data, rooms, ROOM_SEED, val_scenes=VAL_ROOMS, furniture_folder=package, workers=workers
    )


def read_data(
    data: Path, device: str, rooms: int | None = None, workers: int = 1
) -> tuple[list[Scan], list[Scan]]:
    """Training scans, whole and partial, and the whole scans of the validation rooms."""

    def encoder() -> Any:
        return image_encoder(device)

    scans = load_scans(data, "train", encoder, limit=rooms, copies=COPIES, workers=workers)
    return scans, load_scans(data, "val", encoder, partial=False, workers=workers)


def train_variant(
    variant: str,
    scans: Sequence[Scan],
    bank: Bank,
    out: Path,
    seed: int,
    start: Budget,
    then: Budget,
) -> MIT:
    """One variant, in eval mode on the bank's device; its checkpoints are kept in ``out``."""
    kind, changes, _ = VARIANTS[variant]
    torch.manual_seed(seed)
    path = out / f"{variant}-seed{seed}.pt"
    if kind == "labels":
        model = MIT(MITConfig.small(CLASSES, **changes)).to(bank.device)
        standardise(model, bank)
        both = Budget(
            start.steps + then.steps, start.batch, start.rate, start.seconds + then.seconds
        )
        return fit(model, bank, path, both, seed, labels_loss(scans, bank))
    always = tuple(torch.nonzero(bank.often >= EVERYWHERE).flatten().tolist())
    plain = MIT(MITConfig.small(CLASSES, everywhere=always, decoder_depth=0)).to(bank.device)
    standardise(plain, bank)
    began = fit(plain, bank, out / f"start-seed{seed}.pt", start, seed, tags_loss(bank))
    loss = tags_loss(bank, photos=changes.get("decoder_depth") != 0)
    if kind == "pseudo":
        loss = pseudo_loss(load_variant(out, "interlaced", seed).to(bank.device))
    torch.manual_seed(seed)
    model = MIT(MITConfig.small(CLASSES, everywhere=always, **changes)).to(bank.device)
    begin_from(model, began)
    finish = None
    if kind == "tags":  # what differs is the fusion, and it learns faster so
        model.backbone.requires_grad_(False)

        def finish(kept: MIT) -> None:
            calibrate(kept, bank)

    return fit(model, bank, path, then, seed + 1000, loss, finish)


@torch.no_grad()
def standardise(model: MIT, bank: Bank, scans: int = 64) -> None:
    """Mean and spread of what is known of a supervoxel, from some scans."""
    names = ("cells", "voxel_features", "positions", "voxel_mask", "segment")
    found = []
    for first in range(0, min(scans, len(bank)), 8):
        which = np.linspace(0, len(bank) - 1, scans).astype(int)[first : first + 8].tolist()
        inputs = bank.batch(which, first).inputs
        cloud = model.segment_inputs(**{name: inputs[name] for name in names})
        found.append(cloud["places"][cloud["segment_mask"]])
    layer = cast(Standardise, model.place[0])
    layer.mean.copy_(torch.cat(found).mean(0))
    layer.spread.copy_(torch.cat(found).std(0) + 1e-6)


def tags_loss(bank: Bank, photos: bool = True) -> Loss:
    """What tags can teach."""

    def loss(model: MIT, batch: Batch, share: float) -> Tensor:
        return tag_loss(model(**batch.inputs), batch.tags, bank.often, photos)

    return loss


def labels_loss(scans: Sequence[Scan], bank: Bank) -> Loss:
    """Point labels of supervoxels, for the upper bound only."""
    counts = [torch.from_numpy(s.histogram[:, :-1].astype(np.float32)) for s in scans]
    known = [count.to(bank.device) for count in counts]

    def loss(model: MIT, batch: Batch, share: float) -> Tensor:
        out = model(**batch.inputs)
        target = pad_sequence([known[i] for i in batch.which], batch_first=True)
        target = target[:, : out.cam_3d.shape[1]]  # the last pieces may have lost all voxels
        values = [
            supervised_loss(cam.float().flatten(0, 1), target.flatten(0, 1))
            for cam in (segment_logits(out), out.cam_3d)
        ]
        return values[0] + 0.5 * values[1] + class_losses(out, batch.tags)

    return loss


def pseudo_loss(teacher: MIT) -> Loss:
    """Cross-entropy to the pseudo-labels of a frozen teacher, which sees the photographs too."""

    def loss(model: MIT, batch: Batch, share: float) -> Tensor:
        with torch.no_grad():
            target = pseudo_labels(teacher(**batch.inputs), batch.tags).flatten()
        out = model(**batch.inputs)
        values = [
            F.cross_entropy(cam.float().flatten(0, 1), target, ignore_index=-1)
            for cam in (segment_logits(out), out.cam_3d)
        ]
        return values[0] + 0.5 * values[1] + class_losses(out, batch.tags)

    return loss


def pseudo_labels(out: MITOutput, tags: Tensor) -> Tensor:
    """(B, M) class of each supervoxel, -1 where the model is not sure (below one half).

    Restricted to the tags (B, K); every tagged class keeps the supervoxel it likes best.
    """
    chance = segment_logits(out).float().masked_fill(~tags[:, None], -1e4).softmax(-1)
    chance = chance.masked_fill(~out.segment_mask[..., None], 0.0)
    top, label = chance.max(-1)
    label = torch.where(top < 0.5, -1, label)
    for c in range(tags.shape[1]):
        best = chance[..., c].argmax(1, keepdim=True)
        forced = torch.where(tags[:, c : c + 1], c, label.gather(1, best))
        label = label.scatter(1, best, forced)
    return label


@torch.inference_mode()
def calibrate(model: MIT, bank: Bank, rate: float = FALSE_ALARMS, batches: int = 12) -> None:
    """Lower the bias of each class until it seldom speaks where its tag is absent.

    Of the voxels of scans without a class, at most the share ``rate`` keeps a positive logit for
    it. Only tags are used. The reference at 0 and classes of nearly all scans stay as they are.
    """
    found: list[list[Tensor]] = []
    order = np.random.default_rng(0).permutation(len(bank))
    for index in range(min(batches, len(bank))):
        batch = bank.batch(order[index::batches][:BATCH].tolist(), index)
        out = model(**batch.inputs)
        mask, inputs = out.segment_mask, batch.inputs
        size = torch.zeros_like(mask, dtype=torch.float32)
        # Pieces that lost all voxels may have numbers beyond the last one left.
        piece = inputs["segment"].clamp(max=mask.shape[1] - 1)
        size.scatter_add_(1, piece, inputs["voxel_mask"].float())
        absent = ~batch.tags[:, None].expand(-1, mask.shape[1], -1)
        values = (out.cam_3d.float(), segment_logits(out).float(), size, absent)
        found.append([value[mask] for value in values])
    plain, decoded, weight, missing = (torch.cat(part) for part in zip(*found, strict=True))
    last = cast(torch.nn.Linear, model.cam_decoded[-1])
    for c in torch.nonzero(bank.often < 0.9).flatten().tolist():
        where = missing[:, c]
        ends = [_upper(cam[where, c], weight[where], rate) for cam in (plain, decoded)]
        model.cam_3d.bias[c] -= ends[0]
        last.bias[c] -= ends[1] - ends[0]


def _upper(values: Tensor, weights: Tensor, rate: float) -> float:
    """The value that the weighted share ``rate`` of the values exceeds, or 0 if it is below."""
    if not len(values):
        return 0.0
    order = values.argsort(descending=True)
    passed = weights[order].cumsum(0) / weights.sum()
    at = (passed < rate).sum().clamp(max=len(values) - 1)
    return max(0.0, float(values[order][at]))


def publish(args: argparse.Namespace, model: MIT, scans: int, result: dict[str, Any]) -> Path:
    """Write the weights (float16) and their card to assets/weights/mit."""
    card = {
        "model": "mit",
        "config": asdict(model.config),
        "data": f"CrossFuse Rooms: {scans} scans of composed rooms, whole ones and corners",
        "supervision": "the set of classes in each scan; no point or pixel labels",
        "licence": "Apache-2.0; furniture CC0, CC BY 3.0 via Sweet Home 3D (see ATTRIBUTION)",
        "variant": VARIANTS[PUBLISHED][2],
        "seed": args.seed,
        "limits": "Trained on synthetic rooms only.",
        "command": f"crossfuse train mit --data DIR --out RUNS --device {args.device} --variant "
        f"{PUBLISHED} --start-steps {args.start_steps} --steps {args.steps} --publish",
        "metrics": {f"validation, {result['scans']} rooms of unseen furniture": result},
    }
    return save_weights("mit", model, card, half=True)


def load_variant(out: Path, variant: str, seed: int) -> MIT:
    """A trained variant in eval mode.

    Raises:
        CrossfuseError: it has not been trained.
    """
    path = Path(out) / f"{variant}-seed{seed}.pt"
    return load_checkpoint(path, f"crossfuse train mit --variant {variant}")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True,
        help="folder of crossfuse data rooms, or of labelled ScanNet scenes, S3DIS rooms or clouds",
    )  # fmt: skip
    parser.add_argument("--runs", type=Path, default=None, help="--out of training: all variants")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Scores on the validation rooms, or on labelled scenes of others, beside a trivial answer.

    With ``--runs``, of every variant and seed found there. Without, of the shipped weights, and
    the table that was recorded when they were trained.
    """

    def encoder() -> Any:
        return image_encoder(args.device)

    if (args.data / "val").is_dir():
        scans = load_scans(args.data, "val", encoder, partial=False)
    else:
        scans = load_scenes(args.data, encoder())
    table: dict[str, Any] = {"scans": len(scans), "trivial": trivial(scans)}
    if args.runs is None:
        from crossfuse import registry

        table["shipped"] = score(
            cast(MIT, registry.load("mit")).to(args.device), scans, args.device
        )
        recorded = WEIGHTS / "mit" / "evaluation.json"
        if recorded.is_file():
            table["recorded"] = json.loads(recorded.read_text(encoding="utf-8"))
        return table
    rows = []
    for path in sorted(args.runs.glob("*-seed*.pt")):
        variant, _, seed = path.stem.partition("-seed")
        if variant in VARIANTS:
            model = load_variant(args.runs, variant, int(seed)).to(args.device)
            facts = {"variant": variant, "seed": int(seed), "what": VARIANTS[variant][2]}
            rows.append(facts | score(model, scans, args.device))
    return table | summary(rows) | {"rows": rows}

"""Training and evaluation of MIT on CrossFuse Rooms.

The backbone learns first, from tags (``--backbone tags``) or, for an upper bound, from point labels
(``--backbone labels``); by default it is the shipped one, which learnt from tags. It is frozen
then, every scan becomes pooled features (:mod:`crossfuse.training.mit_pooled`), and all else is
trained on those, minutes a variant on one core: both CAMs first, each for itself (``start``); from
there every variant goes on for the same number of steps, so that variants differ in the fusion
alone. ``crossfuse train mit`` goes on where it was stopped; ``crossfuse evaluate mit`` makes one
table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crossfuse.data.rooms import CLASSES, generate
from crossfuse.data.rooms.catalogue import fetch_package
from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, Look, MITConfig, Standardise
from crossfuse.models.mit_answers import segment_logits
from crossfuse.training.mit_batches import Bank
from crossfuse.training.mit_data import load_scans
from crossfuse.training.mit_fit import Budget, Loss, begin_from, fit, load_checkpoint
from crossfuse.training.mit_losses import (
    EVERYWHERE,
    class_losses,
    instance_loss,
    supervised_loss,
    tag_loss,
)
from crossfuse.training.mit_pooled import (
    PooledBank,
    PooledScan,
    load_pooled,
    pool,
    pooled_config,
    principal_looks,
)
from crossfuse.training.mit_scenes import load_scenes
from crossfuse.training.mit_score import score
from crossfuse.training.mit_table import summary, trivial
from crossfuse.weights import WEIGHTS, save_weights

VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "interlaced": ("tags", {}, "tags; interlaced, 3-D asks first (the paper's order)"),
    "code_order": ("tags", {"first_query": "2d"}, "tags; interlaced, photographs ask first"),
    "not_interlaced": ("tags", {"interlaced": False}, "tags; 3-D asks in every block"),
    "not_drawn": ("tags", {"drawn": False}, "tags; interlaced, no pictures drawn from the cloud"),
    "only_3d": (
        "tags", {"decoder_depth": 0, "drawn": False}, "tags; no photographs, no drawn pictures"
    ),
    "supervised": ("labels", {}, "point labels: upper bound, same network and frozen features"),
}  # fmt: skip
BATCH = 8
ROOMS = 320  # training rooms by default
VAL_ROOMS, ROOM_SEED = 48, 11
PUBLISHED = "interlaced"
START_RATE, RATE = 2e-3, 1e-3
BACKBONE_STEPS = 2000


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True,
        help="folder of crossfuse data rooms; where it holds none they are composed first",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="interlaced")
    parser.add_argument(
        "--backbone", choices=("shipped", "tags", "labels"), default="shipped",
        help="of the shipped weights, or trained first: from tags, or from point labels (a bound)",
    )  # fmt: skip
    parser.add_argument("--backbone-steps", type=int, default=BACKBONE_STEPS)
    parser.add_argument("--start-steps", type=int, default=1000, help="of both CAMs alone")
    parser.add_argument("--steps", type=int, default=1000, help="of the whole network")
    parser.add_argument(
        "--batch", type=int, default=BATCH, help="scans a step (twice at the start)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", type=int, default=None, help="use only the first so many rooms")
    parser.add_argument("--device", default="cpu", help="of the backbone's training: cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--publish", action="store_true", help="write assets/weights/mit at the end"
    )


def image_encoder() -> Any:
    """The frozen image encoder that MIT was trained with."""
    from crossfuse.encoders.image import load_image_encoder
    from crossfuse.encoders.views import ENCODER

    return load_image_encoder(ENCODER)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant, or all, and what they begin from; returns validation scores by variant."""
    torch.set_num_threads(args.threads)
    compose_missing(args.data, args.rooms or ROOMS, args.threads)
    backbone, encoder = train_backbone(args), image_encoder()
    scans, held = (
        load_pooled(
            args.data, split, backbone, encoder,
            partial=split == "train", limit=limit, workers=args.threads,
        )
        for split, limit in (("train", args.rooms), ("val", None))
    )  # fmt: skip
    start = Budget(args.start_steps, 2 * args.batch, START_RATE)
    then = Budget(args.steps, args.batch, RATE)
    results: dict[str, Any] = {}
    for variant in VARIANTS if args.variant == "all" else (args.variant,):
        model = train_variant(variant, scans, backbone, args.out, args.seed, start, then)
        results[variant] = score(model, held)
        brief = {k: v for k, v in results[variant].items() if not isinstance(v, dict)}
        print(json.dumps({"variant": variant, **brief}), flush=True)
        if args.publish and variant == PUBLISHED:
            publish(args, model, len(scans), results[variant])
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


def train_backbone(args: argparse.Namespace) -> MIT:
    """A model whose backbone is ready to be frozen; see ``--backbone``."""
    if args.backbone == "shipped":
        from crossfuse import registry

        return cast(MIT, registry.load("mit"))
    scans = load_scans(args.data, "train", limit=args.rooms, workers=args.threads)
    bank = Bank(scans, args.device)
    torch.manual_seed(args.seed)
    always = everywhere(bank.often) if args.backbone == "tags" else ()
    model = MIT(MITConfig.small(CLASSES, everywhere=always, decoder_depth=0)).to(args.device)
    standardise(model, bank)
    counts = [torch.from_numpy(scan.histogram[:, :-1]).float().to(args.device) for scan in scans]

    def loss(model: MIT, batch: Any, share: float) -> Tensor:
        cloud = model.segment_inputs(**batch.inputs)
        mask = cloud["segment_mask"]
        cam = model.plain_cam(model.segment_tokens(cloud["segments"], cloud["places"], mask))
        if args.backbone == "tags":
            spread = cloud["scatter"].mean()
            return instance_loss(cam.float(), mask, batch.tags, bank.often) + spread
        return labelled(cam, [counts[i] for i in batch.which])

    path = args.out / f"backbone-{args.backbone}-seed{args.seed}.pt"
    return fit(
        model, bank, path, Budget(args.backbone_steps, 2 * args.batch, START_RATE), args.seed, loss
    ).cpu()


@torch.no_grad()
def standardise(model: MIT, bank: Bank, scans: int = 64) -> None:
    """Mean and spread of what is known of a supervoxel, from some scans."""
    found = []
    every = torch.linspace(0, len(bank) - 1, scans).int().tolist()
    for first in range(0, scans, 8):
        cloud = model.segment_inputs(**bank.batch(every[first : first + 8], first).inputs)
        found.append(cloud["places"][cloud["segment_mask"]])
    layer = cast(Standardise, model.place[0])
    layer.mean.copy_(torch.cat(found).mean(0))
    layer.spread.copy_(torch.cat(found).std(0) + 1e-6)


def everywhere(often: Tensor) -> tuple[int, ...]:
    """Classes that (nearly) every scan has."""
    return tuple(torch.nonzero(often >= EVERYWHERE).flatten().tolist())


def train_variant(
    variant: str,
    scans: Sequence[PooledScan],
    backbone: MIT,
    out: Path,
    seed: int,
    start: Budget,
    then: Budget,
) -> MIT:
    """One variant, in eval mode; its checkpoints are kept in ``out``."""
    kind, changes, _ = VARIANTS[variant]
    often = torch.from_numpy(sum(s.tags for s in scans) / len(scans)).float()
    always = everywhere(often) if kind == "tags" else ()

    def fresh(**changes: Any) -> MIT:
        torch.manual_seed(seed)
        made = MIT(pooled_config(everywhere=always, **changes))
        made.backbone.load_state_dict(backbone.backbone.state_dict())
        made.backbone.requires_grad_(False)
        return made

    model, plain = fresh(**changes), fresh(encoder_depth=0, decoder_depth=0)
    look = cast(Look, plain.view_in)
    look.mean, look.basis = principal_looks(scans, pooled_config().looks)
    bank = PooledBank(scans, plain)
    layer = cast(Standardise, plain.place[0])
    layer.mean, layer.spread = bank.place_mean.clone(), bank.place_spread.clone()
    if kind == "labels":
        losses = (labels_loss(bank), labels_loss(bank))
    else:
        losses = (tags_loss(bank), tags_loss(bank, photos=changes.get("decoder_depth") != 0))
    first = fit(plain, bank, out / f"start-{kind}-seed{seed}.pt", start, seed, losses[0])
    begin_from(model, first)
    return fit(model, bank, out / f"{variant}-seed{seed}.pt", then, seed + 1000, losses[1])


def tags_loss(bank: PooledBank, photos: bool = True) -> Loss:
    """What tags can teach."""

    def loss(model: MIT, batch: Any, share: float) -> Tensor:
        return tag_loss(model.fuse(**batch.inputs), batch.tags, bank.often, photos)

    return loss


def labels_loss(bank: PooledBank) -> Loss:
    """Point labels of supervoxels, for the upper bound only."""
    counts = [torch.from_numpy(scan.histogram[:, :-1]).float() for scan in bank.scans]

    def loss(model: MIT, batch: Any, share: float) -> Tensor:
        out = model.fuse(**batch.inputs)
        target = [counts[i][rows] for i, rows in zip(batch.which, batch.rows, strict=True)]
        values = [labelled(cam, target) for cam in (segment_logits(out), out.cam_3d)]
        total = values[0] + 0.5 * values[1] + class_losses(out, batch.tags)
        return total + instance_loss(out.cam_2d, out.view_mask, batch.tags, bank.often)

    return loss


def labelled(cam: Tensor, counts: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of (B, M, K) logits to the counted labels of each scan."""
    target = pad_sequence(list(counts), batch_first=True)
    target = target[:, : cam.shape[1]]  # the last pieces may have lost all voxels
    return supervised_loss(cam.float().flatten(0, 1), target.flatten(0, 1))


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
        "command": f"crossfuse train mit --data DIR --out RUNS --backbone {args.backbone} "
        f"--seed {args.seed} --start-steps {args.start_steps} --steps {args.steps} --publish",
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


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Scores on the validation rooms, or on labelled scenes of others, beside a trivial answer.

    With ``--runs``, of every variant and seed found there. Without, of the shipped weights, and
    the table that was recorded when they were trained.
    """
    models: list[tuple[dict[str, Any], MIT]] = []
    if args.runs is None:
        from crossfuse import registry

        models.append(({}, cast(MIT, registry.load("mit"))))
    for path in [] if args.runs is None else sorted(args.runs.glob("*-seed*.pt")):
        variant, _, seed = path.stem.partition("-seed")
        if variant in VARIANTS:
            facts = {"variant": variant, "seed": int(seed), "what": VARIANTS[variant][2]}
            models.append((facts, load_variant(args.runs, variant, int(seed))))
    if not models:
        raise CrossfuseError(f"No trained variant in {args.runs}: crossfuse train mit")
    backbone, encoder = models[0][1], image_encoder()  # all variants share it
    if (args.data / "val").is_dir():
        scans = load_pooled(args.data, "val", backbone, encoder, partial=False)
    else:
        scans = [pool(backbone, encoder, *scene) for scene in load_scenes(args.data)]
    table: dict[str, Any] = {"scans": len(scans), "trivial": trivial(scans)}
    rows = [facts | score(model, scans) for facts, model in models]
    if args.runs is not None:
        return table | summary(rows) | {"rows": rows}
    table["shipped"] = rows[0]
    recorded = WEIGHTS / "mit" / "evaluation.json"
    if recorded.is_file():
        table["recorded"] = json.loads(recorded.read_text(encoding="utf-8"))
    return table

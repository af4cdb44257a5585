"""Training and evaluation of MIT on CrossFuse Rooms.

Two steps, so that a laptop is enough. First the 3-D backbone learns from tags alone (its plain
CAM). Then it is frozen, every scan is pooled once under a few augmentations, and the transformer
learns from the pooled features; variants of the transformer share the backbone. The upper bound
goes the same two steps with point labels. ``crossfuse train mit`` runs one variant (and its
backbone, if that is not there yet) and goes on where it was stopped; ``crossfuse evaluate mit``
makes one table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.data.rooms import CLASSES
from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, MITConfig, Standardise
from crossfuse.training.mit_data import Scan, load_scans, scan_inputs
from crossfuse.training.mit_losses import (
    candidate_loss,
    instance_loss,
    masked_mean,
    paper_losses,
    supervised_loss,
)
from crossfuse.training.mit_score import score
from crossfuse.weights import save_weights

VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "interlaced": ("tags", {}, "tags; interlaced, 3-D asks first (the paper's order)"),
    "code_order": ("tags", {"first_query": "2d"}, "tags; interlaced, photographs ask first"),
    "not_interlaced": ("tags", {"interlaced": False}, "tags; 3-D asks in every block"),
    "only_3d": ("tags", {"decoder_depth": 0}, "tags; no photographs"),
    "supervised": ("labels", {}, "point labels: upper bound, same network"),
    "second_stage": ("pseudo", {"decoder_depth": 0}, "3-D only, pseudo-labels of 'interlaced'"),
}
BATCH = 4
ROOMS = 85  # training rooms of the published weights
FALSE_ALARMS = 0.03
COPIES = 1  # augmented poolings of a scan

Loss = Callable[[MIT, Scan, Any], Tensor]


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of crossfuse data rooms")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--variant", choices=VARIANTS, default="interlaced")
    parser.add_argument("--backbone-steps", type=int, default=300, help=f"of {BATCH} scans each")
    parser.add_argument("--first-steps", type=int, default=350, help="of the plain CAMs alone")
    parser.add_argument("--steps", type=int, default=600, help=f"of {BATCH} scans each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", type=int, default=None, help="use only the first so many rooms")
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
    """Train one variant and, where it is missing, its backbone; returns its validation scores."""
    torch.set_num_threads(args.threads)
    kind, changes, _ = VARIANTS[args.variant]
    scans = load_scans(args.data, "train", image_encoder, limit=args.rooms)
    pseudo: dict[str, Tensor] = {}
    if kind == "pseudo":
        pseudo = pseudo_labels(load_variant(args.out, "interlaced", args.seed), scans)
    torch.manual_seed(args.seed)
    often = torch.from_numpy(np.mean([scan.tags for scan in scans], axis=0)).float()
    always = tuple(torch.nonzero(often >= 1).flatten().tolist()) if kind == "tags" else ()
    model = MIT(MITConfig.small(CLASSES, everywhere=always, **changes))
    backbone = args.out / f"backbone-{kind}-seed{args.seed}.pt"
    parts = ("backbone.", "lift.", "place.", "cam_3d.")
    loss = _backbone_loss(kind, pseudo)
    _run(model, scans, backbone, args.backbone_steps, args.seed, 3e-3, loss, parts)
    model.backbone.requires_grad_(False)
    pooled = pool(model, scans, args.seed)
    path = args.out / f"{args.variant}-seed{args.seed}.pt"
    if kind == "tags" and not path.is_file():
        _begin(model, scans, pooled, often, args.seed, args.first_steps)
    loss = _fusion_loss(kind, pseudo, pooled, often)
    slow = ("place.", "cam_3d.", "cam_2d.", "view_in.") if kind == "tags" else ()
    _run(model, scans, path, args.steps, args.seed, 1e-3, loss, slow=slow)
    if kind == "tags":
        calibrate(model.eval(), scans)
    result = score(model.eval(), load_scans(args.data, "val", image_encoder, partial=False))
    print(json.dumps({k: v for k, v in result.items() if not isinstance(v, dict)}), flush=True)
    if args.publish:
        publish(args, model, len(scans), result)
    return result


def publish(args: argparse.Namespace, model: MIT, scans: int, result: dict[str, Any]) -> Path:
    """Write the weights (float16) and their card to assets/weights/mit."""
    card = {
        "model": "mit",
        "config": asdict(model.config),
        "data": f"CrossFuse Rooms: {scans} scans of composed rooms, whole ones and corners",
        "supervision": "the set of classes in each scan; no point or pixel labels",
        "licence": "Apache-2.0; furniture CC0, CC BY 3.0 via Sweet Home 3D (see ATTRIBUTION)",
        "variant": VARIANTS[args.variant][2],
        "seed": args.seed,
        "limits": "Trained on synthetic rooms only; classes with one or two training meshes "
        "(toilet, refrigerator) hardly carry over; one seed.",
        "command": f"crossfuse data rooms --out DIR --scenes {ROOMS} --seed 11 && crossfuse train "
        f"mit --data DIR --out RUNS --variant {args.variant} --publish",
        "metrics": {f"validation, {result['scans']} rooms of unseen furniture": result},
    }
    return save_weights("mit", model, card, half=True)


def _run(
    model: MIT,
    scans: Sequence[Scan],
    path: Path,
    steps: int,
    seed: int,
    rate: float,
    loss: Loss,
    parts: tuple[str, ...] = ("",),
    slow: tuple[str, ...] = (),
) -> None:
    """Optimise the parameters whose names begin with ``parts`` until ``steps``.

    The state is written to ``path`` as it goes, and taken up from there.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and n.startswith(parts)]
    wide = [p for _, p in named if p.ndim > 1]
    flat = [p for _, p in named if p.ndim <= 1]
    # What already means something moves slowly.
    early = {id(p) for n, p in named if n.startswith(slow)}
    groups = [
        {
            "params": [p for p in part if (id(p) in early) == late],
            "weight_decay": decay,
            "share": 0.2 if late else 1.0,
        }
        for part, decay in ((wide, 0.02), (flat, 0.0))
        for late in (False, True)
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate)
    first = 0
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["steps"] != steps:
            raise CrossfuseError(
                f"{path} belongs to a run of {state['steps']} steps; use the same number "
                "or another --out."
            )
        model.load_state_dict({**model.state_dict(), **state["model"]})
        first = int(state["step"])
        if first < steps:
            optimiser.load_state_dict(state["optimiser"])
    model.train()
    mean, since = 0.0, time.monotonic()
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 100_003 + step)
        warm, left = min(1.0, (step + 1) / (0.1 * steps)), step / steps
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"] * warm * (0.5 + 0.5 * math.cos(math.pi * left))
        optimiser.zero_grad()
        for index in rng.choice(len(scans), BATCH, replace=False):
            value = loss(model, scans[index], (rng, left)) / BATCH
            value.backward()
            mean += value.item()
        torch.nn.utils.clip_grad_norm_([*wide, *flat], 2.0)
        optimiser.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            _save(path, model, optimiser, step + 1, steps, parts)
            seconds = time.monotonic() - since
            print(
                f"{path.stem} {step + 1}/{steps} loss {mean / 25:.3f} {seconds:.0f} s", flush=True
            )
            mean = 0.0


def _save(
    path: Path, model: MIT, optimiser: Any, step: int, steps: int, parts: tuple[str, ...]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    torch.save(
        {
            "model": {n: v for n, v in model.state_dict().items() if n.startswith(parts)},
            "optimiser": optimiser.state_dict(),
            "step": step,
            "steps": steps,
            "config": json.dumps(asdict(model.config)),
        },
        scratch,
    )
    scratch.rename(path)


def _target_loss(logits: Tensor, scan: Scan, kind: str, pseudo: dict[str, Tensor]) -> Tensor:
    """Loss of (M, K) logits for supervoxels whose labels, true or pseudo, are known."""
    if kind == "labels":
        counts = torch.from_numpy(scan.histogram[: len(logits), :-1].astype(np.float32))
        return supervised_loss(logits, counts)
    return F.cross_entropy(logits, pseudo[scan.name][: len(logits)], ignore_index=-1)


def _backbone_loss(kind: str, pseudo: dict[str, Tensor]) -> Loss:
    def loss(model: MIT, scan: Scan, state: Any) -> Tensor:
        rng, left = state
        cloud = model.segment_inputs(**_cloud_only(scan_inputs(scan, rng)))
        tokens = model.segment_tokens(cloud["segments"], cloud["places"], cloud["segment_mask"])
        logits, mask = model.cam_3d(tokens), cloud["segment_mask"]
        if kind != "tags":
            return _target_loss(logits[0], scan, kind, pseudo) + cloud["scatter"].mean()
        tags = torch.from_numpy(scan.tags)[None]
        p3 = masked_mean(logits.softmax(-1), mask)
        total = candidate_loss(logits, mask, tags, 0.5 if left > 0.3 else 0.0)
        total = total + F.binary_cross_entropy(p3.clamp(1e-6, 1 - 1e-6), tags.float())
        return total + cloud["scatter"].mean()

    return loss


def _cloud_only(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ("cells", "voxel_features", "positions", "voxel_mask", "segment")
    return {name: inputs[name] for name in names}


@torch.inference_mode()
def pool(model: MIT, scans: Sequence[Scan], seed: int) -> dict[str, list[dict[str, Tensor]]]:
    """Pooled features of every scan under ``COPIES`` augmentations, by scan name."""
    model.eval()
    pooled = {}
    for number, scan in enumerate(scans):
        pooled[scan.name] = [
            model.segment_inputs(
                **_cloud_only(scan_inputs(scan, np.random.default_rng([seed, number, copy])))
            )
            for copy in range(COPIES)
        ]
    return pooled


def _fusion_loss(
    kind: str,
    pseudo: dict[str, Tensor],
    pooled: dict[str, list[dict[str, Tensor]]],
    often: Tensor,
) -> Loss:
    def loss(model: MIT, scan: Scan, state: Any) -> Tensor:
        rng, _ = state
        cloud = pooled[scan.name][int(rng.integers(COPIES))]
        views, patches = _some_views(scan, rng)
        mask = cloud["segment_mask"].clone()
        # Fewer tokens a step: regularises, and halves the cost.
        mask &= torch.from_numpy(rng.random(mask.shape) > rng.uniform(0.2, 0.6))
        mask[0, int(rng.integers(mask.shape[1]))] = True
        kept = torch.nonzero(mask[0]).flatten()
        out = model.fuse(
            cloud["segments"][:, kept].clone(),
            cloud["places"][:, kept].clone(),
            mask[:, kept],
            cloud["scatter"].clone() * 0,
            **_as_tensors(views, patches),
        )
        assert out.cam_decoded is not None
        tags = torch.from_numpy(scan.tags)[None]
        terms = paper_losses(out, tags)
        if kind == "tags":
            del terms["cam_3d"]
            sides = [(out.cam_decoded, out.segment_mask), (out.cam_3d, out.segment_mask)]
            if out.class_scores:
                sides.append((out.cam_2d, out.view_mask))
                del terms["cam_2d"]
            found = [instance_loss(cam, of, tags, often) for cam, of in sides]
        else:
            part = _Kept(scan, kept)
            del terms["cam_3d"]
            both = (out.cam_decoded, 1.0), (out.cam_3d, 0.5)
            found = [w * part.loss(c[0], kind, pseudo) for c, w in both]
        return torch.stack([*terms.values(), *found]).sum()

    return loss


def _begin(
    model: MIT,
    scans: Sequence[Scan],
    pooled: dict[str, list[dict[str, Tensor]]],
    often: Tensor,
    seed: int,
    steps: int,
) -> None:
    """Teach the two plain CAMs by multiple-instance learning, before there is a transformer.

    Only shapes and colours of supervoxels and the vectors of photographs take part, so that it
    takes seconds; the transformer then starts from a CAM that means something.
    """
    rng = np.random.default_rng([seed, 99])
    batch = min(20, len(scans))
    places = torch.cat([pooled[scan.name][0]["places"][0] for scan in scans])
    mean, spread = places.mean(0), places.std(0) + 1e-6
    standard = cast(Standardise, model.place[0])
    with torch.no_grad():
        standard.mean.copy_(mean)
        standard.spread.copy_(spread)
        cast(torch.nn.Linear, model.lift).weight.zero_()
        cast(torch.nn.Linear, model.lift).bias.zero_()
    for part in (model.place, model.cam_3d):  # the backbone's step has left its own values here
        for layer in part.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    learnt = [
        parameter
        for part in (model.place, model.cam_3d, model.view_in, model.cam_2d)
        for parameter in part.parameters()
    ]
    optimiser = torch.optim.AdamW(learnt, lr=4e-3, weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = (
                4e-3 * min(1, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            )
        chosen = [scans[i] for i in rng.choice(len(scans), batch, replace=False)]
        tags = torch.from_numpy(np.stack([scan.tags for scan in chosen]))
        inside = [pooled[scan.name][int(rng.integers(COPIES))]["places"][0] for scan in chosen]
        cloud, cloud_mask = _padded(inside)
        views, view_mask = _padded([torch.from_numpy(s.views.astype(np.float32)) for s in chosen])
        noise = spread * 0.05 * torch.randn(cloud.shape)
        cam = model.plain_cam(model.place(cloud + noise))
        loss = instance_loss(cam, cloud_mask, tags, often)
        seen = F.dropout(views, 0.3)
        loss = loss + instance_loss(model.cam_2d(model.view_in(seen)), view_mask, tags, often)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _padded(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    values = torch.nn.utils.rnn.pad_sequence([item.clone() for item in items], batch_first=True)
    size = torch.tensor([len(item) for item in items])
    return values, torch.arange(values.shape[1]) < size[:, None]


@torch.inference_mode()
def calibrate(
    model: MIT, scans: Sequence[Scan], rate: float = FALSE_ALARMS, most: int = 96
) -> None:
    """Move the bias of each class so that it seldom speaks where its tag is absent.

    Of the points of scans without a class, the share ``rate`` keeps a positive logit for it. Only
    tags are used. Classes of every scan are the reference, at 0, and stay.
    """
    step = max(1, len(scans) // most)
    plain: list[Tensor] = []
    decoded: list[Tensor] = []
    sizes: list[Tensor] = []
    absent: list[Tensor] = []
    for scan in scans[::step]:
        out = model(**scan_inputs(scan))
        plain.append(out.cam_3d[0])
        decoded.append(out.cam_decoded[0])
        sizes.append(torch.from_numpy(scan.histogram.sum(1)).float())
        absent.append(~torch.from_numpy(scan.tags).expand(len(sizes[-1]), -1))
    size, missing = torch.cat(sizes), torch.cat(absent)
    last = cast(torch.nn.Linear, model.cam_decoded[-1])
    for c in range(len(model.config.classes)):
        where = missing[:, c]
        if c in model.config.everywhere or not where.any():
            continue
        ends = [_upper(torch.cat(cams)[where, c], size[where], rate) for cams in (plain, decoded)]
        model.cam_3d.bias[c] -= ends[0]
        last.bias[c] -= ends[1] - ends[0]


def _upper(values: Tensor, weights: Tensor, rate: float) -> float:
    """The value that the weighted share ``rate`` of the values exceeds."""
    order = values.argsort(descending=True)
    passed = weights[order].cumsum(0) / weights.sum()
    return float(values[order][int((passed < rate).sum().clamp(max=len(values) - 1))])


class _Kept:
    """The targets of the supervoxels that a step kept."""

    def __init__(self, scan: Scan, kept: Tensor) -> None:
        self.scan, self.kept = scan, kept

    def loss(self, logits: Tensor, kind: str, pseudo: dict[str, Tensor]) -> Tensor:
        if kind == "labels":
            counts = torch.from_numpy(self.scan.histogram[:, :-1].astype(np.float32))
            return supervised_loss(logits, counts[self.kept])
        target = pseudo[self.scan.name][self.kept]
        if not (target >= 0).any():
            return logits.sum() * 0
        return F.cross_entropy(logits, target, ignore_index=-1)


def _some_views(scan: Scan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    count = len(scan.views)
    least = min(count, 4)
    chosen = rng.choice(count, int(rng.integers(least, min(count, 10) + 1)), replace=False)
    cells = rng.choice(scan.patches.shape[1], 6, replace=False)
    return scan.views[chosen], scan.patches[chosen][:, cells]


def _as_tensors(views: np.ndarray, patches: np.ndarray) -> dict[str, Any]:
    return {
        "view_features": torch.from_numpy(views.astype(np.float32))[None],
        "view_mask": torch.ones(1, len(views), dtype=torch.bool),
        "patch_features": torch.from_numpy(patches.astype(np.float32))[None],
    }


@torch.inference_mode()
def pseudo_labels(model: MIT, scans: Sequence[Scan]) -> dict[str, Tensor]:
    """Class of each supervoxel of every scan, -1 where the model is not sure (below one half).

    Restricted to the scan's tags; every tagged class keeps the supervoxel it likes best.
    """
    labels = {}
    for scan in scans:
        out = model(**scan_inputs(scan))
        tags = torch.from_numpy(scan.tags)
        chance = out.cam_decoded[0].masked_fill(~tags, -1e4).softmax(-1)
        top, label = chance.max(-1)
        label = torch.where(top < 0.5, -1, label)
        for c in torch.nonzero(tags).flatten().tolist():
            label[chance[:, c].argmax()] = c
        labels[scan.name] = label.clone()
    return labels


def load_variant(out: Path, variant: str, seed: int) -> MIT:
    """A trained variant in eval mode.

    Raises:
        CrossfuseError: it has not been trained.
    """
    path = Path(out) / f"{variant}-seed{seed}.pt"
    if not path.is_file():
        raise CrossfuseError(f"{path} is not there: crossfuse train mit --variant {variant}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    config: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(state["config"]).items()
    }
    model = MIT(MITConfig(**config))
    model.load_state_dict(state["model"])
    return model.eval()


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of crossfuse data rooms")
    parser.add_argument("--runs", type=Path, default=None, help="--out of training: all variants")
    parser.add_argument("--seed", type=int, default=0)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Scores on the validation rooms: of the shipped weights, or of every variant in --runs."""
    scans = load_scans(args.data, "val", image_encoder, partial=False)
    if args.runs is None:
        from crossfuse import registry

        return {"shipped": score(cast(MIT, registry.load("mit")), scans)}
    return {
        name: {"what": what, **score(load_variant(args.runs, name, args.seed), scans)}
        for name, (_, _, what) in VARIANTS.items()
        if (Path(args.runs) / f"{name}-seed{args.seed}.pt").is_file()
    }

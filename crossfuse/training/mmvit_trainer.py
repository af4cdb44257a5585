"""The training loop of MMViT: pixels, augmentation, teacher and student on one device.

All photographs lie on the device as uint8; a step draws, crops, mixes, asks the teacher and trains
without waiting for the host. The learning rate follows half a cosine of the progress, which is the
share of ``--epochs`` or, where it is given, of ``--minutes``. Crops grow from ``--begin-side`` to
``--end-side`` over the first four fifths of a run (progressive resizing, Tan & Le 2021); both may
stay below ``--side``, at which the model is used, since things look larger in random crops than in
whole photographs (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse import weights
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmvit import MMViT, MMViTOutput
from crossfuse.training.mmvit_material import Drawn, Material

SAVE_EVERY = 120.0  # seconds
SAY_EVERY = 50  # steps
OUTSIDE_WEIGHT = 0.5
UNMIXED_END = 0.9  # after this share of a run pictures are no longer mixed


@dataclass(frozen=True)
class Trained:
    """``average``: the averaged (EMA) weights of the trained part; what the run took."""

    average: dict[str, Tensor]
    epochs: float
    photographs_per_second: float


def side_at(progress: float, begin: int, end: int) -> int:
    """The side of the crops at that progress, a multiple of 16 on the way from begin to end."""
    share = min(1.0, progress / 0.8)
    if share == 1 or begin == end:
        return end
    return min(end, 16 * int((begin + share * (end - begin)) / 16 + 0.5))


def fit(model: MMViT, material: Material, arguments: argparse.Namespace) -> Trained:
    """Train ``model`` in place; resumes from the checkpoint under ``--out`` where there is one.

    Raises:
        CrossfuseError: fewer photographs than one batch takes.
    """
    count = len(material.labels)
    if count < arguments.batch:
        raise CrossfuseError(
            f"There are {count} photographs to train on, fewer than one batch of "
            f"{arguments.batch}; a smaller --batch would work."
        )
    device = material.labels.device
    on_gpu = device.type == "cuda"
    model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    projection = nn.Linear(model.head.in_features, 1280, device=device)
    parameters = [*trained.values(), *projection.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=arguments.rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    average = {name: p.detach().clone() for name, p in trained.items()}
    step, seen, elapsed = 0, 0, 0.0
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        projection.load_state_dict(saved["projection"])
        optimiser.load_state_dict(saved["optimiser"])
        for group in optimiser.param_groups:
            group["fused"] = True
        average = saved["average"]
        step, seen, elapsed = saved["step"], saved["seen"], saved["elapsed"]

    def save() -> None:
        temporary = checkpoint.with_suffix(".new")
        torch.save(
            {
                "model": model.state_dict(),
                "projection": projection.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step,
                "seen": seen,
                "elapsed": elapsed,
            },
            temporary,
        )
        temporary.replace(checkpoint)

    def progress() -> float:
        if arguments.minutes:
            return elapsed / (60 * arguments.minutes)
        return seen / (arguments.epochs * count)

    end_side = arguments.end_side or arguments.side
    begin_side = arguments.begin_side or end_side
    forward = torch.compile(model.from_stem) if arguments.compile else model.from_stem
    torch.manual_seed(1_000_003 * arguments.seed + step)
    random.seed(1_000_003 * arguments.seed + step)
    first = step
    total = torch.zeros((), device=device)
    last_saved = last = time.monotonic()
    while progress() < 1:
        order = torch.randperm(count, device=device)
        for index in order[: count - count % arguments.batch].split(arguments.batch):
            done = progress()
            if done >= 1:
                break
            rate = min(1.0, (step + 1) / arguments.warm_up)
            rate *= max(0.5 * (1 + math.cos(math.pi * done)), 0.005)
            for group in optimiser.param_groups:
                group["lr"] = arguments.rate * rate
            side = side_at(done, begin_side, end_side)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                drawn = material.draw(index, side, done < UNMIXED_END)
                loss = loss_of(forward(drawn.features, drawn.image), drawn, projection)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step, seen = step + 1, seen + len(index)
            with torch.no_grad():
                keep = min(arguments.average, step / (step + 20))
                torch._foreach_lerp_(list(average.values()), list(trained.values()), 1 - keep)
                total += loss.detach()
            if step % SAY_EVERY == 0:
                mean = float(total) / min(SAY_EVERY, step - first)
                total.zero_()
            now = time.monotonic()
            elapsed, last = elapsed + now - last, now
            if step % SAY_EVERY == 0:
                print(
                    f"step {step}  epoch {seen / count:.2f}  side {side}  loss {mean:.3f}  "
                    f"{seen / elapsed:.1f} photographs/s  done {progress():.3f}",
                    flush=True,
                )
            if now - last_saved > SAVE_EVERY:
                save()
                last_saved = now
    save()
    state = {name: value.float().cpu().contiguous() for name, value in average.items()}
    return Trained(state, seen / count, seen / max(elapsed, 1e-9))


def loss_of(output: MMViTOutput, drawn: Drawn, projection: nn.Module) -> Tensor:
    """Cross-entropy to the targets; with a teacher also 1 - cosine of projected features."""
    losses = F.cross_entropy(output.logits.float(), drawn.targets, reduction="none")
    loss = losses[: drawn.inside].mean()
    if len(losses) > drawn.inside:
        loss = loss + OUTSIDE_WEIGHT * losses[drawn.inside :].mean()
    if drawn.pooled is not None:
        guess = projection(output.features[: len(drawn.pooled)])
        loss = loss + 1 - F.cosine_similarity(guess.float(), drawn.pooled, dim=-1).mean()
    return loss


def load_average(model: MMViT, name: str) -> None:
    """Begin with stored weights, of other classes too: every tensor that fits is taken."""
    begun, _ = weights.load_weights(name)
    own = model.state_dict()
    same = {k: v for k, v in begun.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(same, strict=False)

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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse import weights
from crossfuse.data.image_folders import Photographs
from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FrozenFront
from crossfuse.models.mmvit import MMViT, MMViTOutput
from crossfuse.models.residual_front import ResidualFront, settle_norms
from crossfuse.training.distillation import to_teacher
from crossfuse.training.mmvit_material import Drawn, Material

SAVE_EVERY = 120.0  # seconds
SAY_EVERY = 50  # steps
OUTSIDE_WEIGHT = 0.5
DECAY = 0.05
MUON_STEPS = 3  # Newton-Schulz iterations, as in Jordan's own recipe for CIFAR-10
SETTLED = 2048  # photographs at most that statistics are measured on
UNMIXED_END = 0.9  # after this share of a run pictures are no longer mixed


@dataclass(frozen=True)
class Trained:
    """``average``: the averaged (EMA) weights of the trained part; what the run took."""

    average: dict[str, Tensor]
    epochs: float
    photographs_per_second: float


class Optimiser:
    """AdamW; or Muon (Jordan et al. 2024) for the weights of matrices and convolutions, AdamW for
    the rest.

    A convolution's weight is a matrix of one row an output channel. Muon's steps are scaled to the
    size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves both.
    """

    def __init__(
        self, model: MMViT, parameters: list[nn.Parameter], arguments: argparse.Namespace
    ) -> None:
        self.parameters, self.rate, self.matrices = parameters, arguments.rate, {}
        if arguments.muon:
            self.matrices = {p: nn.Parameter(as_matrix(p.detach())) for p in matrices(model)}
        rest = [p for p in parameters if p not in self.matrices]
        adam = torch.optim.AdamW(
            [
                {"params": [p for p in rest if p.dim() > 1], "weight_decay": DECAY},
                {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=self.rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.parts: list[torch.optim.Optimizer] = [adam]
        if self.matrices:
            self.parts.append(
                torch.optim.Muon(
                    self.matrices.values(),
                    lr=self.rate,
                    weight_decay=DECAY,
                    ns_steps=MUON_STEPS,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, share: float) -> None:
        """One step at that share of the peak rate; clears the gradients."""
        for parameter, matrix in self.matrices.items():
            assert parameter.grad is not None
            matrix.grad = as_matrix(parameter.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.rate * share
            part.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for part, own in zip(self.parts, state, strict=True):
            part.load_state_dict(own)
        for group in self.parts[0].param_groups:
            group["fused"] = True


def matrices(model: MMViT) -> list[nn.Parameter]:
    """The trained weights that map many channels to many, but for the head's."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weights = [m.weight for m in layers if m is not model.head and m.weight.shape[1] > 1]
    return [w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad]


def as_matrix(weight: Tensor) -> Tensor:
    """(out, in) or (out, in, h, w) in channels-last order -> (out, ...) in the same memory."""
    return weight.permute(0, 2, 3, 1).view(len(weight), -1) if weight.dim() == 4 else weight


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
    optimiser = Optimiser(model, parameters, arguments)
    average = {name: p.detach().clone() for name, p in trained.items()}
    step, seen, elapsed = 0, 0, 0.0
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(saved["model"])
        projection.load_state_dict(saved["projection"])
        optimiser.load_state_dict(saved["optimiser"])
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
    frozen = isinstance(model.stem, FrozenFront)  # then its maps are what is drawn
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
            side = side_at(done, begin_side, end_side)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu or arguments.bf16):
                drawn = material.draw(index, side, done < UNMIXED_END)
                features = drawn.features if frozen else model.stem(drawn.features)
            # On a CPU only dense convolutions gain by bfloat16; the pyramid's small parts lose.
            if not on_gpu:
                features = in_float32(features)
            with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
                loss = loss_of(forward(features, drawn.image), drawn, projection)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step(rate)
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


def in_float32(features: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    if isinstance(features, Tensor):
        return features.float()
    return tuple(part.float() for part in features)


def settle(model: MMViT, trained: Trained, photographs: Photographs) -> None:
    """Give the model its averaged weights, and batch norms their statistics on whole pictures.

    The averaged weights have never seen a batch; and crops, in which things look larger, have
    other statistics than the whole photographs that come in use.
    """
    model.load_state_dict(trained.average, strict=False)
    model.eval()
    if isinstance(model.stem, ResidualFront):
        count, device = min(len(photographs), SETTLED), next(model.parameters()).device
        chosen = np.linspace(0, len(photographs) - 1, count).astype(int)
        parts = np.array_split(chosen, -(-count // 128))
        pixels = (torch.from_numpy(photographs.pixels[part]).to(device) for part in parts)
        settle_norms(model.stem, (to_teacher(part, model.config.image_size) for part in pixels))


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

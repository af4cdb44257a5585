"""The optimiser's loop of MIT: steps or seconds as the budget, averaged weights, resumable."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, MITConfig
from crossfuse.training.mit_batches import Bank
from crossfuse.training.mit_pooled import PooledBank

AVERAGE = 0.99  # decay of the averaged weights, which are the ones that are kept

Loss = Callable[[MIT, Any, float], Tensor]  # of a batch, and the share of training done


@dataclass(frozen=True)
class Budget:
    """Training ends after ``steps`` of ``batch`` scans, or after ``seconds`` if that is sooner."""

    steps: int
    batch: int
    rate: float
    seconds: float = math.inf

    def share(self, step: int, spent: float) -> float:
        """How much of the training is behind us, 0..1."""
        return min(1.0, max(step / max(self.steps, 1), spent / self.seconds))


class Average:
    """An exponential moving average of a model's weights and statistics."""

    def __init__(self, model: MIT) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: MIT) -> None:
        self.updates += 1
        # Early on, when everything changes, it follows quickly.
        decay = min(AVERAGE, self.updates / (self.updates + 9))
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        kept, new = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
        torch._foreach_lerp_(list(kept), list(new), 1 - decay)


def fit(
    model: MIT,
    bank: Bank | PooledBank,
    path: Path,
    budget: Budget,
    seed: int,
    loss: Loss,
    finish: Callable[[MIT], None] | None = None,
) -> MIT:
    """Train all parameters; returns the averaged model in eval mode, after ``finish`` saw it.

    The state is written to ``path`` as it goes and taken up from there; a finished file is only
    read.
    """
    averaged = Average(model)
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if (p.ndim > 1) == wide], "weight_decay": decay}
        for wide, decay in ((True, 0.02), (False, 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=budget.rate)
    step, spent = 0, 0.0
    if path.is_file():
        state = torch.load(path, map_location=bank.device, weights_only=True)
        averaged.model.load_state_dict(state["model"])
        if state["done"]:
            return averaged.model.eval()
        model.load_state_dict(state["current"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = int(state["step"]), float(state["spent"])
    order = np.random.default_rng([seed, 5])
    queue: list[int] = []
    mean = torch.zeros((), device=bank.device)
    model.train()
    if not any(p.requires_grad for p in model.backbone.parameters()):
        model.backbone.eval()  # a frozen backbone keeps its statistics too
    began = time.monotonic() - spent
    while (share := budget.share(step, spent)) < 1:
        if len(queue) < budget.batch:
            queue += order.permutation(len(bank)).tolist()
        which, queue = queue[: budget.batch], queue[budget.batch :]
        warm = min(1.0, (share + 1e-3) / 0.05)
        for group in optimiser.param_groups:
            group["lr"] = budget.rate * warm * (0.5 + 0.5 * math.cos(math.pi * share))
        torch.manual_seed(seed * 100_003 + step)
        batch = bank.batch(which, seed * 100_003 + step)
        with torch.autocast(bank.device.type, torch.bfloat16, enabled=bank.device.type == "cuda"):
            value = loss(model, batch, share)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 2.0)
        optimiser.step()
        if step % 2 == 0:
            averaged.update(model)
        mean += value.detach()
        step += 1
        spent = time.monotonic() - began
        if step % 100 == 0:
            print(f"{path.stem} {step} loss {mean.item() / 100:.3f} {spent:.0f} s", flush=True)
            mean.zero_()
        if step % 1000 == 0:
            _save(path, averaged, model, optimiser, step, spent, done=False)
    if finish is not None:
        finish(averaged.model.eval())
    _save(path, averaged, model, optimiser, step, spent, done=True)
    return averaged.model.eval()


def _save(
    path: Path,
    averaged: Average,
    model: MIT,
    optimiser: torch.optim.Optimizer,
    step: int,
    spent: float,
    *,
    done: bool,
) -> None:
    state = {
        "model": averaged.model.state_dict(),
        "step": step,
        "spent": spent,
        "done": done,
        "config": json.dumps(asdict(model.config)),
    }
    if not done:
        state |= {"current": model.state_dict(), "optimiser": optimiser.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.rename(path)


def load_checkpoint(path: Path, hint: str) -> MIT:
    """The averaged model of a checkpoint, in eval mode on the CPU.

    Raises:
        CrossfuseError: it is not there; ``hint`` says how to make it.
    """
    if not path.is_file():
        raise CrossfuseError(f"{path} is not there: {hint}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    config: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(state["config"]).items()
    }
    model = MIT(MITConfig(**config))
    model.load_state_dict(state["model"])
    return model.eval()


def begin_from(model: MIT, start: MIT) -> None:
    """Take over everything that ``start`` has under the same name and shape."""
    own, known = model.state_dict(), start.state_dict()
    fitting = {n: v for n, v in known.items() if n in own and own[n].shape == v.shape}
    model.load_state_dict({**own, **fitting})

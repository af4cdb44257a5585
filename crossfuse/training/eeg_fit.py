"""The network and the methods beside it, trained on windows of normalised feature columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.errors import CrossfuseError
from crossfuse.models.mca_eeg import (
    MCAEEG,
    MCAEEGConfig,
    mutual_cross_attention,
    scale_columns,
)
from crossfuse.training.eeg_datasets import Trial

METHODS = ("mca", "concatenate", "logistic", "riemann", "paper")
SEEDED = ("mca", "concatenate", "paper")  # the others give one answer for every seed


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
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> MCAEEG:
    """Train on the windows ``use`` (bool). The model stays on ``device``."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MCAEEG(config).to(device).train()
        de, psd = windows.de[use].to(device), windows.psd[use].to(device)
        fused = None if windows.fused is None else windows.fused[use].to(device)
        label = torch.from_numpy(windows.label[use]).to(device)
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
    order = torch.randperm(len(label), generator=generator, device=label.device)
    if not balanced:
        return order
    classes = [order[label[order] == one] for one in torch.unique(label)]
    fewest = min(len(part) for part in classes)
    mixed = torch.cat([part[:fewest] for part in classes])
    return mixed[torch.randperm(len(mixed), generator=generator, device=label.device)]


def _augment(
    de: Tensor, psd: Tensor, recipe: TrainRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count, channels, bands, _ = de.shape
    if recipe.noise:
        shape = (2, count, channels, bands, 1)
        noise = recipe.noise * torch.randn(shape, generator=generator, device=de.device)
        de, psd = de + noise[0], psd + noise[1]
    if recipe.channel_dropout:
        chance = torch.rand(count, channels, 1, 1, generator=generator, device=de.device)
        kept = chance > recipe.channel_dropout
        de, psd = de * kept, psd * kept
    return de, psd


def scores_of(model: MCAEEG, windows: Windows, use: np.ndarray) -> np.ndarray:
    """Logit of class 1 minus logit of class 0 for each window."""
    device = model.classifier.weight.device
    with torch.no_grad():
        if windows.fused is not None:
            logits = model.classify(windows.fused[use][:, None].to(device))
        else:
            logits = model(windows.de[use].to(device), windows.psd[use].to(device)).logits[:, 0]
    return (logits[:, 1] - logits[:, 0]).cpu().numpy()


# --- the methods beside it -------------------------------------------------------------------


def fit_and_score(
    method: str,
    windows: Windows,
    train: np.ndarray,
    test: np.ndarray,
    config: MCAEEGConfig,
    recipe: TrainRecipe,
    seed: int,
    device: str = "cpu",
) -> np.ndarray:
    """Scores of the test windows by one of ``METHODS`` (of "paper", the windows differ and
    not the method: it is "mca" here) trained on the train windows."""
    if method in ("mca", "concatenate"):
        if method == "concatenate":
            config = replace(config, fusion="concatenate")
            windows = replace(windows, fused=None)
        model = fit(windows, train, config, recipe, seed, device)
        return scores_of(model, windows, test)
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

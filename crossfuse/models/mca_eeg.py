"""MCA: mutual cross-attention of two EEG features, and its 3D-CNN.

Zhao & Gu, "Feature Fusion Based on Mutual-Cross-Attention Mechanism for EEG Emotion Recognition",
MICCAI 2024, arXiv 2406.14014; sizes from the public code (ztony0712/MCA).

For each band, with X1 = DE and X2 = PSD in R^(C x T) (row = channel, column = second):

    S  = X1 X2ᵀ / sqrt(T)                      (C x C)
    A1 = softmax over columns of S             DE asks PSD
    A2 = softmax over columns of Sᵀ            PSD asks DE
    Z  = A1 X2 + A2 X1                         (C x T)

Keys are the values, there are no projections, heads or parameters. Z of all bands, cut into
windows of W = 3 columns, is the input of the 3D-CNN, (1, C, F, W):

    conv 1->32, conv 32->32, max-pool, ReLU, conv 32->64, conv 64->64, max-pool, ReLU, linear

195,618 parameters for C = 32, F = 5, W = 3 and two classes. What a map means: row i holds the
convex weights of the channels whose time courses are averaged to replace channel i. It is the
likeness of band features between channels; nothing in it is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, attend

Fusion = Literal["mutual", "time", "concatenate"]


@dataclass(frozen=True)
class MCAEEGConfig:
    """Sizes and switches.

    ``fusion``: "mutual" is the paper's; "time" is an EXTENSION that attends over columns instead of
    channels (S = X1ᵀ X2 / sqrt(C)); "concatenate" has no attention and is the comparison.
    ``scaling``: "minmax" scales each column of Z over channels and bands to 0..1 (paper);
    "none" keeps Z. ``dropout`` before the linear layer (declared in the paper's code, never used).
    """

    channels: int = 32
    bands: int = 5
    window: int = 3
    classes: int = 2
    fusion: Fusion = "mutual"
    scaling: Literal["none", "minmax"] = "none"
    dropout: float = 0.0

    @classmethod
    def paper(cls) -> MCAEEGConfig:
        return cls(scaling="minmax")

    @classmethod
    def workload(cls) -> MCAEEGConfig:
        """Nineteen electrodes of the 10-20 system, as in the released weights."""
        return cls(channels=19, dropout=0.5)

    @classmethod
    def small(cls) -> MCAEEGConfig:
        return cls(channels=8)


@dataclass(frozen=True)
class MCAEEGOutput:
    """``logits`` (B, windows, classes); ``fused`` (B, C, F, T), None without attention."""

    logits: Tensor
    fused: Tensor | None
    maps: tuple[LayerMap, ...] = ()


@dataclass(frozen=True)
class Fused:
    """``output`` (B, C, F, T): the sum of both directions; ``de_psd`` and ``psd_de`` its parts."""

    output: Tensor
    de_psd: Tensor
    psd_de: Tensor
    maps: tuple[LayerMap, ...] = ()


def mutual_cross_attention(
    de: Tensor, psd: Tensor, *, over: Literal["channels", "time"] = "channels", want: Want = NOTHING
) -> Fused:
    """Z = A1 X2 + A2 X1 for each band. ``de``, ``psd``: (B, C, F, T), T the columns of one scope.

    The bands are the heads of the two maps, (B, F, C, C) each (``over="time"``: (B, F, T, T)).
    """
    order = (0, 2, 1, 3) if over == "channels" else (0, 2, 3, 1)
    back = (0, 2, 1, 3) if over == "channels" else (0, 3, 1, 2)
    x1, x2 = de.permute(order), psd.permute(order)
    items = "channels" if over == "channels" else "columns"
    parts, maps = [], []
    for layer, (direction, query, key) in enumerate(
        (("DE asks PSD", x1, x2), ("PSD asks DE", x2, x1))
    ):
        attended = attend(query, key, key, want=want)
        parts.append(attended.output.permute(back))
        if attended.weights is not None:
            check = want.check and want.kind == "everything"
            record = LayerMap(
                stage="fusion",
                layer=layer,
                direction=direction,
                query=items,
                key=items,
                weights=attended.weights,
                rows=want.rows,
                value=key if check else None,
                context=attended.output if check else None,
            )
            maps.append(record)
    return Fused(parts[0] + parts[1], parts[0], parts[1], tuple(maps))


def scale_columns(fused: Tensor) -> Tensor:
    """Min-max of each column over (channel, band) to 0..1; a constant column becomes 0."""
    low = fused.amin(dim=(1, 2), keepdim=True)
    span = fused.amax(dim=(1, 2), keepdim=True) - low
    return (fused - low) / torch.where(span > 0, span, torch.ones_like(span))


class MCAEEG(nn.Module):
    """Mutual cross-attention, then the 3D-CNN on windows of ``config.window`` columns."""

    Config = MCAEEGConfig

    def __init__(self, config: MCAEEGConfig) -> None:
        super().__init__()
        self.config = config
        planes = 2 if config.fusion == "concatenate" else 1
        self.features = nn.Sequential(
            nn.Conv3d(planes, 32, 3, padding=1),
            nn.Conv3d(32, 32, 3, padding=1),
            nn.MaxPool3d(2, padding=(0, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(32, 64, 3, padding=1),
            nn.Conv3d(64, 64, 3, padding=1),
            nn.MaxPool3d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():  # the length of the flattened map depends on C, F and W
            shape = (1, planes, config.channels, config.bands, config.window)
            width = self.features(torch.zeros(shape)).shape[1]
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, config.classes)
        # The same numbers a quarter faster on a CPU: channels last suits its convolutions.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: MCAEEGConfig) -> MCAEEG:
        return cls(config)

    def fuse(self, de: Tensor, psd: Tensor, want: Want = NOTHING) -> Fused | None:
        """The fusion alone, over all columns given; None for "concatenate"."""
        if self.config.fusion == "concatenate":
            return None
        over: Literal["channels", "time"] = "time" if self.config.fusion == "time" else "channels"
        return mutual_cross_attention(de, psd, over=over, want=want)

    def classify(self, volume: Tensor) -> Tensor:
        """(N, planes, C, F, W) -> logits (N, classes)."""
        return self.classifier(self.dropout(self.features(volume)))

    def forward(self, de: Tensor, psd: Tensor, want: Want = NOTHING) -> MCAEEGOutput:
        """``de``, ``psd``: (B, C, F, T), normalised; T a multiple of the window W.

        Attention runs over all T columns given: T = W is scope "window" (each window has maps of
        its own), T = 60 is the paper's scope "trial" (twenty windows share one pair of maps).
        """
        window = self.config.window
        if de.shape != psd.shape or de.dim() != 4 or de.shape[-1] % window:
            raise ValueError(
                f"DE and PSD must share the shape (B, C, F, T) with T a multiple of {window}; got "
                f"{tuple(de.shape)} and {tuple(psd.shape)}"
            )
        fused = self.fuse(de, psd, want)
        if fused is None:
            planes = torch.stack([de, psd], dim=1)
        else:
            z = scale_columns(fused.output) if self.config.scaling == "minmax" else fused.output
            planes = z[:, None]
        batch, count = de.shape[0], de.shape[-1] // window
        volume = planes.unflatten(-1, (count, window)).permute(0, 4, 1, 2, 3, 5).flatten(0, 1)
        logits = self.classify(volume.contiguous()).unflatten(0, (batch, count))
        if fused is None:
            return MCAEEGOutput(logits, None)
        return MCAEEGOutput(logits, fused.output, fused.maps)

    @classmethod
    def example_inputs(cls, config: MCAEEGConfig, batch: int, seed: int) -> dict[str, Any]:
        """Keyword arguments of ``forward``, random but of plausible size."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, config.channels, config.bands, config.window)
        return {name: torch.randn(shape, generator=generator) for name in ("de", "psd")}

"""The maps of an EEG trace: what the score rests on, and who asks whom.

Each function turns windows of scaled features, (windows, channels, bands, columns), into the maps
of one stage of the trace. Where a long recording has more maps than can be kept, those of the
windows that tell most are, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossfuse.attention import NOTHING, Want
from crossfuse.encoders.eeg_normalise import saturation
from crossfuse.explain import eeg
from crossfuse.geometry import TimeFrequency
from crossfuse.models.mca_eeg import Fused, mutual_cross_attention
from crossfuse.notices import Notice
from crossfuse.trace import AttentionMap

if TYPE_CHECKING:
    from torch import Tensor

    from crossfuse.engine.context import Context
    from crossfuse.models.mca_eeg import MCAEEG

MAP_BUDGET = 3_000_000  # weights of fusion maps in one trace
SCALING_BUDGET = 600_000  # weights of the maps under each other scale
OCCLUSION_BUDGET = 64  # windows whose single channels are occluded
TIME_STEPS = 240  # rows of a map over time
SCALINGS = ("baseline", "subtract", "none")


def relevance(
    model: MCAEEG, de: Tensor, psd: Tensor, context: Context, outputs: dict[str, Any]
) -> list[AttentionMap]:
    """Scores of all windows, and what they rest on."""
    base = eeg.scores(model, de, psd)
    outputs["score"] = base.numpy().astype(np.float32)
    outputs["probability"] = torch.sigmoid(base).numpy().astype(np.float32)
    context.stage("relevance of bands", 0.6)
    bands = eeg.occlude_bands(model, de, psd, base)  # (windows, bands)
    outputs["cells"] = bands.T.numpy()
    context.stage("relevance by gradient", 0.65)
    gradient = eeg.gradient_input(model, de, psd)  # (windows, bands, channels)
    count = len(de)
    strongest = torch.argsort(bands.abs().amax(1), descending=True)[:OCCLUSION_BUDGET]
    held = torch.sort(strongest).values

    def report(fraction: float) -> None:
        context.stage("relevance by occlusion", 0.7 + 0.2 * fraction)

    report(0.0)
    occluded = eeg.occlude_channels(model, de[held], psd[held], base[held], report)
    rows = None
    if len(held) < count:
        band_index = torch.arange(bands.shape[1])[:, None] * count
        rows = (band_index + held[None, :]).flatten().numpy()
    return [
        AttentionMap(
            "score",
            0,
            "occlusion",
            "score",
            "cells",
            bands.T.reshape(1, 1, -1).numpy(),
            None,
            ("all bands",),
            "relevance",
        ),
        AttentionMap(
            "relevance",
            0,
            "occlusion",
            "cells",
            "channels",
            _by_cell(occluded),
            rows,
            ("all bands",),
            "relevance",
        ),
        AttentionMap(
            "relevance",
            0,
            "gradient",
            "cells",
            "channels",
            _by_cell(gradient),
            None,
            ("all bands",),
            "relevance",
        ),
    ]


def _by_cell(values: Tensor) -> np.ndarray:
    """(windows, bands, channels) -> (1, bands * windows, channels) float32."""
    return values.permute(1, 0, 2).flatten(0, 1)[None].float().numpy()


def departure(de: Tensor, psd: Tensor) -> AttentionMap:
    """Where there is no classifier: how far each cell and channel is from the baseline."""
    square = 0.5 * (de.square() + psd.square()).mean(-1)  # windows, channels, bands
    return AttentionMap(
        "relevance",
        0,
        "departure",
        "cells",
        "channels",
        _by_cell(square.transpose(1, 2)),
        None,
        ("all bands",),
        "departure",
    )


def importance(maps: list[AttentionMap], count: int, bands: int) -> np.ndarray:
    """(windows,): the largest effect of any band, from the first map that speaks of cells."""
    for entry in maps:
        if entry.query == "score":
            return np.abs(entry.weights.reshape(bands, count)).max(0)
    summed: np.ndarray = np.abs(maps[0].weights[0].sum(-1)).reshape(bands, count).max(0)
    return summed


def fusion(
    blocks: list[Tensor],
    names: tuple[str, ...],
    scope: str,
    telling: np.ndarray,
    outputs: dict[str, Any],
    notes: list[str],
) -> list[AttentionMap]:
    """Channel x channel, both directions, one layer a window ("trial": one for all windows)."""
    de, psd = blocks
    count, channels, bands, _ = de.shape
    if scope == "trial":  # the paper's: one pair of maps for all columns
        de, psd = (part.permute(1, 2, 0, 3).flatten(2)[None] for part in (de, psd))
        chosen = np.array([0])
    else:
        chosen = _most_telling(telling, MAP_BUDGET // (2 * bands * channels * channels))
        if len(chosen) < count:
            notes.append(
                Notice(
                    "Fusion maps are kept of the {kept} most telling of {count} windows.",
                    kept=len(chosen),
                    count=count,
                )
            )
    fused = _fuse(de[chosen], psd[chosen])
    top, entropy = saturation(fused.maps[0].weights)
    outputs["saturation"] = (top, entropy, 1 / channels)
    if top > 0.5:
        notes.append(
            Notice(
                "Saturated fusion: the largest weight of a row is {top:.2f} on average "
                "(1/{channels} would be even). The size of the units decides, not the likeness of "
                "channels.",
                top=top,
                channels=channels,
            )
        )
    return [
        _channel_map("fusion", window, record.direction, record.weights[place], names)
        for place, window in enumerate(chosen)
        for record in fused.maps
    ]


def scalings(
    scaled: Callable[[str], list[Tensor]],
    names: tuple[str, ...],
    telling: np.ndarray,
    outputs: dict[str, Any],
) -> list[AttentionMap]:
    """DE asks PSD under each of ``SCALINGS``: decibels saturate the softmax, z-scores do not.

    ``scaled(method)``: the windows under a scale. ``outputs["saturation_by_scale"]`` gets, for
    each, the mean largest weight of a row and the normalised entropy.
    """
    maps, facts = [], {}
    for method in SCALINGS:
        de, psd = scaled(method)
        _, channels, bands, _ = de.shape
        chosen = _most_telling(telling, SCALING_BUDGET // (bands * channels * channels))
        record = _fuse(de[chosen], psd[chosen]).maps[0]
        facts[method] = saturation(record.weights)
        maps += [
            _channel_map("scaling", window, method, record.weights[place], names)
            for place, window in enumerate(chosen)
        ]
    outputs["saturation_by_scale"] = facts
    return maps


def across_time(
    blocks: list[Tensor], names: tuple[str, ...], times: np.ndarray, notes: list[str]
) -> tuple[TimeFrequency, list[AttentionMap]]:
    """EXTENSION, not in the paper: windows ask windows, S = X1ᵀ X2 / sqrt(C), one head a band.

    Each step is the mean of a window's columns; of a long recording neighbouring windows are
    averaged, so that a map has at most ``TIME_STEPS`` rows.
    """
    count = len(times)
    width = -(-count // TIME_STEPS)
    steps = count // width
    parts = [
        part[: steps * width].mean(-1).unflatten(0, (steps, width)).mean(1).permute(1, 2, 0)[None]
        for part in blocks
    ]
    if width > 1:
        notes.append(
            Notice(
                "Attention over time is shown in {steps} steps of {seconds:g} s.",
                steps=steps,
                seconds=float(times[width - 1, 1] - times[0, 0]),
            )
        )
    with torch.inference_mode():
        fused = mutual_cross_attention(parts[0], parts[1], over="time", want=Want.everything())
    spans = np.stack([times[: steps * width : width, 0], times[width - 1 :: width, 1][:steps]], 1)
    axis = TimeFrequency(("all bands",), np.array([[4.0, 45.0]], np.float32), spans)
    maps = [
        AttentionMap(
            "time",
            0,
            record.direction,
            "windows",
            "windows",
            record.weights[0].numpy(),
            None,
            names,
        )
        for record in fused.maps
    ]
    return axis, maps


def before_and_after(blocks: list[Tensor]) -> dict[str, np.ndarray]:
    """``de``, ``psd`` and ``fused``, (channels, bands, windows): means of each window's columns."""
    fused = _fuse(blocks[0], blocks[1], NOTHING).output
    parts = (("de", blocks[0]), ("psd", blocks[1]), ("fused", fused))
    return {name: part.mean(-1).permute(1, 2, 0).numpy() for name, part in parts}


def _fuse(de: Tensor, psd: Tensor, want: Want | None = None) -> Fused:
    with torch.inference_mode():
        return mutual_cross_attention(de, psd, want=want or Want.everything())


def _most_telling(telling: np.ndarray, most: int) -> np.ndarray:
    """At most so many windows (at least one), in order of time."""
    found: np.ndarray = np.sort(np.argsort(-telling, kind="stable")[: max(1, most)])
    return found


def _channel_map(
    stage: str, window: int, direction: str, weights: Tensor, names: tuple[str, ...]
) -> AttentionMap:
    return AttentionMap(
        stage, int(window), direction, "channels", "channels", weights.numpy(), None, names
    )

"""From an EEG file to a trace: read, clean, features, fusion, score, relevance.

Geometries of the trace: ``channels``, ``cells`` (bands x windows) and ``score`` (one item).
Maps: ``relevance`` from cells to channels by occlusion and by gradient x input, ``score`` to cells
by occlusion, and ``fusion``, channels to channels, one layer a window and one head a band.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfuse.engine.messages import Request, Result, content_digest
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Channels, TimeFrequency, Tokens
from crossfuse.trace import AttentionMap, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from crossfuse.data.eeg.recording import Recording
    from crossfuse.encoders.eeg_features import Features
    from crossfuse.engine.context import Context
    from crossfuse.models.mca_eeg import MCAEEG

RATE = 128.0
WINDOW = 3  # columns
BASELINE = 60.0  # seconds, when not chosen: the first minute, or a third of a short recording
MAP_BUDGET = 3_000_000  # weights of fusion maps in one trace
OCCLUSION_BUDGET = 64  # windows whose single channels are occluded
TARGET = "logit of mental arithmetic - logit of rest"
WORDS_OF_CARE = (
    "The classifier tells mental arithmetic from rest, learnt on 28 people in whom rest always "
    "came first. It is a demonstration and not diagnostic."
)


def run(request: Request, context: Context) -> Result:
    """Inputs: ``names`` and ``contents`` (tuples of the same length; bytes), or ``sample`` alone;
    ``baseline_names`` and ``baseline_contents`` for a rest recording of the same person.

    Options: ``rate``, ``unit``, ``trial`` (reading); ``band`` (low, high), ``notch``,
    ``reference``, ``bad``, ``interpolate`` (cleaning); ``baseline`` (start, stop) in seconds;
    ``normalise`` ("baseline", "subtract", "recording", "none"); ``channels`` ("classifier" or
    "all"); ``scope`` ("window" or "trial").

    Raises:
        CrossfuseError: what is wrong with the recording, and what would work.
    """
    import torch

    from crossfuse.encoders.eeg_features import FeatureRecipe, extract
    from crossfuse.models.mca_eeg import MCAEEG

    options = dict(request.options)
    context.stage("reading the recording", 0.0)
    whole = _recording(request, context, "names", "contents", options)
    rest = None
    if request.inputs.get("baseline_names"):
        rest = _recording(request, context, "baseline_names", "baseline_contents", options)
    context.stage("cleaning", 0.3)
    notes: list[str] = []
    recording, model = _prepare(whole, options, context, notes)
    if rest is not None:
        rest = _same_channels(rest, recording, options)
    context.stage("features", 0.4)
    recipe, lost = FeatureRecipe.paper().available(recording.rate)
    if lost:
        notes.append(
            f"At {recording.rate:g} Hz the bands {', '.join(lost)} cannot be had; the classifier "
            "needs all five and stays silent."
        )
        model = None
    features = extract(recording.signal, recording.rate, recipe)
    count = len(features) // WINDOW
    if count == 0:
        raise CrossfuseError(
            f"the recording lasts {recording.seconds:.1f} s, one window needs {WINDOW} s; choose a "
            "longer part"
        )
    span = _baseline(options, recording, rest)
    reference = features if rest is None else extract(rest.signal, rest.rate, recipe)
    de, psd = _normalised(features, reference, span, options, notes, bool(model))
    context.stage("fusion and score", 0.55)
    blocks = [_windows(part, count) for part in (de, psd)]
    times = np.stack(
        [
            features.times[0 : count * WINDOW : WINDOW, 0],
            features.times[WINDOW - 1 :: WINDOW, 1][:count],
        ],
        axis=1,
    )
    channels = Channels(recording.names, recording.positions)
    cells = TimeFrequency(
        recipe.names, np.array([(b.low, b.high) for b in recipe.de_bands], np.float32), times
    )
    maps: list[AttentionMap] = []
    outputs: dict[str, Any] = {}
    if isinstance(model, MCAEEG):
        maps += _explain(model, blocks[0], blocks[1], context, outputs)
    else:
        maps.append(_departure(blocks[0], blocks[1]))
        outputs["target"] = "mean squared departure from the baseline"
    context.stage("maps", 0.9)
    maps += _fusion(blocks, recipe.names, options, maps, outputs, notes)
    with torch.inference_mode():
        fused = _fuse(blocks[0], blocks[1]).output
    for name, part in (("de", blocks[0]), ("psd", blocks[1]), ("fused", fused)):
        outputs[name] = part.mean(-1).permute(1, 2, 0).numpy()  # channels, bands, windows
    outputs |= _raw(recording, times, span if rest is None else None)
    meta = {
        "target": outputs["target"],
        "recording": {"seconds": recording.seconds, "rate": recording.rate, "format": whole.format},
        "baseline": list(span),
        "baseline_from": "a recording of its own" if rest is not None else "this recording",
        "normalise": options.get("normalise", "baseline"),
        "scope": options.get("scope", "window"),
    }
    geometries = {"channels": channels, "cells": cells, "score": Tokens(("score",))}
    trace = Trace("mca_eeg", geometries, tuple(maps), meta)
    everything = dict.fromkeys((*recording.notes, *notes))
    return Result(trace, outputs, tuple(everything), dict(context.timings))


# --- the steps -------------------------------------------------------------------------------


def _recording(
    request: Request, context: Context, names: str, contents: str, options: dict[str, Any]
) -> Recording:
    """The decoded recording at 128 Hz or less, kept for the next question about it."""
    from crossfuse.data.eeg import cleaning, read_recording, simulated

    if names == "names" and request.inputs.get("sample"):
        sample = str(request.inputs["sample"])
        if sample != "simulated":
            raise CrossfuseError(f"there is no sample {sample!r}; there is: simulated")
        return context.resource(("eeg", "simulated"), simulated.simulate)
    files = dict(zip(request.inputs[names], request.inputs[contents], strict=True))
    how = {key: options[key] for key in ("rate", "unit", "trial") if options.get(key) is not None}

    def build() -> Recording:
        found = read_recording(files, **how)
        return cleaning.resample(found, RATE) if found.rate > RATE else found

    return context.resource(("eeg", content_digest({"files": files, "how": how})), build)


def _prepare(
    whole: Recording, options: dict[str, Any], context: Context, notes: list[str]
) -> tuple[Recording, MCAEEG | None]:
    """Clean, choose channels, and say whether the classifier can speak."""
    from crossfuse.data.eeg import cleaning, montage

    clean = cleaning.clean(whole, _steps(options))
    odd = [name for name in cleaning.propose_bad(clean) if name not in clean.bad]
    if odd:
        notes.append(
            f"Unlike the other channels in size, or like none of them: {', '.join(odd)}. Mark them "
            "bad to have them interpolated."
        )
    eeg = [
        name
        for name, kind in zip(clean.names, clean.kinds, strict=True)
        if kind == "eeg" and name not in clean.bad
    ]
    if not eeg:
        raise CrossfuseError(
            "no good EEG channel is left (all are flat, marked bad, or of another kind); see the "
            "notes of the file and take marks back"
        )
    if options.get("channels", "classifier") == "classifier":
        absent = [name for name in montage.TEN_TWENTY if name not in eeg]
        if len(absent) <= 6:
            good = clean.pick(eeg)
            chosen = cleaning.complete(good, montage.TEN_TWENTY)
            if whole.rate < RATE:
                notes.append(f"{whole.rate:g} Hz is below the 128 Hz the classifier was learnt on.")
            model: Any = context.model("mca_eeg")
            return chosen, model
        notes.append(
            f"The classifier needs the 19 electrodes of the 10-20 system and {len(absent)} of them "
            f"are absent ({', '.join(absent[:8])}{'...' if len(absent) > 8 else ''}); the maps are "
            "shown without it."
        )
    else:
        notes.append("All channels are shown; the classifier, which has 19 of its own, is silent.")
    return clean.pick(eeg), None


def _steps(options: dict[str, Any]) -> Any:
    from crossfuse.data.eeg.cleaning import Steps

    band = options.get("band")
    return Steps(
        band=(float(band[0]), float(band[1])) if band else None,
        notch=options.get("notch"),
        reference=options.get("reference", "as recorded"),
        bad=tuple(options.get("bad", ())),
        interpolate=bool(options.get("interpolate", True)),
    )


def _same_channels(rest: Recording, recording: Recording, options: dict[str, Any]) -> Recording:
    from crossfuse.data.eeg import cleaning

    steps = replace(_steps(options), bad=())
    found = cleaning.complete(cleaning.clean(rest, steps), recording.names)
    return cleaning.resample(found, recording.rate)


def _baseline(
    options: dict[str, Any], recording: Recording, rest: Recording | None
) -> tuple[float, float]:
    seconds = recording.seconds if rest is None else rest.seconds
    default = (0.0, BASELINE if seconds >= 1.5 * BASELINE or rest is not None else seconds / 3)
    start, stop = options.get("baseline") or default
    stop = min(float(stop), seconds)
    if not 0 <= start < stop:
        raise CrossfuseError(
            f"the baseline from {start:g} to {stop:g} s does not lie in a recording of "
            f"{seconds:.1f} s; choose another segment"
        )
    return float(start), float(stop)


def _normalised(
    features: Features,
    reference: Features,
    span: tuple[float, float],
    options: dict[str, Any],
    notes: list[str],
    classified: bool,
) -> tuple[Tensor, Tensor]:
    from crossfuse.encoders.eeg_normalise import Normalisation, Statistics, normalise

    method = str(options.get("normalise", "baseline"))
    rule = Normalisation(method=method)  # type: ignore[arg-type]
    if method in ("subtract", "none"):  # decibels as they are: neither smoothed nor cut
        rule = replace(Normalisation.paper(), method=method)  # type: ignore[arg-type]
    if method == "recording":
        first, last = 0, len(features)
        reference = features
        notes.append("Scaled by the whole recording: transductive, the judged part included.")
    else:
        first = round(span[0] / features.recipe.column)
        last = round(span[1] / features.recipe.column)
    if method != "baseline" and classified:
        notes.append(
            f"The classifier was learnt on features scaled by a baseline; under {method!r} its "
            "score means little."
        )
    parts = []
    for own, base in ((features.de, reference.de), (features.psd, reference.psd)):
        statistics = Statistics.of(base[..., first:last])
        parts.append(normalise(own, statistics, rule))
    return parts[0], parts[1]


def _windows(columns: Tensor, count: int) -> Tensor:
    """(C, F, T) -> (windows, C, F, W)."""
    blocks = columns[..., : count * WINDOW].unflatten(-1, (count, WINDOW))
    return blocks.permute(2, 0, 1, 3).contiguous()


def _fuse(de: Tensor, psd: Tensor, want: Any = None) -> Any:
    from crossfuse.attention import NOTHING
    from crossfuse.models.mca_eeg import mutual_cross_attention

    return mutual_cross_attention(de, psd, want=want or NOTHING)


def _explain(
    model: MCAEEG, de: Tensor, psd: Tensor, context: Context, outputs: dict[str, Any]
) -> list[AttentionMap]:
    """Scores of all windows, and what they rest on."""
    import torch

    from crossfuse.explain import eeg

    base = eeg.scores(model, de, psd)
    outputs["score"] = base.numpy().astype(np.float32)
    outputs["probability"] = torch.sigmoid(base).numpy().astype(np.float32)
    outputs["target"] = TARGET
    outputs["care"] = WORDS_OF_CARE
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


def _departure(de: Tensor, psd: Tensor) -> AttentionMap:
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


def _fusion(
    blocks: list[Tensor],
    names: tuple[str, ...],
    options: dict[str, Any],
    maps: list[AttentionMap],
    outputs: dict[str, Any],
    notes: list[str],
) -> list[AttentionMap]:
    """Channel x channel maps: of every window, or of the most telling ones where that is much."""
    import torch

    from crossfuse.attention import Want
    from crossfuse.encoders.eeg_normalise import saturation

    de, psd = blocks
    count, channels, bands, _ = de.shape
    scope = options.get("scope", "window")
    if scope == "trial":  # the paper's: one pair of maps for all columns
        de, psd = (part.permute(1, 2, 0, 3).flatten(2)[None] for part in (de, psd))
        chosen = np.array([0])
    else:
        most = max(1, MAP_BUDGET // (2 * bands * channels * channels))
        importance = np.abs(_importance(maps, count, bands)).max(0)
        chosen = np.sort(np.argsort(-importance, kind="stable")[:most])
        if len(chosen) < count:
            notes.append(
                f"Fusion maps are kept of the {len(chosen)} most telling of {count} windows."
            )
    with torch.inference_mode():
        fused = _fuse(de[chosen], psd[chosen], Want.everything())
    top, entropy = saturation(fused.maps[0].weights)
    outputs["saturation"] = (top, entropy, 1 / channels)
    if top > 0.5:
        notes.append(
            f"Saturated fusion: the largest weight of a row is {top:.2f} on average (1/{channels} "
            "would be even). The size of the units decides, not the likeness of channels."
        )
    outputs["fusion_windows"] = chosen
    return [
        AttentionMap(
            "fusion",
            int(window),
            record.direction,
            "channels",
            "channels",
            record.weights[place].numpy(),
            None,
            names,
            "attention",
        )
        for place, window in enumerate(chosen)
        for record in fused.maps
    ]


def _importance(maps: list[AttentionMap], count: int, bands: int) -> np.ndarray:
    """(bands, windows) from the first map that speaks of cells."""
    for entry in maps:
        if entry.query == "score":
            return entry.weights.reshape(bands, count)
    summed: np.ndarray = maps[0].weights[0].sum(-1).reshape(bands, count)
    return summed


@dataclass(frozen=True)
class _Pack:
    """Traces as int16 with a factor a channel: half the memory of float32."""

    values: np.ndarray
    factors: np.ndarray


def _packed(signal: np.ndarray) -> _Pack:
    top = np.maximum(np.abs(signal).max(axis=1), 1e-6)
    factors = (top / 32767).astype(np.float32)
    values = np.empty(signal.shape, np.int16)
    for row in range(len(signal)):
        values[row] = np.rint(signal[row] / factors[row])
    return _Pack(values, factors)


def _raw(
    recording: Recording, times: np.ndarray, span: tuple[float, float] | None
) -> dict[str, Any]:
    pack = _packed(recording.signal)
    marks = recording.annotations
    return {
        "signal": pack.values,
        "signal_factors": pack.factors,
        "rate": recording.rate,
        "times": times,
        "annotation_onsets": np.array([m.onset for m in marks], np.float32),
        "annotation_durations": np.array([m.duration for m in marks], np.float32),
        "annotation_texts": [m.text[:80] for m in marks],
        "baseline": span,
    }


# --- command line ----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="EEG file(s)")
    parser.add_argument("--rest", type=Path, nargs="+", help="rest recording of the same person")
    parser.add_argument("--rate", type=float, help="Hz, where the file does not say (CSV)")
    parser.add_argument("--unit", choices=("V", "mV", "µV", "uV"))
    parser.add_argument("--trial", type=int, help="trial of a DEAP file, from 0")
    parser.add_argument("--band", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Hz")
    parser.add_argument("--notch", type=float, choices=(50, 60))
    parser.add_argument("--reference", default="as recorded")
    parser.add_argument("--bad", nargs="*", default=[])
    parser.add_argument("--baseline", type=float, nargs=2, metavar=("START", "STOP"), help="s")
    parser.add_argument(
        "--normalise", choices=("baseline", "subtract", "recording", "none"), default="baseline"
    )
    parser.add_argument("--channels", choices=("classifier", "all"), default="classifier")
    parser.add_argument("--scope", choices=("window", "trial"), default="window")


def request_from_arguments(args: argparse.Namespace) -> Request:
    """Read the files and make the request.

    An EEGLAB .fdt and BrainVision's companions are found beside the given file.
    """
    inputs: dict[str, Any] = {}
    for name, paths in (("", args.input), ("baseline_", args.rest or [])):
        files = [one for path in paths for one in _with_companions(path)]
        inputs[f"{name}names"] = tuple(path.name for path in files)
        inputs[f"{name}contents"] = tuple(path.read_bytes() for path in files)
    keys = ("rate", "unit", "trial", "band", "notch", "reference", "bad", "baseline")
    options = {key: getattr(args, key) for key in (*keys, "normalise", "channels", "scope")}
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in options.items()
        if value is not None
    }
    return Request("mca_eeg", inputs, options)


def _with_companions(path: Path) -> list[Path]:
    if not path.is_file():
        raise CrossfuseError(f"there is no file {path}")
    endings = {".set": (".fdt",), ".vhdr": (".eeg", ".vmrk", ".dat")}.get(path.suffix.lower(), ())
    return [path, *(p for p in (path.with_suffix(e) for e in endings) if p.is_file())]

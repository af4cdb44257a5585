"""From an EEG file to a trace: read, clean, features, fusion, score, relevance.

Geometries of the trace: ``channels``, ``cells`` (bands x windows), ``windows`` and ``score`` (one
item). Maps: ``relevance`` from cells to channels by occlusion and by gradient x input, ``score`` to
cells by occlusion; ``fusion``, channels to channels, one layer a window and one head a band;
``scaling``, the same under other scales of the features; ``time``, windows to windows (an
extension of the paper). See ``eeg_maps`` for each.
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
from crossfuse.notices import Notice
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
MOST_ABSENT = 6  # electrodes of the classifier that are interpolated where a file lacks them
MAX_SHOWN = 256  # EEG channels in one map
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
    from crossfuse.data.eeg import cleaning
    from crossfuse.encoders.eeg_features import FeatureRecipe, extract
    from crossfuse.models.mca_eeg import MCAEEG
    from crossfuse.pipelines import eeg_maps

    options = dict(request.options)
    context.stage("reading the recording", 0.0)
    whole = _recording(request, context, "names", "contents", options)
    rest = None
    if request.inputs.get("baseline_names"):
        rest = _recording(request, context, "baseline_names", "baseline_contents", options)
    context.stage("cleaning", 0.3)
    notes: list[str] = []
    clean = cleaning.clean(whole, _steps(options))
    recording, model = _prepare(clean, options, context, notes)
    if rest is not None:
        rest = _same_channels(rest, recording, options)
    context.stage("features", 0.4)
    recipe, lost = FeatureRecipe.paper().available(recording.rate)
    if lost:
        notes.append(
            Notice(
                "At {rate:g} Hz the bands {bands} cannot be had; the classifier needs all five and "
                "stays silent.",
                rate=recording.rate,
                bands=", ".join(lost),
            )
        )
        model = None
    features = extract(recording.signal, recording.rate, recipe)
    count = len(features) // WINDOW
    if count == 0:
        raise CrossfuseError(
            "the recording lasts {seconds:.1f} s, one window needs {window} s; choose a "
            "longer part",
            seconds=recording.seconds,
            window=WINDOW,
        )
    span = _baseline(options, recording, rest)
    reference = features if rest is None else extract(rest.signal, rest.rate, recipe)
    method = str(options.get("normalise", "baseline"))
    _say_scale(method, model is not None, notes)

    def scaled(how: str) -> list[Tensor]:
        return [_windows(part, count) for part in _normalised(features, reference, span, how)]

    context.stage("fusion and score", 0.55)
    blocks = scaled(method)
    times = np.stack(
        [
            features.times[0 : count * WINDOW : WINDOW, 0],
            features.times[WINDOW - 1 :: WINDOW, 1][:count],
        ],
        axis=1,
    )
    edges = np.array([(b.low, b.high) for b in recipe.de_bands], np.float32)
    cells = TimeFrequency(recipe.names, edges, times)
    maps: list[AttentionMap] = []
    outputs: dict[str, Any] = {}
    if isinstance(model, MCAEEG):
        maps += eeg_maps.relevance(model, blocks[0], blocks[1], context, outputs)
        outputs |= {"target": TARGET, "care": WORDS_OF_CARE}
    else:
        maps.append(eeg_maps.departure(blocks[0], blocks[1]))
        outputs["target"] = "mean squared departure from the baseline"
    context.stage("maps", 0.9)
    scope = options.get("scope", "window")
    importance = eeg_maps.importance(maps, count, len(recipe.names))
    maps += eeg_maps.fusion(blocks, recipe.names, scope, importance, outputs, notes)
    maps += eeg_maps.scalings(scaled, recipe.names, importance, outputs)
    windows, across = eeg_maps.across_time(blocks, recipe.names, times, notes)
    maps += across
    outputs |= eeg_maps.before_and_after(blocks)
    outputs |= _raw(clean, whole, times, span if rest is None else None)
    meta = {
        "target": outputs["target"],
        "recording": {"seconds": recording.seconds, "rate": recording.rate, "format": whole.format},
        "baseline": list(span),
        "baseline_from": "a recording of its own" if rest is not None else "this recording",
        "normalise": method,
        "scope": scope,
    }
    geometries = {
        "channels": Channels(recording.names, recording.positions),
        "cells": cells,
        "windows": windows,
        "score": Tokens(("score",)),
    }
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
            raise CrossfuseError(
                "there is no sample {sample!r}; there is: simulated", sample=sample
            )
        return context.resource(("eeg", "simulated"), simulated.simulate)
    files = dict(zip(request.inputs[names], request.inputs[contents], strict=True))
    how = {key: options[key] for key in ("rate", "unit", "trial") if options.get(key) is not None}

    def build() -> Recording:
        found = read_recording(files, **how)
        return cleaning.resample(found, RATE) if found.rate > RATE else found

    return context.resource(("eeg", content_digest({"files": files, "how": how})), build)


def _prepare(
    clean: Recording, options: dict[str, Any], context: Context, notes: list[str]
) -> tuple[Recording, MCAEEG | None]:
    """Choose channels, and say whether the classifier can speak."""
    from crossfuse.data.eeg import cleaning, montage

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
        if len(absent) <= MOST_ABSENT:
            chosen = cleaning.complete(clean.pick(eeg), montage.TEN_TWENTY, MOST_ABSENT)
            if clean.rate < RATE:
                notes.append(
                    Notice(
                        "{rate:g} Hz is below the 128 Hz the classifier was learnt on.",
                        rate=clean.rate,
                    )
                )
            model: Any = context.model("mca_eeg")
            return chosen, model
        notes.append(
            Notice(
                "The classifier needs the 19 electrodes of the 10-20 system and {count} of them "
                "are absent ({names}); the maps are shown without it.",
                count=len(absent),
                names=", ".join(absent[:8]) + ("..." if len(absent) > 8 else ""),
            )
        )
    else:
        notes.append(
            Notice("All channels are shown; the classifier, which has 19 of its own, is silent.")
        )
    if len(eeg) > MAX_SHOWN:
        notes.append(
            Notice(
                "Of {count} EEG channels the first {shown} are analysed; a map of all would be too "
                "large to be read.",
                count=len(eeg),
                shown=MAX_SHOWN,
            )
        )
    return clean.pick(eeg[:MAX_SHOWN]), None


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
            "the baseline from {start:g} to {stop:g} s does not lie in a recording of "
            "{seconds:.1f} s; choose another segment",
            start=start,
            stop=stop,
            seconds=seconds,
        )
    return float(start), float(stop)


def _say_scale(method: str, classified: bool, notes: list[str]) -> None:
    if method == "recording":
        notes.append(
            Notice("Scaled by the whole recording: transductive, the judged part included.")
        )
    if method != "baseline" and classified:
        notes.append(
            Notice(
                "The classifier was learnt on features scaled by a baseline; under {method!r} its "
                "score means little.",
                method=method,
            )
        )


def _normalised(
    features: Features, reference: Features, span: tuple[float, float], method: str
) -> tuple[Tensor, Tensor]:
    """DE and PSD under a scale; "subtract" and "none" are decibels, neither smoothed nor cut."""
    from crossfuse.encoders.eeg_normalise import Normalisation, Statistics, normalise

    rule = Normalisation(method=method)  # type: ignore[arg-type]
    if method in ("subtract", "none"):
        rule = replace(Normalisation.paper(), method=method)  # type: ignore[arg-type]
    if method == "recording":
        first, last, reference = 0, len(features), features
    else:
        first, last = (round(edge / features.recipe.column) for edge in span)
    de, psd = (
        normalise(own, Statistics.of(base[..., first:last]), rule)
        for own, base in ((features.de, reference.de), (features.psd, reference.psd))
    )
    return de, psd


def _windows(columns: Tensor, count: int) -> Tensor:
    """(C, F, T) -> (windows, C, F, W)."""
    blocks = columns[..., : count * WINDOW].unflatten(-1, (count, WINDOW))
    return blocks.permute(2, 0, 1, 3).contiguous()


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
    clean: Recording, whole: Recording, times: np.ndarray, span: tuple[float, float] | None
) -> dict[str, Any]:
    """The traces of every channel of the file, and what is known of each channel."""
    from crossfuse.data.eeg import cleaning

    pack = _packed(clean.signal)
    marks = clean.annotations
    return {
        "signal": pack.values,
        "signal_factors": pack.factors,
        "signal_names": clean.names,
        "signal_kinds": clean.kinds,
        "bad_in_file": whole.bad,
        "bad_left": clean.bad,  # neither mended nor used
        "proposed": cleaning.propose_bad(whole),
        "rate": clean.rate,
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
        raise CrossfuseError("there is no file {path}", path=path)
    endings = {".set": (".fdt",), ".vhdr": (".eeg", ".vmrk", ".dat")}.get(path.suffix.lower(), ())
    return [path, *(p for p in (path.with_suffix(e) for e in endings) if p.is_file())]

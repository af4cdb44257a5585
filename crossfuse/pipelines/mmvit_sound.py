"""MMViT on a sound: the same model, its picture a log-mel spectrogram.

Inputs: ``sound`` (bytes of WAV, FLAC or OGG) or ``kind`` (one of the sounds made by rule) with
``seed``. Options: ``weights``, ``start`` (seconds).

The "picture" is 64 frames wide and 64 bands high; geometries are in frames and bands, the
highest band at the top.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfuse import registry, weights
from crossfuse.attention import Want
from crossfuse.data.audio import BANDS, FRAMES, Sound, read_sound, spectrogram
from crossfuse.data.made_sounds import make_sound
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.explain.multiview import carried_maps
from crossfuse.geometry import Tokens
from crossfuse.models.mmvit import MMViT
from crossfuse.pipelines.framing import Framing
from crossfuse.pipelines.mmvit import describe, entering_cells, map_geometries, stored
from crossfuse.trace import Trace


def run(request: Request, context: Context) -> Result:
    """Name a sound and trace every map.

    Raises:
        CrossfuseError: no sound, or one that cannot be used.
    """
    name = str(request.options.get("weights", registry.entry("mmvit_sound").weights[0]))
    card = weights.card(name)
    context.stage("reading the sound", 0.0)
    sound = _sound(request)
    picture = spectrogram(sound.samples)
    context.stage("loading the model", 0.1)
    model = context.model("mmvit_sound", name)
    assert isinstance(model, MMViT)
    context.stage("attending", 0.4)
    size = (BANDS, FRAMES)
    framing = Framing(0.0, 0.0, FRAMES, BANDS, (FRAMES, BANDS))
    device = next(model.parameters()).device
    with torch.enable_grad():
        images = torch.from_numpy(picture)[None, None].to(device).requires_grad_(True)
        output = model(images, want=Want.everything(check=True))
    target = int(output.logits[0].argmax())
    maps = [stored(entry) for entry in output.maps]
    maps += carried_maps(model, output, output.logits[0, target], size)
    geometries = map_geometries(model.layouts(size), framing, (FRAMES, BANDS))
    geometries["prediction"] = Tokens((card["classes"][target],))
    geometries["cells"] = entering_cells(model, size, framing, (FRAMES, BANDS))
    context.stage("done", 1.0)
    meta = {"weights": name, "sha256": card["sha256"], "target": card["classes"][target]}
    outputs = describe(output.logits[0].detach(), card) | {
        "target": target, "spectrogram": picture, "samples": sound.samples
    }  # fmt: skip
    trace = Trace("mmvit_sound", geometries, tuple(maps), meta)
    return Result(trace, outputs, sound.notes, dict(context.timings))


def _sound(request: Request) -> Sound:
    if "sound" in request.inputs:
        return read_sound(request.inputs["sound"], float(request.options.get("start", 0.0)))
    if "kind" in request.inputs:
        generator = np.random.default_rng(int(request.inputs.get("seed", 0)))
        return Sound(make_sound(str(request.inputs["kind"]), generator))
    raise CrossfuseError("There is no sound in the request; give sound or kind.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sound", type=Path, required=True, help="WAV, FLAC or OGG")
    parser.add_argument("--start", type=float, default=0.0, help="seconds into the file")


def request_from_arguments(arguments: argparse.Namespace) -> Request:
    if not arguments.sound.is_file():
        raise CrossfuseError("There is no file {sound!r}.", sound=str(arguments.sound))
    inputs: dict[str, Any] = {"sound": arguments.sound.read_bytes()}
    return Request("mmvit_sound", inputs, {"start": arguments.start})

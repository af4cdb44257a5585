"""MMViT on a photograph: prediction, the maps of every stage and view, and what carries them back.

Inputs: ``image`` (bytes of a picture) or ``sample`` (name of a sample photograph). Options:
``weights``, ``side`` (pixels of the side the model sees), ``crop`` ("centre" or "whole"), ``flip``
(mirror the photo first), ``zoom`` (share of the crop that is kept), ``shift`` (x, y as shares of
the crop), ``target`` (class index, -1 = the best), ``carry`` (add rollout and relevance), ``point``
(x, y in pixels of the photo: only the rows of the cells that hold it), ``variations`` (instead of
all maps: the relevance of the same class under small changes of the crop).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfuse import registry, weights
from crossfuse.attention import LayerMap, Want
from crossfuse.data.images import Photo, read_image, sample_photo
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.explain.multiview import carried_maps, mass_between_views
from crossfuse.explain.typicality import score, typicality
from crossfuse.geometry import ClassTokens, Geometry, Joined, Tokens
from crossfuse.models.mmvit import MapLayout, MMViT, MMViTOutput
from crossfuse.models.pooling_attention import Layout
from crossfuse.pipelines.framing import Framing, frame, framed, mirrored
from crossfuse.trace import AttentionMap, Trace

SIDES = (128, 192, 256)
CLASS_TOKEN = "class token"
# Small changes of what is seen; none of them changes what is in the picture.
VARIATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "mirrored": {"flip": True},
    "moved left": {"shift": (-0.08, 0.0)},
    "moved up": {"shift": (0.0, -0.08)},
    "closer": {"zoom": 0.8},
    "much closer": {"zoom": 0.6},
}


@dataclass(frozen=True)
class Look:
    """One forward pass on one framing of a photo."""

    photo: Photo
    framing: Framing
    output: MMViTOutput
    probabilities: np.ndarray

    @property
    def image(self) -> tuple[int, int]:
        """(height, width) of what the model saw."""
        return self.framing.size[1], self.framing.size[0]


def run(request: Request, context: Context) -> Result:
    """Classify one photograph and trace every map.

    Raises:
        CrossfuseError: no picture, an unknown option value, or a point outside of the picture.
    """
    options = request.options
    name = str(options.get("weights", registry.entry("mmvit").weights[0]))
    card = weights.card(name)
    context.stage("reading the photo", 0.0)
    photo = _photo(request)
    context.stage("loading the model", 0.1)
    model = context.model("mmvit", name)
    assert isinstance(model, MMViT)
    if options.get("variations", False):
        return _variations(photo, model, card, request, context)
    context.stage("attending", 0.3)
    carry = bool(options.get("carry", True)) and "point" not in options
    look, notes = _look(photo, model, card, options, carry)
    target = _target(options, look, card)
    layouts = model.layouts(look.image)
    geometries = map_geometries(layouts, look.framing, photo.size)
    maps = [stored(entry) for entry in look.output.maps]
    if carry:
        context.stage("carrying back to the picture", 0.7)
        maps += carried_maps(model, look.output, look.output.logits[0, target], look.image)
        geometries["prediction"] = Tokens((card["classes"][target],))
        geometries["cells"] = _cells(model, look)
    context.stage("done", 1.0)
    outputs = describe(look.output.logits[0].detach(), card)
    outputs |= {"target": target, "seen": look.framing.size}
    if "point" not in options:
        outputs |= mass_between_views(look.output.maps, layouts)
    meta = _meta(name, card, look, target)
    trace = Trace("mmvit", geometries, tuple(maps), meta)
    return Result(trace, outputs, (*photo.notes, *notes), dict(context.timings))


def _variations(
    photo: Photo, model: MMViT, card: dict[str, Any], request: Request, context: Context
) -> Result:
    """The same class under small changes: one relevance map each, all over the same photo."""
    geometries: dict[str, Geometry] = {}
    maps: list[AttentionMap] = []
    best, shares = [], []
    target = int(request.options.get("target", -1))
    for number, (name, change) in enumerate(VARIATIONS.items()):
        context.stage("attending", number / len(VARIATIONS))
        look, _ = _look(photo, model, card, {**request.options, **change}, carry=True)
        target = _target({"target": target}, look, card)
        relevance = carried_maps(model, look.output, look.output.logits[0, target], look.image)[1]
        geometries[f"cells, {name}"] = _cells(model, look)
        maps.append(replace(relevance, direction=name, key=f"cells, {name}"))
        best.append(str(card["classes"][int(look.probabilities.argmax())]))
        shares.append(float(look.probabilities[target]))
    geometries["prediction"] = Tokens((card["classes"][target],))
    trace = Trace("mmvit", geometries, tuple(maps), {"target": card["classes"][target]})
    outputs = {
        "variations": list(VARIATIONS), "best": best, "probability": shares, "target": target
    }  # fmt: skip
    return Result(trace, outputs, photo.notes, dict(context.timings))


def _look(
    photo: Photo, model: MMViT, card: dict[str, Any], options: Any, carry: bool
) -> tuple[Look, list[str]]:
    if options.get("flip", False):
        photo = mirrored(photo)
    framing, notes = frame(photo, model, options)
    image = (framing.size[1], framing.size[0])
    want: Any = Want.everything(check=carry)
    if "point" in options:
        want = _rows_at(model.layouts(image), framing.to_model(*options["point"]))
    device = next(model.parameters()).device
    with torch.set_grad_enabled(carry):
        taps = _leaves(model.stem(framed(photo, framing).to(device)), carry)
        output = model.from_stem(taps, image, want)
    scores = output.logits[0].detach() / float(card["calibration"]["temperature"])
    return Look(photo, framing, output, scores.softmax(-1).cpu().numpy()), notes


def _target(options: Any, look: Look, card: dict[str, Any]) -> int:
    target = int(options.get("target", -1))
    if target >= len(look.probabilities):
        raise CrossfuseError(
            "There is no class {target}; these weights have {card}.",
            target=target,
            card=len(card["classes"]),
        )
    return int(look.probabilities.argmax()) if target < 0 else target


def _cells(model: MMViT, look: Look) -> Joined:
    return entering_cells(model, look.image, look.framing, look.photo.size)


def entering_cells(
    model: MMViT, image: tuple[int, int], framing: Framing, image_size: tuple[int, int]
) -> Joined:
    """The cells of every view before the first block, without the class token."""
    layouts = {v: replace(e, has_class=False) for v, e in model.view_layouts(image).items()}
    return joined(layouts, framing, image_size)


def _meta(name: str, card: dict[str, Any], look: Look, target: int) -> dict[str, Any]:
    return {
        "weights": name,
        "sha256": card["sha256"],
        "target": card["classes"][target],
        "probability": float(look.probabilities[target]),
        "pixels_seen": list(look.framing.size),
    }


def describe(logits: Tensor, card: dict[str, Any]) -> dict[str, Any]:
    """The best five classes, and whether the picture looks like none of them.

    ``logits`` (classes,). ``typicality``: the share of held-out photographs of the classes with a
    lower score (:mod:`crossfuse.explain.typicality`); ``threshold``: below which share nothing is
    named.
    """
    calibration = card["calibration"]
    probabilities = (logits / float(calibration["temperature"])).softmax(-1).cpu().numpy()
    best = np.argsort(-probabilities)[:5]
    rank = typicality(float(score(logits[None], calibration)), calibration["quantiles"])
    return {
        "classes": [str(card["classes"][i]) for i in best],
        "indices": [int(i) for i in best],
        "probabilities": [float(probabilities[i]) for i in best],
        "none_of_these": rank < calibration["threshold"],
        "typicality": rank,
        "threshold": float(calibration["threshold"]),
    }


def map_geometries(
    layouts: dict[str, MapLayout], framing: Framing, image_size: tuple[int, int]
) -> dict[str, Geometry]:
    """The query and key geometry of every map, joined from the class token and the views."""
    found: dict[str, Geometry] = {}
    for entry in layouts.values():
        for role, parts in (("queries", entry.queries), ("keys", entry.keys)):
            found[f"block {entry.layer} {entry.direction} {role}"] = joined(
                parts, framing, image_size
            )
    return found


def joined(layouts: dict[int, Layout], framing: Framing, image_size: tuple[int, int]) -> Joined:
    parts: dict[str, Geometry] = {}
    for view, layout in layouts.items():
        if layout.has_class:
            parts[CLASS_TOKEN] = ClassTokens((CLASS_TOKEN,))
        if layout.grid[0]:
            parts[f"view {view + 1}"] = framing.grid(layout, image_size)
    return Joined(tuple(parts.values()), tuple(parts))


def _photo(request: Request) -> Photo:
    if "image" in request.inputs:
        return read_image(request.inputs["image"])
    if "sample" in request.inputs:
        return sample_photo(str(request.inputs["sample"]))
    raise CrossfuseError("There is no picture in the request; give image or sample.")


def _leaves(features: Tensor | tuple[Tensor, ...], gradients: bool) -> Any:
    """Leaves of a graph, so that maps have gradients though no parameter asks for one."""
    parts = features if isinstance(features, tuple) else (features,)
    parts = tuple(part.detach().requires_grad_(gradients) for part in parts)
    return parts if isinstance(features, tuple) else parts[0]


def _rows_at(layouts: dict[str, MapLayout], point: tuple[float, float]) -> dict[str, Want]:
    """In every map, the rows of the cells that hold a point of the model's picture."""
    wants = {}
    for name, entry in layouts.items():
        rows, before = [], 0
        for layout in entry.queries.values():
            cell = layout.cell_at(*point)
            if cell is not None:
                rows.append(before + cell)
            before += len(layout)
        if rows:
            wants[name] = Want.of_rows(rows)
    if not wants:
        raise CrossfuseError("That point lies outside of the part of the picture that is seen.")
    return wants


def stored(entry: LayerMap) -> AttentionMap:
    return AttentionMap(
        entry.stage,
        entry.layer,
        entry.direction,
        entry.query,
        entry.key,
        entry.weights[0].detach().float().cpu().numpy(),
        rows=None if entry.rows is None else entry.rows.cpu().numpy(),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, required=True, help="a photograph")
    parser.add_argument("--weights", help="which weights; the default first")
    parser.add_argument("--side", type=int, help="pixels of the side that the model sees")
    parser.add_argument("--crop", choices=("centre", "whole"), default="centre")
    parser.add_argument("--flip", action="store_true", help="mirror the picture")
    parser.add_argument("--point", type=float, nargs=2, metavar=("X", "Y"))
    parser.add_argument("--target", type=int, default=-1, help="class to explain; the best one")


def request_from_arguments(arguments: argparse.Namespace) -> Request:
    if not arguments.image.is_file():
        raise CrossfuseError("There is no file {image!r}.", image=str(arguments.image))
    options: dict[str, Any] = {
        "crop": arguments.crop,
        "flip": arguments.flip,
        "target": arguments.target,
    }
    for name in ("weights", "side"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.point is not None:
        options["point"] = tuple(arguments.point)
    return Request("mmvit", {"image": arguments.image.read_bytes()}, options)

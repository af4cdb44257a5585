"""MMViT on a photograph: prediction, the maps of every stage and view, and what carries them back.

Inputs: ``image`` (bytes of a picture) or ``sample`` (name of a sample photograph). Options:
``weights``, ``side`` (pixels of the side the model sees), ``crop`` ("centre" or "whole"), ``flip``,
``zoom`` (share of the crop that is kept), ``shift`` (x, y as shares of the crop), ``target`` (class
index, -1 = the best), ``carry`` (add rollout and relevance), ``point`` (x, y in pixels of the
photo: only the rows of the cells that hold it).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
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
from crossfuse.geometry import ClassTokens, Geometry, ImageGrid, Joined, Tokens
from crossfuse.models.mmvit import MapLayout, MMViT
from crossfuse.models.pooling_attention import Layout
from crossfuse.trace import AttentionMap, Trace

SIDES = (128, 192, 256)
WIDEST = 3.0  # longest to shortest side that is shown whole
CLASS_TOKEN = "class token"


@dataclass(frozen=True)
class Framing:
    """Which box of the photo the model sees: ``x``, ``y``, ``width``, ``height`` in pixels of the
    photo (it may reach beyond it), at ``size`` (width, height) pixels of the model, mirrored if
    ``flip``."""

    x: float
    y: float
    width: float
    height: float
    size: tuple[int, int]
    flip: bool = False

    def grid(self, layout: Layout, image_size: tuple[int, int]) -> ImageGrid:
        """Where the cells of a layout lie on the photo."""
        rows, columns = layout.grid
        scale = self.width / self.size[0], self.height / self.size[1]
        x = (layout.origin + 0.5 + layout.stride * np.arange(columns)) * scale[0]
        y = (layout.origin + 0.5 + layout.stride * np.arange(rows)) * scale[1]
        x = self.x + (self.width - x if self.flip else x)
        centres = np.stack(np.meshgrid(x, y + self.y), axis=-1).reshape(-1, 2)
        cell = (layout.stride * scale[0], layout.stride * scale[1])
        return ImageGrid(rows, columns, centres.astype(np.float32), cell, image_size)

    def to_model(self, x: float, y: float) -> tuple[float, float]:
        """A point of the photo in the model's pixels."""
        across = (x - self.x) / self.width
        across = 1 - across if self.flip else across
        return across * self.size[0], (y - self.y) / self.height * self.size[1]


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
    framing, notes = frame(photo, model, request)
    images = framed(photo, framing).to(context.device)
    size = (framing.size[1], framing.size[0])
    layouts = model.layouts(size)
    context.stage("attending", 0.3)
    want: Any = Want.everything(check=True)
    if "point" in options:
        want = _rows_at(layouts, framing.to_model(*options["point"]))
    carry = bool(options.get("carry", True)) and "point" not in options
    with torch.set_grad_enabled(carry):
        taps = _leaves(model.stem(images), carry)
        output = model.from_stem(taps, size, want)
    scores = output.logits[0].detach() / float(card["calibration"]["temperature"])
    probabilities = scores.softmax(-1).cpu().numpy()
    target = int(options.get("target", -1))
    target = int(probabilities.argmax()) if target < 0 else target
    if target >= len(probabilities):
        raise CrossfuseError(f"There is no class {target}; {name!r} has {len(probabilities)}.")
    geometries = map_geometries(layouts, framing, photo.size)
    maps = [_stored(entry) for entry in output.maps]
    carried: list[AttentionMap] = []
    if carry:
        context.stage("carrying back to the picture", 0.7)
        carried = carried_maps(model, output, output.logits[0, target], size)
        geometries |= carried_geometries(model, framing, photo.size, card["classes"][target])
    context.stage("done", 1.0)
    outputs = describe(probabilities, card)
    outputs |= {"target": target, "side": framing.size}
    if not isinstance(want, dict):
        outputs |= mass_between_views(output.maps, layouts)
    meta = {"weights": name, "sha256": card["sha256"], "target": card["classes"][target]}
    meta |= {"pixels_seen": list(framing.size), "probability": float(probabilities[target])}
    trace = Trace("mmvit", geometries, (*maps, *carried), meta)
    return Result(trace, outputs, (*photo.notes, *notes), dict(context.timings))


def describe(probabilities: np.ndarray, card: dict[str, Any]) -> dict[str, Any]:
    """The best five classes, and whether the best is too weak to be any of them."""
    best = np.argsort(-probabilities)[:5]
    threshold = float(card["calibration"]["threshold"])
    return {
        "classes": [str(card["classes"][i]) for i in best],
        "indices": [int(i) for i in best],
        "probabilities": [float(probabilities[i]) for i in best],
        "none_of_these": bool(probabilities[best[0]] < threshold),
        "threshold": threshold,
    }


def frame(photo: Photo, model: MMViT, request: Request) -> tuple[Framing, list[str]]:
    """The box of the photo that the model sees, and what there is to say about it."""
    options = request.options
    width, height = photo.size
    side = int(options.get("side", model.config.image_size))
    if not 32 <= side <= 512:
        raise CrossfuseError(f"A side of {side} pixels is not offered; choose 32 to 512.")
    notes = []
    if min(width, height) < 32:
        notes.append(f"The picture has only {width} x {height} pixels; it was enlarged.")
    whole = options.get("crop", "centre") == "whole"
    aspect = width / height
    if whole and not 1 / WIDEST <= aspect <= WIDEST:
        whole = False
        notes.append(
            f"At {max(aspect, 1 / aspect):.0f}:1 the picture is too long to be seen whole; "
            "its middle square is used."
        )
    if whole:
        # Sides in whole cells of the coarsest view, with about as many pixels as the square.
        step = model.config.stride << (model.config.views - 1)
        size = tuple(
            max(step, round(side * ratio / step) * step) for ratio in (aspect**0.5, aspect**-0.5)
        )
        box = [0.0, 0.0, float(width), float(height)]
    else:
        size = (side, side)
        short = float(min(width, height))
        box = [(width - short) / 2, (height - short) / 2, short, short]
    zoom = float(options.get("zoom", 1.0))
    if not 0.1 <= zoom <= 1.0:
        raise CrossfuseError(f"A zoom of {zoom:g} is not offered; choose 0.1 to 1.")
    shift = options.get("shift", (0.0, 0.0))
    x = box[0] + box[2] * ((1 - zoom) / 2 + float(shift[0]))
    y = box[1] + box[3] * ((1 - zoom) / 2 + float(shift[1]))
    framing = Framing(
        x, y, box[2] * zoom, box[3] * zoom, (size[0], size[1]), bool(options.get("flip", False))
    )
    return framing, notes


def framed(photo: Photo, framing: Framing) -> Tensor:
    """What the model sees: (1, 3, H, W) in -1 ... 1; beyond the photo its edge is repeated."""
    from PIL import Image

    left, top = int(np.floor(framing.x)), int(np.floor(framing.y))
    right = int(np.ceil(framing.x + framing.width))
    bottom = int(np.ceil(framing.y + framing.height))
    width, height = photo.size
    columns = np.clip(np.arange(left, right), 0, width - 1)
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    picture = Image.fromarray(np.ascontiguousarray(photo.pixels[rows][:, columns]))
    inner = (framing.x - left, framing.y - top)
    box = (*inner, inner[0] + framing.width, inner[1] + framing.height)
    pixels = np.asarray(picture.resize(framing.size, Image.Resampling.BICUBIC, box=box))
    pixels = pixels[:, ::-1] if framing.flip else pixels
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    return ((images - 127) / 128).contiguous(memory_format=torch.channels_last)


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


def carried_geometries(
    model: MMViT, framing: Framing, image_size: tuple[int, int], target: str
) -> dict[str, Geometry]:
    layouts = model.view_layouts((framing.size[1], framing.size[0]))
    return {"prediction": Tokens((target,)), "tokens": joined(layouts, framing, image_size)}


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


def _stored(entry: LayerMap) -> AttentionMap:
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
        raise CrossfuseError(f"There is no file {str(arguments.image)!r}.")
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

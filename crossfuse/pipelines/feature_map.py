"""Two photographs (or two feature maps) in; where each cell of one looks in the other, out.

Request inputs
    ``a``, ``b``: a file's content (bytes), the key of a sample photograph (str), pixels
    (H, W, 3) uint8, or a feature map (C, H, W) float.  Without ``b``, ``a`` asks itself.
Request options
    ``strides`` (8, 16, 32 ...), ``longest_side``, ``heads``, ``temperature`` (0 = the usual one),
    ``projections``: "features" (cosines of the frozen features, nothing learned) or "trained"
    (the block of assets/weights), ``max_keys``, ``rows`` (query cells to keep; none = as many as
    fit in ``MAX_MAP_VALUES``), ``features`` (also return ``features_a<stride>`` (C, H, W) float32
    and so on); ``box`` (x0, y0, x1, y1 in pixels of A) marks something to find in
    B, ``transfer`` gives each photograph the other's colours.
Result
    a trace with geometries ``a<stride>``, ``b<stride>`` (and ``b<stride>_keys`` where cells are
    merged), maps "a->b" and "b->a" at each stride, float16; outputs ``photo_a``, ``photo_b``; with
    ``box``: ``mask_b`` (rows, columns; share of each cell's look that falls in the box),
    ``heat_b`` (the same with its peak at 1), ``box_b``; with ``transfer``: ``coloured_a``,
    ``coloured_b``.  These come from the first stride, mean over heads.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from crossfuse.attention import Want, attend
from crossfuse.data.images import read_feature_map, read_image, sample_photo
from crossfuse.encoders.image import STRIDES, ImageEncoder, load_image_encoder
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models import feature_map_uses
from crossfuse.models.feature_map import (
    FeatureMapAttention,
    frozen_heads,
    reduce_keys,
    smallest_reduction,
)
from crossfuse.notices import Notice
from crossfuse.trace import AttentionMap, Trace

ENCODER = "lite2"
TRAINED = {8: "feature_map_8", 16: "feature_map", 32: "feature_map_32"}
TEMPERATURE = {"features": 0.1, "trained": 1.0}
MAX_MAP_VALUES = 4_000_000  # of one map, all heads: 8 MB as float16
DISPLAY_SIDE = 1280


@dataclass(frozen=True)
class Options:
    """The choices of one request, checked."""

    strides: tuple[int, ...] = (16,)
    longest_side: int = 320
    heads: int = 1
    temperature: float = 0.0
    projections: str = "features"
    max_keys: int = 1024
    rows: tuple[int, ...] = ()
    features: bool = False
    box: tuple[float, ...] = ()
    transfer: bool = False

    def __post_init__(self) -> None:
        if self.projections not in TEMPERATURE:
            raise CrossfuseError(
                "Projections are 'features' or 'trained', not {projections!r}.",
                projections=self.projections,
            )
        if not self.strides or not set(self.strides) <= set(STRIDES):
            raise CrossfuseError(
                "Strides are out of {known} pixels, not {strides}.",
                known=STRIDES,
                strides=self.strides,
            )
        if self.projections == "trained" and not set(self.strides) <= set(TRAINED):
            raise CrossfuseError(
                "There are trained blocks for strides {strides} only.", strides=tuple(TRAINED)
            )
        if not 0 <= self.temperature < float("inf"):
            raise CrossfuseError("The temperature must be a finite number, 0 or above.")
        if not 1 <= self.max_keys <= 4096:
            raise CrossfuseError("max_keys must be 1 to 4096.")
        if len(self.box) not in (0, 4) or not np.isfinite(self.box).all():
            raise CrossfuseError("A box has four finite numbers: x0, y0, x1, y1 in pixels.")

    @classmethod
    def of(cls, request: Request) -> Options:
        """From a request; unknown names are refused."""
        try:
            return cls(**dict(request.options))
        except TypeError as error:
            raise CrossfuseError(
                "An option that this model does not have: {error}.", error=error
            ) from error


@dataclass(frozen=True)
class _Side:
    """One of the two inputs: a photograph, or a ready-made feature map."""

    name: str
    pixels: np.ndarray | None = None
    features: np.ndarray | None = None


def run(request: Request, context: Context) -> Result:
    """Answer one request; see the top of this module.

    Raises:
        CrossfuseError: an input that cannot be read, or options that do not fit it.
    """
    options = Options.of(request)
    notes: list[str] = []
    context.stage("reading photographs", 0.0)
    if "a" not in request.inputs:
        raise CrossfuseError("Give a photograph or a feature map as 'a'.")
    sides = [_read(name, request.inputs[name], notes) for name in "ab" if name in request.inputs]
    if len({side.pixels is None for side in sides}) > 1:
        raise CrossfuseError("Give two photographs or two feature maps, not one of each.")
    context.stage("computing features", 0.15)
    levels = _features(sides, options, context)
    geometries: dict[str, ImageGrid] = {}
    maps: list[AttentionMap] = []
    gammas: dict[str, float] = {}
    context.stage("attending", 0.7)
    for stride, level in levels.items():
        names = list(level)
        pairs = [(names[0], names[-1])]
        if len(names) == 2:
            pairs.append((names[1], names[0]))
        for asks, asked in pairs:
            _attend(stride, asks, asked, level, options, context, geometries, maps, notes, gammas)
    meta: dict[str, Any] = {
        "encoder": ENCODER if sides[0].pixels is not None else "given",
        "projections": options.projections,
        "temperature": options.temperature or TEMPERATURE[options.projections],
        "longest_side": options.longest_side,
        "heads": len(maps[0].heads),
        "gamma": gammas,
    }
    outputs: dict[str, Any] = {}
    for side in sides:
        if side.pixels is not None:
            outputs[f"photo_{side.name}"] = _for_display(side.pixels)
    for stride, level in levels.items() if options.features else ():
        for name, (values, _) in level.items():
            outputs[f"features_{name}{stride or ''}"] = values[0].float().cpu().numpy()
    if "photo_b" in outputs and (options.box or options.transfer):
        context.stage("carrying over", 0.9)
        outputs |= _uses(maps[:2], geometries, outputs, options)
    trace = Trace("feature_map", geometries, tuple(maps), meta)
    return Result(trace, outputs, tuple(dict.fromkeys(notes)), dict(context.timings))


def _read(name: str, given: Any, notes: list[str]) -> _Side:
    if isinstance(given, np.ndarray):
        if given.ndim == 3 and given.dtype == np.uint8 and given.shape[2] == 3:
            return _Side(name, pixels=given)
        if given.ndim == 3 and given.dtype.kind == "f":
            if not np.isfinite(given).all():
                raise CrossfuseError(
                    "The feature map '{name}' has NaN or infinite values.", name=name
                )
            return _Side(name, features=given.astype(np.float32))
        raise CrossfuseError(
            "Input '{name}' must be pixels (H, W, 3) uint8 or a feature map (C, H, W) of "
            "floats; got {dtype} {shape}.",
            name=name,
            dtype=given.dtype,
            shape=given.shape,
        )
    if isinstance(given, str):
        return _Side(name, pixels=sample_photo(given).pixels)
    if given[:6] == b"\x93NUMPY":
        return _Side(name, features=read_feature_map(given))
    photo = read_image(given)
    notes += [Notice("Photograph {name}: {note}", name=name.upper(), note=n) for n in photo.notes]
    return _Side(name, pixels=photo.pixels)


_Level = dict[str, tuple[torch.Tensor, ImageGrid]]


def _features(sides: list[_Side], options: Options, context: Context) -> dict[int, _Level]:
    """{stride: {side: (features (1, C, H, W), grid)}}; ready-made maps count as stride 0."""
    if sides[0].features is not None:
        level = {}
        for side in sides:
            assert side.features is not None
            _, rows, columns = side.features.shape
            grid = ImageGrid.regular(rows, columns, (columns, rows))
            level[side.name] = (torch.from_numpy(side.features)[None].to(context.device), grid)
        return {0: level}
    encoder = image_encoder(context)
    photos = [side.pixels for side in sides if side.pixels is not None]
    found = encoder.encode(
        photos,
        options.strides,
        options.longest_side,
        progress=lambda share: context.stage("computing features", 0.15 + 0.55 * share),
    )
    return {
        stride: {
            side.name: (maps[stride].values[None], maps[stride].grid)
            for side, maps in zip(sides, found, strict=True)
        }
        for stride in options.strides
    }


def image_encoder(context: Context) -> ImageEncoder:
    """The shared frozen encoder of this context."""
    return context.resource(("image encoder", ENCODER), lambda: load_image_encoder(ENCODER))


def warm_up(context: Context) -> None:
    """Load what the first request needs."""
    image_encoder(context)


@torch.inference_mode()
def _attend(
    stride: int,
    asks: str,
    asked: str,
    level: _Level,
    options: Options,
    context: Context,
    geometries: dict[str, ImageGrid],
    maps: list[AttentionMap],
    notes: list[str],
    gammas: dict[str, float],
) -> None:
    """Add the map of one direction at one stride, and the geometries it lies between."""
    (x, x_grid), (y, y_grid) = level[asks], level[asked]
    label = stride or ""
    block: FeatureMapAttention | None = None
    heads, max_keys = options.heads, options.max_keys
    if options.projections == "trained" and stride:
        block = cast(FeatureMapAttention, context.model("feature_map", TRAINED[stride]))
        heads, max_keys = block.config.heads, min(max_keys, block.config.max_keys)
        gammas[f"stride {stride}"] = float(block.gamma)
    r = smallest_reduction(y_grid.rows, y_grid.columns, max_keys)
    rows = _rows_to_keep(x_grid, -(-y_grid.rows // r) * -(-y_grid.columns // r), heads, options)
    want = Want.everything() if rows is None else Want.of_rows(rows)
    temperature = options.temperature or TEMPERATURE["trained" if block else "features"]
    y, _ = reduce_keys(y, None, r)
    if block is not None:
        weights = block(x, y, temperature=temperature, want=want).maps[0].weights
    else:
        query, key = frozen_heads(x, y, heads)
        weights = attend(query, key, key, scale=1 / temperature, want=want).weights
    assert weights is not None
    query_name, key_name = f"{asks}{label}", f"{asked}{label}" + ("_keys" if r > 1 else "")
    geometries[query_name] = x_grid
    geometries[key_name] = merged_cells(y_grid, r)
    if r > 1:
        notes.append(
            Notice(
                "At {stride} px every {r} x {r} cells that are looked at were merged into one, "
                "so that at most {limit} remain.",
                stride=stride,
                r=r,
                limit=max_keys,
            )
        )
    if rows is not None and not options.rows:
        notes.append(
            Notice(
                "At {stride} px the map is large: {kept} evenly spaced cells of {cells} are kept.",
                stride=stride,
                kept=len(rows),
                cells=len(x_grid),
            )
        )
    maps.append(
        AttentionMap(
            f"stride {stride}" if stride else "feature map",
            options.strides.index(stride) if stride else 0,
            f"{asks}->{asked}",
            query_name,
            key_name,
            weights[0].cpu().numpy().astype(np.float16),
            rows=None if rows is None else np.asarray(rows),
        )
    )


def _uses(
    maps: list[AttentionMap],
    geometries: dict[str, ImageGrid],
    photos: dict[str, np.ndarray],
    options: Options,
) -> dict[str, Any]:
    """What the maps a->b and b->a carry over: the marked box, the colours."""
    if any(entry.rows is not None for entry in maps):
        raise CrossfuseError(
            "Marking and colouring need the whole map; choose a larger stride and no rows."
        )
    a_asks, b_asks = (entry.weights.mean(0, dtype=np.float32) for entry in maps)
    grid_a, grid_b = geometries[maps[0].query], geometries[maps[1].query]
    keys_b, keys_a = geometries[maps[0].key], geometries[maps[1].key]
    found: dict[str, Any] = {}
    if options.box:
        x0, y0, x1, y1 = options.box
        exemplar = feature_map_uses.cells_in_box(keys_a, (x0, y0, x1, y1))
        detection = feature_map_uses.locate(b_asks, grid_b, exemplar)
        found["mask_b"] = detection.heat * detection.peak
        found["heat_b"], found["box_b"] = detection.heat, np.array(detection.box)
    if options.transfer:
        photo_a, photo_b = photos["photo_a"], photos["photo_b"]
        for name, weights, asking, asked, own, other in (
            ("coloured_a", a_asks, grid_a, keys_b, photo_a, photo_b),
            ("coloured_b", b_asks, grid_b, keys_a, photo_b, photo_a),
        ):
            found[name] = feature_map_uses.transfer_colour(weights, asking, asked, own, other)
    return found


def _rows_to_keep(grid: ImageGrid, keys: int, heads: int, options: Options) -> list[int] | None:
    """None for all; the rows asked for; or every n-th cell both ways, as many as fit."""
    if options.rows:
        if not 0 <= min(options.rows) <= max(options.rows) < len(grid):
            raise CrossfuseError(
                "Cells are counted from 0 to {last} on this grid.", last=len(grid) - 1
            )
        return list(options.rows)
    step = 1
    while -(-grid.rows // step) * -(-grid.columns // step) * keys * heads > MAX_MAP_VALUES:
        step += 1
    if step == 1:
        return None
    half = step // 2
    return [
        row * grid.columns + column
        for row in range(min(half, grid.rows - 1), grid.rows, step)
        for column in range(min(half, grid.columns - 1), grid.columns, step)
    ]


def merged_cells(grid: ImageGrid, r: int) -> ImageGrid:
    """The grid of r x r merged cells; each lies at the mean of its cells' centres."""
    if r == 1:
        return grid
    x, y = np.unique(grid.centres[:, 0]), np.unique(grid.centres[:, 1])
    x, y = (np.array([v[i : i + r].mean() for i in range(0, len(v), r)]) for v in (x, y))
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    cell = (grid.cell[0] * r, grid.cell[1] * r)
    return ImageGrid(len(y), len(x), centres, cell, grid.image_size, grid.receptive_field)


def _for_display(pixels: np.ndarray) -> np.ndarray:
    """At most ``DISPLAY_SIDE`` pixels a side; geometry stays in pixels of the whole photograph."""
    image = Image.fromarray(pixels)
    image.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``crossfuse explain feature_map``."""
    defaults = Options()
    parser.add_argument(
        "--image", required=True, help="the photograph or NPY feature map (C, H, W) that asks; "
        "or sample:NAME (sample:coffee)"
    )  # fmt: skip
    parser.add_argument("--other", help="the one that is asked; without it, --image asks itself")
    parser.add_argument("--strides", type=int, nargs="+", default=list(defaults.strides))
    parser.add_argument("--longest-side", type=int, default=defaults.longest_side)
    parser.add_argument("--heads", type=int, default=defaults.heads)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = the usual one")
    parser.add_argument("--projections", choices=tuple(TEMPERATURE), default=defaults.projections)
    parser.add_argument("--max-keys", type=int, default=defaults.max_keys)
    parser.add_argument(
        "--box", type=float, nargs=4, default=[], help="x0 y0 x1 y1 on --image, to find in --other"
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="query cells to keep")


def request_from_arguments(args: argparse.Namespace) -> Request:
    """The request that the command line describes.

    Raises:
        CrossfuseError: a file that cannot be opened.
    """
    inputs = {"a": _input(args.image)}
    if args.other is not None:
        inputs["b"] = _input(args.other)
    options = {
        "strides": tuple(args.strides),
        "longest_side": args.longest_side,
        "heads": args.heads,
        "temperature": args.temperature,
        "projections": args.projections,
        "max_keys": args.max_keys,
        "rows": tuple(args.rows),
        "box": tuple(args.box),
    }
    return Request("feature_map", inputs, options)


def _input(text: str) -> bytes | str:
    if text.startswith("sample:"):
        return text.removeprefix("sample:")
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise CrossfuseError(
            "{text} cannot be opened: {reason}.", text=text, reason=error.strerror
        ) from error

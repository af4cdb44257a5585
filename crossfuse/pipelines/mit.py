"""A point cloud and photographs in; labelled supervoxels and the trace of the transformer out.

Request inputs
    ``cloud``: a file's content (bytes) with ``cloud_name`` (a ZIP may bring photographs along), or
    the name of a sample room (str);
    or ``positions`` (N, 3), ``colours`` (N, 3) in 0..1, ``labels`` (N,) of a cloud that is already
    in metres with z up. ``photos``: files' contents (tuple of bytes), ``photo_names``. Without
    photographs, pictures are drawn from the cloud and said to be.
Request options
    ``unit``, ``up``: "auto" or a choice of :func:`crossfuse.data.point_clouds.settle`; ``labels``:
    what the file's labels mean (:func:`crossfuse.data.point_clouds.with_meaning`); ``tags``: names
    of the classes that are there (none = the model's own guess); ``most_shown``: points sent on
    for display.
Result
    outputs ``positions`` (N, 3) float32 m, ``colours`` (N, 3) uint8, ``segment`` (N,) uint16 and
    ``labels`` (N,) int16 (where the input has them), in one random order so that every prefix is
    a fair thinning; ``logits`` (M, K), ``tags`` (K,), ``counts`` (M,), ``classes``, ``photos``
    (list of pictures), ``photo_names``, ``drawn`` (whether the pictures were drawn from the cloud),
    ``read_as`` (``unit`` and ``up`` of the file, ``labels``: whether it has some that are not ours
    by name), ``size_m`` (3,) extent in metres.
    Geometries of the trace: ``segments``, ``photos``, ``classes``, ``tokens_3d``, ``tokens_2d``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from crossfuse.attention import Want
from crossfuse.data.images import read_image
from crossfuse.data.point_clouds import (
    PHOTO_ENDINGS,
    PhotoFile,
    PointCloud,
    read_path,
    read_upload,
    settle,
    thinned,
    with_meaning,
)
from crossfuse.data.point_scene import PointScene, prepare
from crossfuse.data.point_views import painted, view_indices
from crossfuse.data.sample_rooms import sample_room
from crossfuse.encoders.image import ImageEncoder, load_image_encoder
from crossfuse.encoders.views import ENCODER, drawn_looks, image_maps, view_features
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.models.mit import MIT, MITOutput
from crossfuse.models.mit_answers import segment_logits, tag_probabilities
from crossfuse.notices import Notice
from crossfuse.pipelines.mit_trace import Photos, trace_of

MOST_PHOTOS = 32
MOST_SHOWN = 1_000_000
MOST_SIDE = 640  # pixels of a photograph that are kept; the encoder looks at 224
THUMBNAIL = 320
GREY = 0.6


@dataclass(frozen=True)
class Options:
    """The choices of one request."""

    unit: str = "auto"
    up: str = "auto"
    labels: str = "auto"
    tags: tuple[str, ...] = ()
    most_shown: int = MOST_SHOWN

    @classmethod
    def of(cls, request: Request) -> Options:
        try:
            return cls(**dict(request.options))
        except TypeError as error:
            raise CrossfuseError(
                "An option that this model does not have: {error}.", error=error
            ) from error


def run(request: Request, context: Context) -> Result:
    """Answer one request; see the top of this module.

    Raises:
        CrossfuseError: an input that cannot be read or is too small, or an unknown option.
    """
    options = Options.of(request)
    context.stage("reading points", 0.0)
    cloud, given = _cloud(request, options)
    by_name = cloud.labels is not None and bool(with_meaning(cloud).label_names)
    cloud = with_meaning(cloud, options.labels)
    notes = list(cloud.notes)
    colours = cloud.colours
    if colours is None:
        colours = np.full((len(cloud), 3), GREY, np.float32)
        notes.append(Notice("The cloud has no colours: it is shown grey, and the model sees grey."))
    context.stage("cutting supervoxels", 0.2)
    scene = prepare(cloud.positions, colours)
    if scene.segments < 2:
        raise CrossfuseError("The cloud is one single piece; there is nothing to compare.")
    if scene.voxels.size > 0.0501:
        notes.append(
            Notice(
                "The place is large: voxels of {size:.0f} cm were used.",
                size=scene.voxels.size * 100,
            )
        )
    context.stage("drawing views", 0.35)
    shown = view_indices(scene.voxels.centre, scene.voxels.size)
    drawn = [painted(index, scene.voxels.colour) for index in shown]
    photos = _photos(given, drawn, notes, context)
    context.stage("looking at photographs", 0.5)
    encoder = image_encoder(context)
    own = image_maps(encoder, drawn)
    maps = own if photos.drawn else image_maps(encoder, photos.pixels)
    views, cells = view_features(maps, photos.pixels)
    looks = drawn_looks(own, shown, scene.voxels.colour, scene.segment)
    context.stage("attending", 0.8)
    model = cast(MIT, context.model("mit"))
    out = _forward(model, scene, (views, cells, looks), context.device)
    names = model.config.classes
    unknown = set(options.tags) - set(names)
    if unknown:
        raise CrossfuseError(
            "No class is called {unknown!r}; there are: {names}.",
            unknown=sorted(unknown)[0],
            names=names,
        )
    trace = trace_of(out, scene, photos, names)
    context.stage("packing", 0.95)
    outputs = _shown(cloud, colours, scene, options.most_shown)
    low, high = scene.voxels.centre.min(axis=0), scene.voxels.centre.max(axis=0)
    if len(cloud) > options.most_shown:
        notes.append(
            Notice(
                "{cloud:,} points were read; {most_shown:,} of them are drawn.",
                cloud=len(cloud),
                most_shown=options.most_shown,
            )
        )
    outputs |= {
        "logits": segment_logits(out)[0].cpu().numpy(),
        "cam": out.cam_3d[0].cpu().numpy(),
        "tags": tag_probabilities(out)[0].cpu().numpy(),
        "given_tags": list(options.tags),
        "counts": scene.counts.astype(np.int64),
        "classes": list(names),
        "label_names": list(cloud.label_names),
        "photos": [_thumbnail(p) for p in photos.pixels],
        "photo_names": photos.names,
        "drawn": photos.drawn,
        "voxels": len(scene.voxels),
        "size_m": [float(v) for v in high - low],
        "read_as": {
            "unit": cloud.read_as[0],
            "up": cloud.read_as[1],
            "labels": cloud.labels is not None and not by_name,
        },
    }
    return Result(trace, outputs, tuple(dict.fromkeys(notes)), dict(context.timings))


def _cloud(request: Request, options: Options) -> tuple[PointCloud, list[PhotoFile]]:
    given = request.inputs
    names = [str(name) for name in given.get("photo_names", ())]
    photos = [
        PhotoFile(names[i] if i < len(names) else f"photo {i + 1}", partial(bytes, data))
        for i, data in enumerate(given.get("photos", ()))
    ]
    if "positions" in given:
        colours = given.get("colours")
        cloud = PointCloud(
            np.asarray(given["positions"], np.float32),
            None if colours is None else np.asarray(colours, np.float32),
            given.get("labels"),
            tuple(given.get("label_names", ())),
            unit="metres",
            up="z",
        )
        return cloud, photos
    if "cloud" not in request.inputs:
        raise CrossfuseError("Give a point cloud as 'cloud', or one of the sample rooms.")
    if isinstance(given["cloud"], str):
        cloud, pictures = sample_room(given["cloud"])
        sample_photos = [
            PhotoFile(f"photo {i + 1}", partial(bytes, data)) for i, data in enumerate(pictures)
        ]
        return settle(replace(cloud, notes=())), photos or sample_photos
    cloud, found = read_upload(given["cloud"], str(given.get("cloud_name", "cloud.ply")))
    return settle(cloud, unit=options.unit, up=options.up), photos or found


def _photos(
    given: list[PhotoFile], drawn: list[np.ndarray], notes: list[str], context: Context
) -> Photos:
    if not given:
        notes.append(
            Notice(
                "No photographs were given: the pictures were drawn from the cloud itself, "
                "which adds a look at it but no new information."
            )
        )
        return Photos(drawn, [f"drawn {i + 1}" for i in range(len(drawn))], True)
    if len(given) > MOST_PHOTOS:
        chosen = np.linspace(0, len(given) - 1, MOST_PHOTOS).round().astype(int)
        notes.append(
            Notice(
                "Of {given} photographs, {most_photos} evenly spaced ones are looked at.",
                given=len(given),
                most_photos=MOST_PHOTOS,
            )
        )
        given = [given[i] for i in chosen]
    context.stage("reading photographs", 0.4)
    pixels = [_reduced(read_image(photo.read()).pixels) for photo in given]
    return Photos(pixels, [photo.name for photo in given], False)


def _reduced(pixels: np.ndarray) -> np.ndarray:
    """No larger than is looked at, so that many photographs of a telephone fit into memory."""
    image = Image.fromarray(pixels)
    image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image)


def image_encoder(context: Context) -> ImageEncoder:
    """The shared frozen encoder of this context."""
    return context.resource(("image encoder", ENCODER), lambda: load_image_encoder(ENCODER))


@torch.inference_mode()
def _forward(
    model: MIT, scene: PointScene, seen: tuple[np.ndarray, np.ndarray, np.ndarray], device: str
) -> MITOutput:
    views, cells, looks = seen

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))[None].to(device)

    count = len(scene.voxels)
    grid = np.floor(scene.places / scene.voxels.size).astype(np.int64)
    inputs = {
        "cells": tensor(grid - grid.min(axis=0)),
        "voxel_features": tensor(scene.features),
        "positions": tensor(scene.places),
        "voxel_mask": torch.ones(1, count, dtype=torch.bool, device=device),
        "segment": tensor(scene.segment),
        "view_features": tensor(views),
        "view_mask": torch.ones(1, len(views), dtype=torch.bool, device=device),
    }
    if model.config.patches:
        inputs["patch_features"] = tensor(cells)
    if model.config.looks and model.config.drawn:
        inputs["segment_looks"] = tensor(looks)
    return cast(MITOutput, model(**inputs, want=Want.everything()))


def _shown(cloud: PointCloud, colours: np.ndarray, scene: PointScene, most: int) -> dict[str, Any]:
    order = np.random.default_rng(0).permutation(len(cloud))[:most]
    outputs: dict[str, Any] = {
        "positions": cloud.positions[order],
        "colours": (colours[order] * 255 + 0.5).astype(np.uint8),
        "segment": scene.segment_of_point[order].astype(np.uint16),
    }
    if cloud.labels is not None:
        outputs["labels"] = cloud.labels[order].astype(np.int16)
    return outputs


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(image)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``crossfuse explain mit``."""
    parser.add_argument(
        "--points", required=True,
        help="a cloud (ply, pcd, xyz, las, npz, obj, glb ...), a ScanNet, S3DIS or CrossFuse Rooms "
        "folder, or sample:NAME",
    )  # fmt: skip
    parser.add_argument("--photos", type=Path, help="folder of photographs of the same place")
    parser.add_argument("--unit", default="auto", help="metres, centimetres or millimetres")
    parser.add_argument("--up", default="auto", help="the axis that points up: z, -z, y, -y, x, -x")
    parser.add_argument(
        "--labels", default="auto", help="what the labels mean: crossfuse, nyu40, scannet20, s3dis"
    )
    parser.add_argument("--tags", nargs="*", default=[], help="classes known to be there")


def request_from_arguments(args: argparse.Namespace) -> Request:
    """The request that the command line describes.

    Raises:
        CrossfuseError: a file or folder that cannot be read.
    """
    inputs: dict[str, Any] = {}
    photos: list[PhotoFile] = []
    if args.points.startswith("sample:"):
        inputs["cloud"] = args.points.removeprefix("sample:")
    elif Path(args.points).is_dir():
        cloud, photos = read_path(Path(args.points))
        cloud = settle(thinned(cloud, 2_000_000), unit=args.unit, up=args.up)
        inputs["positions"] = cloud.positions
        inputs["label_names"] = cloud.label_names
        for name in ("colours", "labels"):
            if getattr(cloud, name) is not None:
                inputs[name] = getattr(cloud, name)
    else:
        try:
            inputs["cloud"] = Path(args.points).read_bytes()
        except OSError as error:
            raise CrossfuseError(
                "{points} cannot be opened: {reason}.", points=args.points, reason=error.strerror
            ) from error
        inputs["cloud_name"] = Path(args.points).name
    if args.photos is not None:
        photos = _photos_in(args.photos)
    if photos:
        inputs["photos"] = tuple(photo.read() for photo in photos)
        inputs["photo_names"] = tuple(photo.name for photo in photos)
    options = {"unit": args.unit, "up": args.up, "labels": args.labels, "tags": tuple(args.tags)}
    return Request("mit", inputs, options)


def _photos_in(folder: Path) -> list[PhotoFile]:
    if not folder.is_dir():
        raise CrossfuseError("{folder} is not a folder of photographs.", folder=folder)
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTO_ENDINGS]
    if not found:
        raise CrossfuseError(
            "{folder} holds no photographs (jpg, png, webp, bmp, tif).", folder=folder
        )
    return [PhotoFile(path.name, path.read_bytes) for path in found]

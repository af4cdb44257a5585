"""MMCA on a photograph and sentences: scores, and the trace of one pair; or a gallery search.

Inputs of a request (options ``task="match"``, the default):

    photo       bytes of an image file (or uint8 array (H, W, 3))
    text        the sentence
    others      tuple of sentences to compare it with (optional)
    features    bytes of an .npz with region features made elsewhere (instead of own regions); a
                photo beside it is only checked for its shape

The trace has three stages: "self" (regions, from the photograph alone), "cross" (regions and words
in one map) and "painted": how much of a row's weight lies on regions that cover a point of the
photograph (0 to 1; boxes overlap, so that a row's points do not sum to 1).

For ``task="gallery"``: ``photos``, a tuple of image files, and ``text``. Options: ``regions``,
one of "proposals", "cells", "multiscale"; ``weights``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from crossfuse import weights
from crossfuse.attention import NOTHING, Want
from crossfuse.data.images import read_image
from crossfuse.encoders.regions import (
    KINDS,
    RegionEncoder,
    RegionSet,
    cover_matrix,
    load_region_encoder,
    read_region_features,
)
from crossfuse.encoders.text import Sentence, TextEncoder, pad_states
from crossfuse.encoders.tuned import load_words
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid, Joined
from crossfuse.models.mmca import MMCA, ImageStates, MMCAConfig, MMCAOutput
from crossfuse.notices import Notice
from crossfuse.trace import AttentionMap, Trace

MAX_OTHERS, MAX_PHOTOS = 40, 200
PAINTED = 24  # cells a side of the picture that a map over boxes is painted on


@dataclass(frozen=True)
class ImageSide:
    """What one photograph gives, whatever the sentence: kept between requests."""

    key: tuple[Hashable, ...]
    regions: RegionSet
    states: ImageStates
    notes: tuple[str, ...]


Scores = tuple[float, float, float]  # S of one pair, and its terms i0 . c0 and i1 . c1


def run(request: Request, context: Context) -> Result:
    """Answer one request.

    Raises:
        CrossfuseError: no photo, an empty sentence, an unreadable file, an unknown option.
    """
    task = str(request.options.get("task", "match"))
    if task == "match":
        return _match(request, context)
    if task == "gallery":
        return _gallery(request, context)
    raise CrossfuseError("MMCA can do the tasks match and gallery, not {task!r}.", task=task)


def _match(request: Request, context: Context) -> Result:
    model, model_notes = _model(request, context)
    context.stage("looking at the photograph", 0.1)
    side = _image_side(request, context, model, request.inputs.get("photo"))
    context.stage("reading the sentences", 0.6)
    text = str(request.inputs.get("text", ""))
    others = tuple(str(other) for other in request.inputs.get("others", ()))
    if len(others) > MAX_OTHERS:
        raise CrossfuseError(
            "At most {most} sentences are compared; got {count}.",
            most=MAX_OTHERS,
            count=len(others),
        )
    sentence = _sentence(context, model, text)
    context.stage("matching", 0.8)
    first = _cross(model, side.states, [sentence], Want.everything())
    scores = np.array([*_scores_of(first), *_scores(context, model, side, others)], np.float32).T
    merged = _merged_map(first, sentence, len(side.regions.boxes))
    outputs = {
        "sentences": [text, *others],
        "similarity": scores[0],
        "separable": scores[1],
        "crossed": scores[2],
        "alpha": float(model.config.alpha),
        "region_shares": first.region_shares[0].cpu().numpy(),
        "looking_across": _looking_across(merged, len(side.regions.boxes)),
        "regions": side.regions.kind,
        "region_features": side.regions.features.numpy(),
    }
    notes = (*model_notes, *side.notes, *sentence.notes)
    return Result(_trace(side, sentence, first, merged, outputs), outputs, notes)


def _scores(context: Context, model: MMCA, side: ImageSide, texts: Sequence[str]) -> list[Scores]:
    """Scores of sentences whose maps nobody sees, kept for when another sentence changes."""
    kept = context.resource((*side.key, "scores"), dict[str, Scores])
    absent = [text for text in dict.fromkeys(texts) if text not in kept]
    if absent:
        sentences = [_sentence(context, model, text) for text in absent]
        kept.update(zip(absent, _scores_of(_cross(model, side.states, sentences)), strict=True))
    return [kept[text] for text in texts]


def _scores_of(out: MMCAOutput) -> list[Scores]:
    columns = (out.similarity, out.separable, out.crossed)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _gallery(request: Request, context: Context) -> Result:
    model, _ = _model(request, context)
    photos = tuple(request.inputs.get("photos", ()))
    if not 1 <= len(photos) <= MAX_PHOTOS:
        raise CrossfuseError(
            "A gallery takes 1 to {most} photographs; got {count}.",
            most=MAX_PHOTOS,
            count=len(photos),
        )
    context.stage("reading the sentence", 0.02)
    sentence = _sentence(context, model, str(request.inputs.get("text", "")))
    table = np.full((3, len(photos)), np.nan, np.float32)
    notes: list[str] = list(sentence.notes)
    for index, photo in enumerate(photos):
        context.stage("looking at the photographs", 0.05 + 0.95 * index / len(photos))
        try:
            side = _image_side(request, context, model, photo)
        except CrossfuseError as error:
            notes.append(
                Notice("Photograph {number} was left out: {why}", number=index + 1, why=error)
            )
            continue
        out = _cross(model, side.states, [sentence])
        table[:, index] = [float(v) for v in (out.similarity, out.separable, out.crossed)]
    if np.isnan(table).all():
        raise CrossfuseError("None of the photographs can be read. {why}", why=notes[-1])
    order = np.argsort(-np.nan_to_num(table[0], nan=-np.inf), kind="stable")
    readable = int(np.isfinite(table[0]).sum())
    outputs = {
        "similarity": table[0],
        "separable": table[1],
        "crossed": table[2],
        "order": order[:readable],
        "sentence": sentence.text,
    }
    return Result(None, outputs, tuple(notes))


def _model(request: Request, context: Context) -> tuple[MMCA, tuple[str, ...]]:
    """The model asked for; for features made elsewhere the installed one that takes their size.

    No weights could be trained here on the paper's own input, whose features are not to be had
    for photographs that may be used; an untrained network of the paper's size stands in, and says
    so.
    """
    name = request.options.get("weights")
    model = cast(MMCA, context.model("mmca", None if name is None else str(name)))
    features = request.inputs.get("features")
    if features is None:
        return model, ()
    size = read_region_features(cast(bytes, features)).features.shape[1]
    if size == model.config.region_size:
        return model, ()
    for other in weights.names():
        card = weights.card(other)
        if card["model"] == "mmca" and card["config"]["region_size"] == size:
            return cast(MMCA, context.model("mmca", other)), ()

    def untrained() -> MMCA:
        config = replace(MMCAConfig.paper(), region_size=size, words="minilm")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return MMCA(config)

    note = Notice(
        "There are no weights for regions of {size} numbers, so that this network is untrained: "
        "what you see is how the maps come about, not what was learnt.",
        size=size,
    )
    return context.resource(("mmca", "untrained", size), untrained), (note,)


def _text_encoder(context: Context, config: MMCAConfig) -> TextEncoder:
    name, tuned = config.words, config.tuned
    return context.resource(("mmca", "text encoder", name, tuned), lambda: load_words(name, tuned))


def _region_encoder(context: Context, config: MMCAConfig) -> RegionEncoder:
    tuned, scene = config.tuned, config.scene_size > 0
    return context.resource(
        ("mmca", "region encoder", tuned, scene),
        lambda: load_region_encoder(tuned=tuned, scene=scene),
    )


def _image_side(request: Request, context: Context, model: MMCA, photo: object) -> ImageSide:
    """The regions and their states, kept under the content of the photograph."""
    features = request.inputs.get("features")
    kind = "bottom_up" if features is not None else str(request.options.get("regions", KINDS[0]))
    if features is None and photo is None:
        raise CrossfuseError("There is no photograph: choose a sample or upload one.")
    digest = hashlib.blake2b(digest_size=16)
    for part in (photo, features):
        data = np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part
        digest.update(cast(bytes, data or b""))

    def build() -> ImageSide:
        notes: tuple[str, ...] = ()
        if features is not None:
            regions = read_region_features(cast(bytes, features))
            if photo is not None:
                _require_shape(_pixels(photo)[0], regions)
        else:
            pixels, notes = _pixels(photo)
            encoder = _region_encoder(context, model.config)
            regions = encoder.encode([pixels], kind)[0]
        with torch.inference_mode():
            states = model.encode_images(
                regions.features[None].to(context.device),
                regions.boxes[None].to(context.device),
                want=Want.everything(),
            )
        return ImageSide(key, regions, states, (*notes, *regions.notes))

    name = (request.options.get("weights"), model.config.region_size)
    key = ("mmca", "image side", digest.hexdigest(), kind, name)
    return context.resource(key, build)


def _require_shape(pixels: np.ndarray, regions: RegionSet) -> None:
    """Boxes are drawn on the photograph: it must be the one they were found in, at any size."""
    (width, height), (rows, columns) = regions.image_size, pixels.shape[:2]
    if abs(columns * height / (rows * width) - 1) > 0.02:
        raise CrossfuseError(
            "The region file is about a photograph of {width} x {height} pixels; the one chosen "
            "has {columns} x {rows}, another shape. Upload the photograph of these regions too.",
            width=width,
            height=height,
            columns=columns,
            rows=rows,
        )


def _pixels(photo: object) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(photo, np.ndarray):
        return photo, ()
    read = read_image(cast(bytes, photo))
    return read.pixels, read.notes


def _sentence(context: Context, model: MMCA, text: str) -> Sentence:
    config = model.config
    encoder = _text_encoder(context, config)
    return context.resource(
        ("mmca", "sentence", config.words, config.tuned, text), lambda: encoder.encode([text])[0]
    )


@torch.inference_mode()
def _cross(
    model: MMCA, image: ImageStates, sentences: Sequence[Sentence], want: Want = NOTHING
) -> MMCAOutput:
    """One photograph with several sentences."""
    words, mask = pad_states(sentences)
    device = image.tokens.device
    states = model.encode_sentences(words.to(device), mask.to(device))
    same = torch.zeros(len(sentences), dtype=torch.long, device=device)
    return model.cross(image.take(same), states, want)


def _merged_map(out: MMCAOutput, sentence: Sentence, regions: int) -> list[np.ndarray]:
    """Cross maps with word pieces merged to words: received attention adds up, given averages."""
    pieces = sentence.merge
    size = regions + len(sentence.words)
    collect = np.zeros((size, regions + pieces.shape[1]), np.float32)
    collect[:regions, :regions] = np.eye(regions)
    collect[regions:, regions:] = pieces
    average = collect / collect.sum(1, keepdims=True)
    return [
        average @ layer.weights[0].cpu().numpy() @ collect.T
        for layer in out.maps
        if layer.stage == "cross"
    ]


def _looking_across(merged: list[np.ndarray], regions: int) -> np.ndarray:
    """Share of each token's attention that goes to the other modality, first layer, head mean."""
    mean = merged[0].mean(0)
    to_words, to_regions = mean[:regions, regions:].sum(1), mean[regions:, :regions].sum(1)
    return np.concatenate([to_words, to_regions])


def _trace(
    side: ImageSide,
    sentence: Sentence,
    out: MMCAOutput,
    merged: list[np.ndarray],
    outputs: dict[str, object],
) -> Trace:
    regions = side.regions.geometry
    tokens = Joined((regions, sentence.words), ("regions", "words"))
    photo = ImageGrid.regular(PAINTED, PAINTED, side.regions.image_size)
    covers = cover_matrix(side.regions.boxes.cpu().numpy(), PAINTED)
    maps = [
        AttentionMap("self", m.layer, "regions→regions", "regions", "regions",
                     m.weights[0].cpu().numpy())
        for m in side.states.maps
    ]  # fmt: skip
    for layer, block in enumerate(merged):
        painted = block[:, :, : len(regions)] @ covers
        maps += [
            AttentionMap("cross", layer, "tokens→tokens", "tokens", "tokens", block),
            AttentionMap(
                "painted", layer, "tokens→photo", "tokens", "photo",
                painted.astype(np.float16), kind="coverage",
            ),
        ]  # fmt: skip
    meta = {
        "text": sentence.text,
        "regions": side.regions.kind,
        "similarity": float(out.similarity[0]),
        "separable": float(out.separable[0]),
        "crossed": float(out.crossed[0]),
        "alpha": outputs["alpha"],
    }
    geometries = {"regions": regions, "tokens": tokens, "photo": photo}
    return Trace("mmca", geometries, tuple(maps), meta)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, required=True, help="the photograph")
    parser.add_argument("--text", required=True, help="the sentence")
    parser.add_argument("--other", action="append", default=[], help="a sentence to compare with")
    parser.add_argument("--regions", choices=KINDS, default=KINDS[0], help="kind of regions")
    parser.add_argument("--features", type=Path, help="region features (.npz) made elsewhere")


def request_from_arguments(arguments: argparse.Namespace) -> Request:
    """Raises CrossfuseError if a file cannot be read."""
    inputs: dict[str, object] = {
        "photo": _read_file(arguments.image),
        "text": arguments.text,
        "others": tuple(arguments.other),
    }
    if arguments.features is not None:
        inputs["features"] = _read_file(arguments.features)
    return Request("mmca", inputs, {"regions": arguments.regions})


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CrossfuseError(
            "{path} cannot be read: {reason}.", path=path, reason=error.strerror
        ) from error

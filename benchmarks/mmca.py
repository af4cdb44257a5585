"""MMCA's speed: a photograph and a sentence to a linked view; re-ranking against every pair.

    crossfuse bench mmca --json [--data DIR]

Rows: warm answer of the pipeline for a new photograph (1280 x 960) and for a changed word, in
seconds; and the time of scoring N photographs x 5 N sentences by shortlist and re-ranking, as a
ratio to scoring every pair through the cross-attention unit, both measured in this run (every
pair: by a sample of pairs, scaled). With ``--data`` these are the dev photographs and sentences of
a data folder, whose encoding is not timed; without it random states, of which more or fewer lie
near the tenth best. What re-ranking does to recall is told by ``crossfuse evaluate mmca --full``.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from crossfuse import registry
from crossfuse.data.captions import read_pack
from crossfuse.data.images import sample_photo
from crossfuse.data.sample_sentences import DISTRACTORS, SENTENCES
from crossfuse.encoders.regions import KINDS
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request
from crossfuse.models.mmca import MMCA, ImageStates, SentenceStates
from crossfuse.pipelines import mmca as pipeline
from crossfuse.training.mmca import MARGIN
from crossfuse.training.mmca_evaluation import Encoded, encode_split, score_pairs
from crossfuse.training.mmca_live import encode_photos
from crossfuse.training.retrieval import rerank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=4000, help="pairs timed for 'every pair'")
    parser.add_argument("--shortlist", type=int, nargs=2, default=(50, 50))
    parser.add_argument("--margin", type=float, default=MARGIN)
    parser.add_argument("--data", type=Path, help="captions.jsonl.gz, images.tar.gz")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {case, seconds} and {case, ratio, ...}."""
    torch.set_num_threads(arguments.threads)
    model = cast(MMCA, registry.load("mmca"))
    if arguments.data is None:
        encoded = _random_states(model, arguments.photographs)
    else:
        encoded = _encoded_dev(model, arguments)
    return [*_pipeline_rows(), reranking_row(model, encoded, arguments)]


def _photo(turn: int) -> bytes:
    """A sample photograph at 1280 x 960, another content each turn."""
    pixels = np.roll(sample_photo("coffee").pixels, 40 * turn, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((1280, 960)).save(buffer, "JPEG")
    return buffer.getvalue()


def _pipeline_rows() -> list[dict[str, Any]]:
    context, rows = Context(), []

    def ask(photo: bytes, text: str) -> float:
        start = time.perf_counter()
        pipeline.run(
            Request("mmca", {"photo": photo, "text": text, "others": DISTRACTORS}), context
        )
        return time.perf_counter() - start

    sentence = SENTENCES["coffee"][0]
    ask(_photo(0), sentence)  # loads models
    photos = [_photo(turn) for turn in range(1, 6)]
    rows.append(
        {
            "case": "new photograph 1280 x 960 and sentence, warm",
            "seconds": float(np.median([ask(photo, sentence) for photo in photos])),
        }
    )
    words = ("tea", "beer", "milk", "juice", "water")
    changed = [ask(photos[0], sentence.replace("coffee", word)) for word in words]
    rows.append({"case": "changed word", "seconds": float(np.median(changed))})
    return rows


def _encoded_dev(model: MMCA, arguments: argparse.Namespace) -> Encoded:
    photos = [photo for photo in read_pack(arguments.data) if photo.split == "dev"]
    photos = photos[: arguments.photographs]
    features = encode_photos(arguments.data, photos, KINDS[0], model.config)
    return encode_split(model, features, np.arange(len(photos)), KINDS[0])


def reranking_row(model: MMCA, encoded: Encoded, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of every pair (from a sample) and of shortlist and re-ranking."""
    separable = encoded.separable
    rng = np.random.default_rng(0)
    images = rng.integers(separable.shape[0], size=arguments.sample)
    captions = rng.integers(separable.shape[1], size=arguments.sample)
    score_pairs(model, encoded, images[:500], captions[:500])
    start = time.perf_counter()
    score_pairs(model, encoded, images, captions)
    every = (time.perf_counter() - start) * separable.size / arguments.sample
    start = time.perf_counter()
    product = encoded.separable
    figures = rerank(
        product,
        lambda i, c: product[i, c] + score_pairs(model, encoded, i, c),
        tuple(arguments.shortlist),
        margin=arguments.margin,
    )[2]
    ours = time.perf_counter() - start
    return {
        "case": "shortlist and re-rank against every pair",
        "shortlist": list(arguments.shortlist),
        "margin": arguments.margin,
        "pairs_scored": int(figures["pairs_scored"]),
        "seconds": ours,
        "every_pair_seconds": every,
        "times_faster": every / ours,
    }


def _random_states(model: MMCA, count: int) -> Encoded:
    """Unit embeddings and tokens of the trained sizes; sentences of 10 to 24 pieces."""
    rng, width = torch.Generator().manual_seed(0), model.config.width
    lengths = torch.randint(10, 25, (5 * count,), generator=rng)
    images = ImageStates(
        torch.randn(count, 36, width, generator=rng),
        torch.ones(count, 36, dtype=torch.bool),
        torch.nn.functional.normalize(torch.randn(count, width, generator=rng), dim=1),
    )
    sentences = SentenceStates(
        torch.randn(5 * count, 24, width, generator=rng),
        torch.arange(24) < lengths[:, None],
        torch.nn.functional.normalize(torch.randn(5 * count, width, generator=rng), dim=1),
    )
    return Encoded(images, sentences, torch.zeros(count, 36, 4), np.arange(count))

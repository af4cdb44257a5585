"""From an uploaded photograph to features and maps: how long, and which encoder.

    crossfuse bench images

Every row: ``case``; ``seconds`` by the clock and ``cpu_seconds`` over all threads, best of the
repeats (on a busy machine only the second means much); ``limit`` in seconds where one was set; and
for the encoders ``found``: the share of cells of the left stereo photograph (scikit-image's
motorcycle) whose most similar cell of the right one is at most one off the measured place.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from crossfuse.data.images import read_image, sample_photo
from crossfuse.encoders.image import VARIANTS, load_image_encoder
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request
from crossfuse.errors import CrossfuseError
from crossfuse.pipelines import feature_map
from crossfuse.training.feature_map import Pairs, frozen_pointer, score
from crossfuse.training.photo_pairs import cells_at, stereo_pair

LIMIT = 3.0  # seconds from a 12-megapixel upload to its features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def row(
    case: str,
    work: Callable[[], object],
    repeats: int,
    limit: float | None = None,
    found: float | None = None,
) -> dict[str, Any]:
    """Seconds of the fastest of some runs, after one to warm up."""
    work()
    clock, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {
        "case": case,
        "seconds": min(clock),
        "cpu_seconds": min(cpu),
        "limit": limit,
        "found": found,
    }


def twelve_megapixels() -> bytes:
    """A JPEG of 4000 x 3000 pixels with as much detail as a camera's."""
    small = Image.fromarray(sample_photo("china").pixels)
    pixels = np.asarray(small.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = np.random.default_rng(0).normal(0, 6, (3000, 4000, 1)).astype(np.int16)
    stream = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    torch.set_num_threads(options.threads)
    upload, repeats = twelve_megapixels(), options.repeats
    encoder = load_image_encoder("lite2")
    photo = read_image(upload).pixels
    strides = (8, 16, 32)
    megabytes = len(upload) / 1e6
    rows = [
        row(f"read a 12-megapixel JPEG ({megabytes:.1f} MB)", lambda: read_image(upload), repeats),
        row("encode it at strides 8, 16, 32", lambda: encoder.encode([photo], strides), repeats),
        row(
            "upload to features",
            lambda: encoder.encode([read_image(upload).pixels], strides),
            repeats,
            LIMIT,
        ),
    ]
    with Context("cpu") as context:
        request = Request("feature_map", {"a": upload, "b": "coffee"}, {"strides": strides})
        case = "upload to maps with a second photograph"
        rows.append(row(case, lambda: feature_map.run(request, context), repeats, LIMIT))
    for name in VARIANTS:
        try:
            rows += encoder_rows(name, repeats)
        except CrossfuseError as error:
            rows.append({"case": str(error)})
    return rows


def encoder_rows(name: str, repeats: int) -> list[dict[str, Any]]:
    """Time and correspondence of one encoder on the stereo photographs at 448 px."""
    encoder = load_image_encoder(name)
    left, right, to_right = stereo_pair()
    rows = []
    for stride in (8, 16, 32):
        one, two = (maps[stride] for maps in encoder.encode([left, right], (stride,), 448))
        x, y = one.grid.centres.astype(int).T
        there = to_right[y.clip(0, left.shape[0] - 1), x.clip(0, left.shape[1] - 1)]
        match = torch.from_numpy(cells_at(two.grid, there))[None]
        pairs = Pairs(one.values[None], two.values[None], match, two.grid)
        found = score(frozen_pointer, pairs)["hit_1"]
        case = f"{name}, stride {stride}, longest side 448"
        rows.append(
            row(case, lambda s=stride: encoder.encode([left], (s,), 448), repeats, found=found)
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    for one in measure(parser.parse_args()):
        print(one)

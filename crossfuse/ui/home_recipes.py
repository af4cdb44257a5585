"""Computes the examples of the home page: ``python -m crossfuse.ui.home_recipes [name ...]``.

Each recipe asks a pipeline as its page would and keeps what the home page shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from crossfuse.engine import Context, Request
from crossfuse.geometry import ClassTokens, ImageGrid, Joined
from crossfuse.trace import Trace
from crossfuse.ui.home_examples import HOME


def photographs() -> Trace:
    """Where the astronaut looks in the photographer, cells of 16 pixels."""
    from crossfuse.pipelines import feature_map

    options = {"strides": (16,), "longest_side": 256, "temperature": 0.1}
    request = Request("feature_map", {"a": "astronaut", "b": "camera"}, options)
    trace = feature_map.run(request, Context()).trace
    assert trace is not None
    grid = trace.geometries["a16"]
    assert isinstance(grid, ImageGrid)
    face = np.array([0.44, 0.25]) * grid.image_size
    first = int(((grid.centres - face) ** 2).sum(axis=1).argmin())
    photos = {"a16": "astronaut", "b16": "camera"}
    meta = {**trace.meta, "first": ["a16", first], "photos": photos}
    return replace(trace, maps=trace.maps[:1], meta=meta)  # read backwards, one way says both


def mmca() -> Trace:
    """Where each word of a sentence lands on the photograph, heads averaged."""
    from crossfuse.data.sample_sentences import SENTENCES
    from crossfuse.pipelines import mmca as pipeline
    from crossfuse.ui.mmca.inputs import FIRST, sample_bytes

    inputs = {"photo": sample_bytes(FIRST), "text": SENTENCES[FIRST][0]}
    trace = pipeline.run(Request("mmca", inputs), Context()).trace
    assert trace is not None
    painted = next(entry for entry in trace if entry.stage == "painted")
    tokens, photo = trace.geometries[painted.query], trace.geometries[painted.key]
    assert isinstance(tokens, Joined)
    words = tokens.parts[tokens.part_names.index("words")]
    mean = painted.weights[:, tokens.span("words")].astype(np.float32).mean(axis=0, keepdims=True)
    entry = replace(
        painted, query="words", key="photo", weights=mean.astype(np.float16), rows=None,
        heads=("mean",),
    )  # fmt: skip
    longest = max(range(len(words)), key=lambda index: len(words.labels[index]))
    meta = {"first": ["words", longest], "photos": {"photo": FIRST}}
    return Trace("mmca", {"words": words, "photo": photo}, (entry,), meta)


def eeg() -> Trace:
    """Which sensor asks which, differential entropy asking band power, one window."""
    from crossfuse.pipelines import mca_eeg

    trace = mca_eeg.run(Request("mca_eeg", {"sample": "simulated"}), Context()).trace
    assert trace is not None
    entry = trace.select(stage="fusion")[0]
    mean = entry.weights.astype(np.float32).mean(axis=0, keepdims=True)
    entry = replace(entry, weights=mean, heads=("mean",))
    channels = trace.geometries["channels"]
    return Trace("mca_eeg", {"channels": channels}, (entry,), {"first": ["channels", 0]})


def mmvit() -> Trace:
    """Which cells of both views the winning class rests on, by relevance."""
    from crossfuse.pipelines import mmvit as pipeline

    sample = "chelsea"
    request = Request("mmvit", {"sample": sample}, {"carry": True})
    trace = pipeline.run(request, Context()).trace
    assert trace is not None
    entry = next(entry for entry in trace if entry.direction == "relevance")
    geometries = {name: trace.geometries[name] for name in (entry.query, entry.key)}
    meta = {"first": [entry.query, 0], "photos": {entry.key: sample}}
    return Trace("mmvit", geometries, (entry,), meta)


def mit() -> Trace:
    """Which supervoxels of a room each class token reads; the points go into a file beside it."""
    from crossfuse.pipelines import mit as pipeline
    from crossfuse.ui.mit.page import FIRST

    result = pipeline.run(Request("mit", {"cloud": FIRST}), Context())
    assert result.trace is not None
    entry = result.trace.select(stage="decoder", direction="classes->points")[-1]
    classes, joined = result.trace.geometries[entry.query], result.trace.geometries[entry.key]
    assert isinstance(joined, Joined)
    there = np.argsort(-result.outputs["tags"])[:6]
    mean = entry.weights.astype(np.float32).mean(axis=0, keepdims=True)[:, there]
    names = ClassTokens(tuple(classes.labels[index] for index in there))
    entry = replace(
        entry, query="classes", key="segments", weights=mean.astype(np.float16), rows=None,
        heads=("mean",),
    )  # fmt: skip
    np.savez_compressed(
        HOME / "mit_points.npz",
        positions=result.outputs["positions"][:POINTS].astype(np.float16),
        colours=result.outputs["colours"][:POINTS],
        segment=result.outputs["segment"][:POINTS],
    )
    geometries = {"classes": names, "segments": joined.parts[0]}
    return Trace("mit", geometries, (entry,), {"first": ["classes", 0]})


POINTS = 16_000  # shown on the home page
RECIPES: dict[str, Callable[[], Trace]] = {
    "photographs": photographs,
    "mmca": mmca,
    "eeg": eeg,
    "mmvit": mmvit,
    "mit": mit,
}


def main(names: list[str]) -> None:
    """Write the named examples, or all of them."""
    HOME.mkdir(exist_ok=True)
    for name in names or RECIPES:
        path = HOME / f"{name}.npz"
        RECIPES[name]().save(path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Geometries and traces: round trips, equality, and what they refuse."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crossfuse import trace as traces
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import (
    KINDS,
    Channels,
    ClassTokens,
    Geometry,
    ImageGrid,
    Joined,
    PointSegments,
    Regions,
    TimeFrequency,
    Tokens,
    ViewStack,
    Words,
    from_arrays,
    to_arrays,
)
from crossfuse.trace import AttentionMap, Trace

BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 30]], np.float32)
EXAMPLES: tuple[Geometry, ...] = (
    Words(("a", "猫"), np.array([[0, 1], [2, 3]]), "a 猫"),
    Words(("only",)),
    Regions(BOXES, (40, 30)),
    Regions(BOXES, (40, 30), ("dog", "ball")),
    ImageGrid.regular(3, 4, (64, 48)),
    ViewStack(("front", "side"), np.array([[320, 240], [640, 480]])),
    Channels(("Cz", "X1"), np.array([[0, 0, 0.09], [np.nan, 0, 0]])),
    Channels(("Cz",)),
    TimeFrequency(("theta", "alpha"), np.array([[4, 8], [8, 13]]), np.array([[0, 2], [1, 3]])),
    PointSegments(np.zeros((2, 3)), np.array([10, 20])),
    ClassTokens(("chair", "bed")),
    Tokens(("[CLS]",)),
    Joined((Regions(BOXES, (40, 30)), Words(("a", "b"))), ("regions", "words")),
)


def test_every_kind_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(KINDS.values())


@pytest.mark.parametrize("geometry", EXAMPLES, ids=lambda g: g.kind)
def test_round_trip_and_labels(geometry: Geometry) -> None:
    meta, arrays = to_arrays(geometry)
    again = from_arrays(json.loads(json.dumps(meta)), arrays)
    assert again == geometry
    assert len(geometry) == len(geometry.labels) == len(again)
    assert geometry != Tokens(("something else",))


def test_a_grid_tiles_its_photo() -> None:
    grid = ImageGrid.regular(2, 3, (30, 20))
    assert grid.cell == (10.0, 10.0)
    assert grid.centres.tolist()[:2] == [[5.0, 5.0], [15.0, 5.0]]
    assert grid.labels[3] == "row 2, column 1"


def test_joined_finds_its_parts() -> None:
    joined = EXAMPLES[-1]
    assert isinstance(joined, Joined)
    assert joined.span("words") == slice(2, 4)
    with pytest.raises(CrossfuseError, match="regions, words"):
        joined.span("pixels")
    with pytest.raises(CrossfuseError, match="differ"):
        Joined((Tokens(("a",)), Tokens(("b",))), ("x", "x"))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Regions(np.zeros((2, 3)), (4, 4)), r"\(N, 4\)"),
        (lambda: Regions(np.full((1, 4), np.nan), (4, 4)), "NaN"),
        (lambda: Regions(BOXES, (4, 4), ("one",)), "1 entries where 2"),
        (lambda: Words(("a",), np.array([[0, 1], [1, 2]])), "Words.spans"),
        (lambda: ImageGrid(2, 2, np.zeros((3, 2)), (1, 1), (2, 2)), "centres"),
        (lambda: Channels(("Cz",), np.full((1, 3), np.inf)), "finite"),
        (lambda: from_arrays({"kind": "spiral"}, {}), "spiral"),
        (lambda: from_arrays({"kind": "tokens", "colour": "red"}, {}), "do not fit"),
    ],
)
def test_what_geometries_refuse(build, said) -> None:
    with pytest.raises(CrossfuseError, match=said):
        build()


def example_trace() -> Trace:
    rng = np.random.default_rng(0)
    return Trace(
        "example",
        {
            "words": Words(("a", "dog")),
            "grid": ImageGrid.regular(2, 2, (8, 8)),
            "all": EXAMPLES[-1],
        },
        (
            AttentionMap("cross", 0, "words->grid", "words", "grid", rng.random((3, 2, 4))),
            AttentionMap("cross", 1, "words->grid", "words", "grid", rng.random((1, 2, 4))),
            AttentionMap(
                "self",
                0,
                "grid->grid",
                "grid",
                "grid",
                rng.random((1, 2, 4)).astype(np.float16),
                rows=np.array([3, 1]),
                heads=("mean",),
                kind="relevance",
            ),
        ),
        {"sentence": "a dog", "seed": 3, "文": "狗"},
    )


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    trace = example_trace()
    trace.save(tmp_path / "trace.npz")
    assert traces.load(tmp_path / "trace.npz") == trace
    assert traces.load(io.BytesIO(trace.to_bytes())) == trace


def test_select_and_rows() -> None:
    trace = example_trace()
    assert [entry.id for entry in trace] == [
        "cross/0/words->grid",
        "cross/1/words->grid",
        "self/0/grid->grid",
    ]
    assert trace.select(stage="cross", layer=1) == (trace.maps[1],)
    assert trace.select(kind="relevance", query="grid") == (trace.maps[2],)
    held = trace.maps[2]
    np.testing.assert_allclose(held.row(3), held.weights[0, 0].astype(np.float32))
    assert held.row(0) is None
    first = trace.maps[0]
    np.testing.assert_allclose(first.row(1), first.weights[:, 1].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(first.row(1, head=2), first.weights[2, 1])


def test_further_maps_and_geometries() -> None:
    extra = AttentionMap("rollout", 0, "words->parts", "words", "parts", np.zeros((1, 2, 1)))
    longer = example_trace().with_maps(extra, parts=Tokens(("x",)))
    assert longer.maps[-1] == extra
    assert "parts" in longer.geometries


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": "nobody"}, "nobody"),
        ({"weights": np.zeros((1, 2, 5))}, "2 x 5"),
        ({"weights": np.zeros((2, 4))}, "heads, rows, columns"),
        ({"rows": np.array([0, 9])}, "rows 0 to 9"),
        ({"rows": np.array([0])}, "2 rows"),
        ({"heads": ("one", "two")}, "2 head labels"),
    ],
)
def test_maps_must_fit_their_geometries(change: dict, said: str) -> None:
    fields = {
        "stage": "s",
        "layer": 0,
        "direction": "d",
        "query": "words",
        "key": "grid",
        "weights": np.zeros((1, 2, 4)),
    } | change
    with pytest.raises(CrossfuseError, match=said):
        Trace("m", example_trace().geometries, (AttentionMap(**fields),))


def test_maps_have_distinct_names() -> None:
    trace = example_trace()
    with pytest.raises(CrossfuseError, match="Two maps"):
        trace.with_maps(trace.maps[0])
    with pytest.raises(CrossfuseError, match="cannot be called"):
        Trace("m", {"a/b": Tokens(("x",))}, ())


def damaged(**entries: object) -> io.BytesIO:
    buffer = io.BytesIO()
    np.savez(buffer, **entries)  # type: ignore[arg-type]
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda: io.BytesIO(b""), "not a readable trace"),
        (lambda: io.BytesIO(b"PK\x03\x04 nonsense"), "not a readable trace"),
        (lambda: io.BytesIO(example_trace().to_bytes()[:-100]), "not a readable trace"),
        (lambda: "no/such/file.npz", "no file"),
        (lambda: damaged(a=np.zeros(3)), "trace.json"),
        (lambda: damaged(**{"trace.json": np.array("{")}), "damaged"),
        (lambda: damaged(**{"trace.json": np.array('{"schema": 99}')}), "schema 99"),
        (lambda: damaged(**{"trace.json": np.array('{"schema": 1}')}), "damaged"),
        (lambda: damaged(**{"trace.json": np.array([{}], dtype=object)}), "not a readable trace"),
    ],
)
def test_what_is_not_a_trace_is_refused(source, said) -> None:
    with pytest.raises(CrossfuseError, match=said):
        traces.load(source())


def test_a_huge_trace_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_TRACE_BYTES", 100)
    with pytest.raises(CrossfuseError, match="the limit is"):
        traces.load(io.BytesIO(example_trace().to_bytes()))


def test_nothing_is_pickled() -> None:
    with zipfile.ZipFile(io.BytesIO(example_trace().to_bytes())) as archive:
        for name in archive.namelist():
            np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)

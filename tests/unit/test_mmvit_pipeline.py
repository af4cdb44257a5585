"""MMViT from a picture to a trace: geometry on the photo, chosen rows, bad pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from crossfuse import trace as trace_module
from crossfuse.data.images import sample_photo
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid, Joined
from crossfuse.pipelines import mmvit
from crossfuse.pipelines.framing import Framing, frame, framed


@pytest.fixture(scope="module")
def context() -> Context:
    return Context("cpu")


@pytest.fixture(scope="module")
def cat(context: Context) -> Result:
    return mmvit.run(Request("mmvit", {"sample": "chelsea"}, {"side": 128}), context)


def picture(width: int, height: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("sample", "words"), [("chelsea", "cat"), ("coffee", "espresso")])
def test_the_samples_are_named(sample: str, words: str, context: Context) -> None:
    result = mmvit.run(Request("mmvit", {"sample": sample}, {"carry": False}), context)
    assert words in result.outputs["classes"][0]
    assert not result.outputs["none_of_these"]


@pytest.mark.parametrize("sample", ["astronaut", "camera", "china", "flower"])
def test_of_what_is_none_of_the_classes_that_is_said(sample: str, context: Context) -> None:
    result = mmvit.run(Request("mmvit", {"sample": sample}, {"carry": False}), context)
    assert result.outputs["none_of_these"], result.outputs["classes"][0]


def test_a_trace_holds_every_block_and_survives_a_file(cat: Result) -> None:
    assert cat.trace is not None
    found = trace_module.load(io.BytesIO(cat.trace.to_bytes()))
    assert [m.id for m in found] == [m.id for m in cat.trace]
    assert {"rollout", "relevance"} <= {m.direction for m in found}
    for entry in found.select(kind="attention"):
        np.testing.assert_allclose(entry.weights.sum(-1), 1.0, atol=1e-5)
    for mass, base in zip(cat.outputs["mass"], cat.outputs["base"], strict=True):
        np.testing.assert_allclose(mass.sum(1), 1.0, rtol=1e-5)
        assert base.sum() == pytest.approx(1.0)


def test_grids_lie_in_the_middle_square_of_the_photo(cat: Result) -> None:
    assert cat.trace is not None
    width, height = sample_photo("chelsea").size
    left = (width - height) / 2
    for geometry in cat.trace.geometries.values():
        for part in geometry.parts if isinstance(geometry, Joined) else ():
            if isinstance(part, ImageGrid):
                assert part.image_size == (width, height)
                assert (part.centres[:, 0] >= left).all()
                assert (part.centres[:, 0] <= left + height).all()


def test_rows_at_a_point_are_rows_of_the_whole_trace(cat: Result, context: Context) -> None:
    assert cat.trace is not None
    options = {"side": 128, "point": (200.0, 150.0)}
    some = mmvit.run(Request("mmvit", {"sample": "chelsea"}, options), context).trace
    assert some is not None
    for entry in some:
        whole = cat.trace.select(stage=entry.stage, layer=entry.layer, direction=entry.direction)[0]
        assert entry.rows is not None
        np.testing.assert_allclose(entry.weights, whole.weights[:, entry.rows], atol=1e-5)
        geometry = some.geometries[entry.query]
        assert isinstance(geometry, Joined)
        for row in entry.rows:
            part = next(
                p
                for p, name in zip(geometry.parts, geometry.part_names, strict=True)
                if geometry.span(name).start <= row < geometry.span(name).stop
            )
            name = geometry.part_names[geometry.parts.index(part)]
            assert isinstance(part, ImageGrid)
            centre = part.centres[row - geometry.span(name).start]
            assert (np.abs(centre - (200, 150)) <= np.array(part.cell)).all()


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (picture(8, 8), "only 8 x 8"),
        (picture(1000, 50), "too long to be seen whole"),
        (picture(60, 90, "L"), ""),
        (picture(60, 90, "LA"), ""),
    ],
)
def test_odd_pictures_are_seen_with_a_note(data: bytes, note: str, context: Context) -> None:
    options = {"crop": "whole", "carry": False}
    result = mmvit.run(Request("mmvit", {"image": data}, options), context)
    assert any(note in sentence for sentence in (*result.notes, ""))
    assert sum(result.outputs["probabilities"]) <= 1.0001


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ({}, {}, "no picture"),
        ({"sample": "chelsea"}, {"target": 5000}, "no class 5000"),
        ({"sample": "chelsea"}, {"side": 5000}, "not offered"),
        ({"sample": "chelsea"}, {"zoom": 3.0}, "not offered"),
        ({"sample": "chelsea"}, {"point": (1.0, 1.0)}, "outside"),
        ({"image": b"nothing"}, {}, "picture"),
    ],
)
def test_what_cannot_be_asked_is_told(
    inputs: dict, options: dict, words: str, context: Context
) -> None:
    with pytest.raises(CrossfuseError, match=words):
        mmvit.run(Request("mmvit", inputs, options), context)


def test_a_point_goes_to_the_model_and_back() -> None:
    framing = Framing(10.0, 20.0, 200.0, 100.0, (64, 32))
    assert framing.to_model(110.0, 70.0) == (32.0, 16.0)


def test_a_shifted_frame_repeats_the_edge() -> None:
    photo = sample_photo("chelsea")

    class Coarse:
        class config:
            image_size, stride, views = 64, 16, 2

    framing, _ = frame(photo, Coarse(), {"shift": (-0.5, 0.0)})  # type: ignore[arg-type]
    assert framing.x < 0
    assert framed(photo, framing).shape == (1, 3, 64, 64)


def test_small_changes_keep_the_class_that_is_asked_about(context: Context) -> None:
    request = Request("mmvit", {"sample": "coffee"}, {"variations": True})
    result = mmvit.run(request, context)
    assert result.trace is not None
    assert len(result.trace.maps) == len(mmvit.VARIATIONS) == len(result.outputs["best"])
    assert result.outputs["best"].count(result.outputs["best"][0]) >= 4

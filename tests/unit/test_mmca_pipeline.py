"""MMCA's pipeline with the shipped weights: traces, scores, galleries, bad input."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from crossfuse.data.images import sample_photo
from crossfuse.data.sample_sentences import DISTRACTORS, SENTENCES
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Joined
from crossfuse.pipelines.mmca import run
from crossfuse.trace import load


def photo(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(sample_photo(name).pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def ask() -> Callable[..., Result]:
    context = Context()

    def answer(options: dict[str, object] | None = None, **inputs: object) -> Result:
        return run(Request("mmca", inputs, options or {}), context)

    return answer


def test_trace_of_a_pair(ask: Callable[..., Result], tmp_path) -> None:
    result = ask(photo=photo("camera"), text="A man skateboards behind a camera.")
    trace = result.trace
    tokens = trace.geometries["tokens"]
    assert isinstance(tokens, Joined)
    assert "skateboards" in tokens.labels
    cross = next(m for m in trace.maps if m.stage == "cross")
    assert cross.weights.shape[1:] == (len(tokens), len(tokens))
    assert np.allclose(cross.weights.sum(-1), 1, atol=1e-4)
    painted = next(m for m in trace.maps if m.stage == "painted")
    regions = tokens.span("regions")
    assert (painted.weights.max(-1) <= cross.weights[:, :, regions].sum(-1) + 1e-2).all()
    boxes = trace.geometries["regions"].boxes
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 512.01
    assert result.outputs["region_shares"].sum() == pytest.approx(
        result.outputs["crossed"][0], abs=1e-4
    )
    trace.save(tmp_path / "trace.npz")
    assert load(tmp_path / "trace.npz").geometries["tokens"] == tokens


@pytest.mark.parametrize("name", ["astronaut", "camera", "flower", "rocket"])
def test_the_right_sentence_beats_others(ask: Callable[..., Result], name: str) -> None:
    result = ask(photo=photo(name), text=SENTENCES[name][0], others=DISTRACTORS)
    rank = (result.outputs["similarity"] > result.outputs["similarity"][0]).sum()
    assert rank <= 1


@pytest.mark.parametrize("kind", ["proposals", "multiscale", "cells"])
def test_kinds_of_regions(ask: Callable[..., Result], kind: str) -> None:
    result = ask({"regions": kind}, photo=photo("chelsea"), text="a cat")
    assert 1 <= len(result.trace.geometries["regions"]) <= 36


def test_gallery_finds_the_picture_and_survives_broken_files(ask: Callable[..., Result]) -> None:
    names = ["chelsea", "coffee", "camera", "rocket"] * 4 + ["china", "flower"]
    files = [photo(name) for name in names]
    files[5:5] = [b"not a picture", files[0][:300]]
    result = ask({"task": "gallery"}, photos=tuple(files), text=SENTENCES["camera"][0])
    order = result.outputs["order"]
    assert len(order) == 18
    assert files[order[0]] == photo("camera")
    assert sum("left out" in note for note in result.notes) == 2
    with pytest.raises(CrossfuseError, match="None of the photographs"):
        ask({"task": "gallery"}, photos=(b"x",), text="a dog")


def test_one_flat_colour_still_answers(ask: Callable[..., Result]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 700), (127, 127, 127)).save(buffer, "PNG")
    result = ask(photo=buffer.getvalue(), text="grey")
    assert np.isfinite(result.outputs["similarity"]).all()


@pytest.mark.parametrize(
    ("inputs", "options", "told"),
    [
        ({"text": "a dog"}, {}, "no photograph"),
        ({"photo": b"", "text": "a dog"}, {}, "empty"),
        ({"photo": b"GIF89a", "text": "a dog"}, {}, "pict|picture|photograph"),
        ({"photo": "sample", "text": ""}, {}, "empty"),
        ({"photo": "sample", "text": "a", "others": ("b",) * 41}, {}, "At most"),
        ({"photo": "sample", "text": "a"}, {"regions": "nets"}, "proposals"),
        ({"photo": "sample", "text": "a"}, {"task": "paint"}, "match"),
        ({"features": b"zip", "text": "a"}, {}, "npz"),
    ],
)
def test_bad_input_is_a_sentence(ask, inputs, options, told) -> None:
    if inputs.get("photo") == "sample":
        inputs = inputs | {"photo": photo("coffee")}
    with pytest.raises(CrossfuseError, match=told):
        ask(options, **inputs)


def region_file(size: int, count: int = 36, shape: tuple[int, int] = (2048, 1536)) -> bytes:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, (count, 2))
    boxes = np.concatenate([corners, corners + 0.4], 1) * np.tile(shape, 2)
    buffer = io.BytesIO()
    features = rng.standard_normal((count, size)).astype(np.float32)
    np.savez(buffer, features=features, boxes=boxes, image_size=np.array(shape))
    return buffer.getvalue()


def test_the_papers_own_input_runs_untrained_and_says_so(ask: Callable[..., Result]) -> None:
    result = ask(features=region_file(2048), text="a cup of coffee")
    assert len(result.trace.geometries["regions"]) == 36
    assert any("untrained" in note for note in result.notes)
    again = ask(features=region_file(2048), text="a cup of coffee")
    assert np.array_equal(again.outputs["similarity"], result.outputs["similarity"])


def test_features_of_the_shipped_size_meet_the_shipped_weights(ask: Callable[..., Result]) -> None:
    own = ask(photo=photo("coffee"), text="a cup")
    boxes = own.trace.geometries["regions"]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=own.outputs["region_features"],
        boxes=boxes.boxes,
        image_size=boxes.image_size,
    )
    back = ask(features=buffer.getvalue(), photo=photo("coffee"), text="a cup")
    assert not back.notes
    assert np.allclose(back.outputs["similarity"], own.outputs["similarity"], atol=1e-4)


def test_regions_of_another_photograph_are_refused(ask: Callable[..., Result]) -> None:
    with pytest.raises(CrossfuseError, match="another shape"):
        ask(features=region_file(2048, shape=(100, 400)), photo=photo("coffee"), text="a cup")


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("a dog runs " * 170, "were read"),
        ("🐶🏖️", "vocabulary"),
        ("一只狗在海滩上跑", "English"),
        ("كلب يجري على الشاطئ", "English"),
        ("a quokka flumps the zorblax", None),
        ("<b onmouseover=alert(1)>a dog</b> & <script>", None),
    ],
)
def test_odd_sentences_are_answered_and_told(ask: Callable[..., Result], text, note) -> None:
    result = ask(photo=photo("coffee"), text=text, others=DISTRACTORS[:2])
    assert np.isfinite(result.outputs["similarity"]).all()
    assert (note is None) == (not result.notes)
    assert note is None or any(note in told for told in result.notes)


def test_photograph_without_a_proposal_is_one_region(ask: Callable[..., Result], monkeypatch):
    from crossfuse.encoders.proposer import RegionProposer

    nothing = torch.zeros(0, 4)
    monkeypatch.setattr(RegionProposer, "propose", lambda *_: [nothing])
    result = ask(photo=photo("flower") + b"\0", text="a flower")
    assert len(result.trace.geometries["regions"]) == 1
    assert any("No region was proposed" in note for note in result.notes)


def test_image_side_is_kept_for_another_sentence(ask: Callable[..., Result], monkeypatch) -> None:
    from crossfuse.encoders.regions import RegionEncoder

    ask(photo=photo("china"), text="a temple")
    monkeypatch.setattr(RegionEncoder, "maps", None)
    again = ask(photo=photo("china"), text="a ship")
    assert torch.isfinite(torch.from_numpy(again.outputs["similarity"])).all()

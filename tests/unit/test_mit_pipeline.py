"""The pipeline of MIT on a small made-up room, and what its page makes of the answer."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfuse.cli import main
from crossfuse.data.point_clouds import read_cloud
from crossfuse.data.point_views import views_of_cloud
from crossfuse.data.sample_rooms import sample_facts, sample_names, sample_room
from crossfuse.engine import Request, Result
from crossfuse.engine.context import Context
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Joined
from crossfuse.pipelines import mit as pipeline
from crossfuse.trace import load
from crossfuse.ui.mit.answer import (
    class_table,
    coloured_ply,
    display_geometries,
    display_maps,
    first_tags,
    scores_of,
    segmentation,
    segments_csv,
)


def room() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    uv = rng.uniform(0, 1, (6000, 2))
    floor = np.column_stack([uv[:2500] * 2.4, np.zeros(2500)])
    wall = np.column_stack([uv[2500:5000, 0] * 2.4, np.full(2500, 2.4), uv[2500:5000, 1] * 2])
    box = np.column_stack([uv[5000:] * 0.6 + 0.8, np.full(1000, 0.5)])
    colours = np.repeat([[0.6, 0.4, 0.3], [0.9, 0.9, 0.8], [0.2, 0.3, 0.7]], [2500, 2500, 1000], 0)
    return np.concatenate([floor, wall, box]), colours


def photo(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def context() -> Context:
    return Context("cpu")


@pytest.fixture(scope="module")
def answer(context: Context) -> Result:
    positions, colours = room()
    labels = np.repeat([1, 0, -1], [2500, 2500, 1000])
    inputs = {
        "positions": positions.astype(np.float32),
        "colours": colours.astype(np.float32),
        "labels": labels,
        "label_names": tuple(context.model("mit").config.classes),  # type: ignore[attr-defined]
        "photos": (photo(40), photo(200)),
        "photo_names": ("a.jpg", "b.jpg"),
    }
    return pipeline.run(Request("mit", inputs), context)


def test_the_trace_joins_cloud_and_photographs(answer: Result) -> None:
    trace = answer.trace
    assert trace is not None
    turns = [m.direction for m in trace.select(stage="decoder") if "classes" not in m.direction]
    assert turns == ["points->photos", "photos->points"] * 2
    for entry in trace:
        np.testing.assert_allclose(entry.weights.astype(float).sum(-1), 1, atol=5e-3)
    photos = trace.geometries["photos"]
    assert isinstance(photos, Joined)
    assert len(photos) == 2 + 2 * 12
    again = load(io.BytesIO(trace.to_bytes()))
    assert len(again.maps) == len(trace.maps)


def test_what_the_page_makes_of_it(answer: Result) -> None:
    outputs, trace = answer.outputs, answer.trace
    assert trace is not None
    ticked = first_tags(outputs)
    assert ticked
    only_wall = segmentation(outputs, ["wall"])
    assert (only_wall.predicted == 0).all()
    np.testing.assert_allclose(only_wall.confidence, 1)
    found = segmentation(outputs, ["wall", "floor"])
    scores = scores_of(outputs, found)
    assert scores is not None
    assert scores["present"].sum() == 2
    assert 0 <= scores["miou"] <= 1
    rows = class_table(outputs, found, scores)
    assert sum(row["points"] for row in rows) == pytest.approx(1)
    names = list(outputs["classes"])
    shown = display_geometries(trace, found, names, lambda name, i: f"{name} {i}")
    assert shown["segments"].labels[0].startswith(("wall", "floor"))
    assert {m.query for m in display_maps(trace)} <= set(shown)
    cloud = read_cloud(coloured_ply(outputs, found), "out.ply")
    assert len(cloud) == len(outputs["positions"])
    assert cloud.labels is not None
    lines = segments_csv(trace, outputs, found).decode("utf-8-sig").splitlines()
    assert len(lines) == 1 + len(outputs["counts"])


def test_without_photographs_views_are_drawn_and_said_to_be(context: Context) -> None:
    positions, _ = room()
    buffer = io.BytesIO()
    np.savez(buffer, positions=positions * 1000)  # millimetres, no colours
    inputs = {"cloud": buffer.getvalue(), "cloud_name": "room.npz"}
    result = pipeline.run(Request("mit", inputs), context)
    assert result.outputs["drawn"]
    said = " ".join(result.notes)
    for word in ("drawn from the cloud", "no colours", "millimetres"):
        assert word in said


def test_many_photographs_and_bad_ones(context: Context) -> None:
    positions, colours = room()
    inputs = {"positions": positions, "colours": colours}
    many = Request("mit", {**inputs, "photos": (photo(90),) * 300})
    result = pipeline.run(many, context)
    assert len(result.outputs["photos"]) == pipeline.MOST_PHOTOS
    assert any("300 photographs" in note for note in result.notes)
    with pytest.raises(CrossfuseError):
        pipeline.run(Request("mit", {**inputs, "photos": (b"not a picture",)}), context)
    with pytest.raises(CrossfuseError, match="No class is called"):
        pipeline.run(Request("mit", inputs, {"tags": ("spaceship",)}), context)
    with pytest.raises(CrossfuseError, match="option"):
        pipeline.run(Request("mit", inputs, {"colour": "red"}), context)
    with pytest.raises(CrossfuseError, match="Give a point cloud"):
        pipeline.run(Request("mit", {}), context)


def test_drawn_views_show_the_cloud() -> None:
    positions, colours = room()
    views = views_of_cloud(positions, colours, 0.05)
    assert len(views) == 12
    assert max((view != 190).any(-1).mean() for view in views) > 0.3


def test_samples_are_whole_and_credited() -> None:
    assert len(sample_names()) >= 2
    for name in sample_names():
        cloud, photos = sample_room(name)
        facts = sample_facts(name)
        assert len(photos) == 16
        assert cloud.labels is not None
        assert facts["credits"]
        assert all("CC0" in line for line in facts["credits"])
    with pytest.raises(CrossfuseError, match="no sample room"):
        sample_room("../../etc")


def test_explain_on_the_command_line(tmp_path: Path, capsys) -> None:
    positions, colours = room()
    np.savetxt(tmp_path / "room.xyz", np.hstack([positions, colours * 255]), fmt="%.3f")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(photo(120))
    out = tmp_path / "trace.npz"
    asked = ["explain", "mit", "--points", str(tmp_path / "room.xyz"), "--out", str(out)]
    assert main([*asked, "--photos", str(tmp_path / "photos")]) == 0
    assert load(out).model == "mit"
    assert main([*asked, "--photos", str(tmp_path / "absent")]) == 1
    assert "not a folder" in capsys.readouterr().err


def as_ply(positions: np.ndarray, colours: np.ndarray, labels: np.ndarray) -> bytes:
    rows = np.zeros(len(positions), [("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "<u2")])
    rows["xyz"], rows["rgb"], rows["label"] = positions, colours * 255, labels
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n"
    head += "".join(f"property float {a}\n" for a in "xyz")
    head += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    return (head + "property ushort label\nend_header\n").encode() + rows.tobytes()


def test_an_archive_brings_cloud_photographs_and_labels(context: Context) -> None:
    positions, colours = room()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        labels = np.repeat([1, 0, 12], [2500, 2500, 1000])
        archive.writestr("scan/room.ply", as_ply(positions, colours, labels))
        archive.writestr("scan/photos/one.jpg", photo(90))
    inputs = {"cloud": buffer.getvalue(), "cloud_name": "room.zip"}
    plain = pipeline.run(Request("mit", inputs), context)
    assert plain.outputs["photo_names"] == ["one.jpg"]
    assert plain.outputs["read_as"] == {"unit": "metres", "up": "z", "labels": True}
    assert scores_of(plain.outputs, segmentation(plain.outputs, [])) is None  # mean nothing yet
    told = pipeline.run(Request("mit", inputs, {"labels": "s3dis"}), context)
    scores = scores_of(told.outputs, segmentation(told.outputs, ["wall", "floor"]))
    assert scores is not None
    present = {told.outputs["classes"][c] for c in np.flatnonzero(scores["present"])}
    assert present == {"floor", "ceiling"}  # S3DIS: 0 ceiling, 1 floor, 12 clutter


def test_the_order_of_points_and_of_photographs_changes_nothing(context: Context) -> None:
    positions, colours = room()
    shuffle = np.random.default_rng(3).permutation(len(positions))
    pictures = (photo(30), photo(120), photo(220))
    one = pipeline.run(
        Request("mit", {"positions": positions, "colours": colours, "photos": pictures}), context
    )
    two = pipeline.run(
        Request(
            "mit",
            {
                "positions": positions[shuffle],
                "colours": colours[shuffle],
                "photos": pictures[::-1],
            },
        ),
        context,
    )
    np.testing.assert_allclose(one.outputs["logits"], two.outputs["logits"], atol=2e-4)
    np.testing.assert_allclose(one.outputs["tags"], two.outputs["tags"], atol=1e-4)
    assert one.trace is not None
    assert two.trace is not None
    first, second = (t.select(stage="decoder", query="segments")[0] for t in (one.trace, two.trace))
    views = [first.weights[..., :3].astype(float), second.weights[..., 2::-1].astype(float)]
    np.testing.assert_allclose(*views, atol=2e-3)


def test_photographs_that_fit_nothing_and_a_piece_without_structure(context: Context) -> None:
    positions, colours = room()
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    inputs = {"positions": positions, "colours": colours, "photos": (buffer.getvalue(),)}
    result = pipeline.run(Request("mit", inputs), context)
    assert np.isfinite(result.outputs["logits"]).all()
    assert not result.outputs["drawn"]
    dot = np.random.default_rng(0).normal(0, 0.004, (80, 3))
    with pytest.raises(CrossfuseError, match="one single piece"):
        pipeline.run(Request("mit", {"positions": dot, "colours": np.ones((80, 3))}), context)

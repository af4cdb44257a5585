"""Supervoxels are deterministic and follow surfaces; rooms compose from a stand-in package."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crossfuse.data.point_scene import prepare
from crossfuse.data.rooms import CLASSES, furniture, generate
from crossfuse.data.rooms.built import MAKERS, built_item, built_mesh
from crossfuse.data.rooms.catalogue import find_package, treatment_image, treatments
from crossfuse.data.rooms.render import Camera
from crossfuse.data.supervoxels import supervoxels, voxelize
from crossfuse.errors import CrossfuseError


def _corner(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A floor, a wall and a box on the floor: positions, colours, which of the three."""
    rng = np.random.default_rng(seed)
    uv = rng.uniform(0, 1, (9000, 2))
    floor = np.column_stack([uv[:4000] * 2, np.zeros(4000)])
    wall = np.column_stack([uv[4000:8000, 0] * 2, np.full(4000, 2.0), uv[4000:8000, 1] * 2])
    top = np.column_stack([uv[8000:] * 0.5 + 0.5, np.full(1000, 0.45)])
    positions = np.concatenate([floor, wall, top]) + rng.normal(0, 0.002, (9000, 3))
    which = np.repeat([0, 1, 2], [4000, 4000, 1000])
    return positions, np.full((9000, 3), 0.5), which


def test_supervoxels_follow_surfaces() -> None:
    positions, colours, which = _corner()
    scene = prepare(positions, colours)
    table = np.zeros((scene.segments, 3))
    np.add.at(table, (scene.segment_of_point, which), 1)
    assert table.max(axis=1).sum() / len(which) > 0.98
    assert scene.segments < 60
    assert scene.counts.sum() == len(positions)


def test_supervoxels_do_not_depend_on_the_order_of_points() -> None:
    positions, colours, _ = _corner(1)
    shuffle = np.random.default_rng(2).permutation(len(positions))
    one = prepare(positions, colours)
    two = prepare(positions[shuffle], colours[shuffle])
    assert np.array_equal(one.segment_of_point[shuffle], two.segment_of_point)
    assert np.array_equal(one.segment, prepare(positions, colours).segment)


def test_the_limit_is_kept_and_islands_survive() -> None:
    rng = np.random.default_rng(3)
    blobs = rng.uniform(0, 20, (40, 3))
    positions = np.repeat(blobs, 60, 0) + rng.normal(0, 0.1, (2400, 3))
    voxels = voxelize(positions, np.zeros((2400, 3)), 0.05)
    assert supervoxels(voxels, most=10).count <= 10
    assert supervoxels(voxels, most=100).count >= 40


def test_one_voxel_and_none() -> None:
    alone = voxelize(np.zeros((60, 3)), np.zeros((60, 3)), 0.05)
    assert supervoxels(alone).count == 1
    with pytest.raises(CrossfuseError, match="empty"):
        voxelize(np.zeros((0, 3)), np.zeros((0, 3)), 0.05)
    with pytest.raises(CrossfuseError, match="spans"):
        voxelize(np.array([[0.0, 0, 0], [1e6, 0, 0]]), np.zeros((2, 3)), 0.05)


def test_catalogue_is_split_by_mesh_and_treatment() -> None:
    paths = [f.path for f in furniture()]
    assert len(paths) == len(set(paths))
    for split in ("train", "val"):
        assert {f.category for f in furniture() if f.split == split} >= set(CLASSES[3:])
        assert {t.surface for t in treatments() if t.split == split} == set(CLASSES[:3])
    image = treatment_image(treatments()[5])
    assert image.shape == (256, 256, 3)
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("category", MAKERS)
def test_built_pieces_stand_on_the_floor_and_repeat(category: str) -> None:
    item = built_item(category, 5)
    mesh = built_mesh(item)
    assert item.label == CLASSES.index(category)
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), item.size, atol=1e-5)
    assert max(item.size) < 3.0
    assert np.array_equal(mesh.vertices, built_mesh(item).vertices)
    assert built_item(category, 6).size != item.size
    assert mesh.faces.max() < len(mesh.vertices)
    assert 0 <= mesh.colour.min() <= mesh.colour.max() <= 1.2


def test_a_camera_sees_what_it_projects() -> None:
    camera = Camera.looking(np.array([0.0, 0, 1.5]), np.array([2.0, 1, 0.5]), 70, 40, 30)
    points = camera.eye + camera.rays() * 3
    pixels, depth = camera.project(points)
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([x, y], -1).reshape(-1, 2), atol=1e-3)
    assert (depth > 0).all()
    assert (camera.axes[1] @ [0, 0, 1]) < 0  # rows go downwards


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives with a box for every mesh of the catalogue."""
    root = tmp_path_factory.mktemp("furniture")
    corners = [f"v {x} {y} {z}" for x in (0, 1) for y in (0, 2) for z in (0, 1)]
    corner = "124 143 578 586 156 162 348 387 137 175 268 284"
    faces = "\n".join(f"f {a} {b} {c}" for a, b, c in corner.split())
    boxes = {}
    for item in furniture():
        boxes.setdefault(item.library, []).append(item.path)
    for library, paths in boxes.items():
        with zipfile.ZipFile(root / f"{library}.sh3f", "w") as archive:
            for path in paths:
                archive.writestr(path, "\n".join(corners) + "\n" + faces + "\n")
    return root


def test_rooms_are_composed_repeatable_and_resumable(package: Path, tmp_path: Path) -> None:
    generate(tmp_path / "a", 1, 3, val_scenes=1, furniture_folder=package, progress=lambda _: None)
    room = tmp_path / "a" / "train" / "room_0000"
    with np.load(room / "points.npz") as file:
        points = {name: file[name] for name in file.files}
    assert len(points["positions"]) > 5000
    assert len(list((room / "photos").glob("*.jpg"))) == 16
    info = json.loads((room / "room.json").read_text())
    present = set(np.unique(points["labels"])) - {255}
    assert set(info["tags"]) <= present
    assert {0, 1} <= set(info["tags"])
    used = {f.path: f for f in furniture()}
    audited = [m for m in info["meshes"] if not m.startswith("built/")]
    assert {used[m].split for m in audited} <= {"train"}
    text = (tmp_path / "a" / "ATTRIBUTION.md").read_text()
    assert all(used[m].creator in text for m in audited)
    val = json.loads((tmp_path / "a" / "val" / "room_0000" / "room.json").read_text())
    assert {used[m].split for m in val["meshes"]} <= {"val"}  # nothing built, nothing seen
    generate(
        tmp_path / "b", 2, 3, val_scenes=1, furniture_folder=package, workers=2,
        progress=lambda _: None,
    )  # fmt: skip
    with np.load(tmp_path / "b" / "train" / "room_0000" / "points.npz") as file:
        assert all(np.array_equal(points[name], file[name]) for name in file.files)
    before = (room / "room.json").stat().st_mtime_ns
    generate(tmp_path / "a", 1, 3, val_scenes=1, furniture_folder=package, progress=lambda _: None)
    assert (room / "room.json").stat().st_mtime_ns == before


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(CrossfuseError, match="sweethome3d-furniture"):
        find_package(tmp_path)

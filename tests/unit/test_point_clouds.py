"""Reading clouds: every format that is promised, and every kind of bad file."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfuse.data.point_clouds import (
    guess_unit,
    guess_up,
    read_cloud,
    read_path,
    read_upload,
    settle,
    thinned,
    with_meaning,
)
from crossfuse.data.rooms import CLASSES
from crossfuse.errors import CrossfuseError


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xyz = rng.uniform([0, 0, 0], [5, 4, 2.5], (400, 3)).astype(np.float32)
    return xyz, rng.integers(0, 256, (400, 3)).astype(np.uint8)


def _ply(xyz: np.ndarray, rgb: np.ndarray, kind: str, count: int | None = None) -> bytes:
    head = (
        f"ply\nformat {kind} 1.0\ncomment made by a test\nelement vertex {count or len(xyz)}\n"
        "property uchar red\nproperty float z\nproperty float y\nproperty uchar green\n"
        "property uchar blue\nproperty float x\nproperty ushort label\n"
        "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    label = np.arange(len(xyz)) % 3
    if kind == "ascii":
        rows = [
            f"{c[0]} {p[2]:.6f} {p[1]:.6f} {c[1]} {c[2]} {p[0]:.6f} {k}"
            for p, c, k in zip(xyz, rgb, label, strict=True)
        ]
        return head + "\n".join(rows).encode() + b"\n"
    order = ">" if "big" in kind else "<"
    table = np.zeros(
        len(xyz),
        [
            *(("r", "u1"), ("z", order + "f4"), ("y", order + "f4"), ("g", "u1")),
            *(("b", "u1"), ("x", order + "f4"), ("label", order + "u2")),
        ],
    )
    for name, values in zip("rgbxyz", [*rgb.T, *xyz.T], strict=True):
        table[name] = values
    table["label"] = label
    return head + table.tobytes()


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_in_any_property_order(kind: str, cloud) -> None:
    xyz, rgb = cloud
    got = read_cloud(_ply(xyz, rgb, kind), "a.ply")
    np.testing.assert_allclose(got.positions + got.origin, xyz, atol=1e-4)
    np.testing.assert_allclose(got.colours, rgb / 255, atol=1e-6)
    assert got.labels is not None
    assert got.labels[:4].tolist() == [0, 1, 2, 0]


def _pcd(xyz: np.ndarray, rgb: np.ndarray, kind: str) -> bytes:
    n = len(xyz)
    packed = (rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)).astype("<u4")
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
        f"WIDTH {n}\nHEIGHT 1\nPOINTS {n}\nDATA {kind}\n"
    ).encode()
    columns = [*xyz.T.astype("<f4"), packed.view("<f4")]
    if kind == "ascii":
        table = np.stack([c.astype(np.float64) for c in columns], 1)
        return head + "\n".join(" ".join(repr(float(v)) for v in row) for row in table).encode()
    if kind == "binary":
        return head + np.stack(columns, 1).tobytes()
    raw = b"".join(np.ascontiguousarray(c).tobytes() for c in columns)
    literal = b"".join(
        bytes([len(raw[i : i + 32]) - 1]) + raw[i : i + 32] for i in range(0, len(raw), 32)
    )
    return head + struct.pack("<II", len(literal), len(raw)) + literal


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd(kind: str, cloud) -> None:
    xyz, rgb = cloud
    got = read_cloud(_pcd(xyz, rgb, kind), "a.pcd")
    np.testing.assert_allclose(got.positions + got.origin, xyz, atol=1e-4)
    np.testing.assert_allclose(got.colours, rgb / 255, atol=1e-6)


def test_lzf_copies_that_overlap_themselves() -> None:
    from crossfuse.data.point_clouds.ply_pcd import _lzf

    packed = bytes([0, 65]) + bytes([(7 << 5), 1, 0])  # "A", then 10 bytes from one back
    assert _lzf(packed, 11, "x") == b"A" * 11
    with pytest.raises(CrossfuseError, match="damaged"):
        _lzf(bytes([(1 << 5) | 3, 9]), 3, "x")


def test_text_numpy_and_columns_with_names(cloud) -> None:
    xyz, rgb = cloud
    rows = np.hstack([xyz, rgb])
    text = "\n".join(" ".join(f"{v:.5f}" for v in row) for row in rows)
    csv = "X,Y,Z,red,green,blue,label\n" + "\n".join(
        ",".join(f"{v:.5f}" for v in row) + ",1" for row in rows
    )
    plain, npy = io.BytesIO(), io.BytesIO()
    np.save(npy, rows)
    np.savez(plain, xyz=xyz, rgb=rgb, labels=np.ones(len(xyz)))
    files = {"a.xyz": text.encode(), "a.csv": csv.encode(), "a.npy": npy.getvalue()}
    files["a.pts"] = f"{len(xyz)}\n{text}".encode()
    files["a.npz"] = plain.getvalue()
    for name, data in files.items():
        got = read_cloud(data, name)
        np.testing.assert_allclose(got.positions + got.origin, xyz, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(got.colours, rgb / 255, atol=1e-5, err_msg=name)
    assert read_cloud(files["a.csv"], "a.csv").labels is not None


def test_las_and_meshes(cloud, tmp_path: Path) -> None:
    import laspy
    import trimesh

    xyz, rgb = cloud
    las = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
    las.header.offsets, las.header.scales = [500_000, 4_000_000, 0], [1e-4] * 3
    las.x, las.y, las.z = (xyz.astype(np.float64) + np.array([500_000, 4_000_000, 0])).T
    las.red, las.green, las.blue = (rgb.astype(np.uint16) * 257).T
    for ending in ("las", "laz"):
        las.write(tmp_path / f"a.{ending}")
        got = read_cloud((tmp_path / f"a.{ending}").read_bytes(), f"a.{ending}")
        away = got.positions + (got.origin - [500_000, 4_000_000, 0])
        np.testing.assert_allclose(away, xyz, atol=3e-4)  # centred in double: nothing is lost
        np.testing.assert_allclose(got.colours, rgb / 255, atol=1e-4)
        assert any("centred" in note for note in got.notes)
    box = trimesh.creation.box((2, 1, 3))
    for ending in ("obj", "glb", "stl"):
        data = box.export(file_type=ending)
        got = read_cloud(data if isinstance(data, bytes) else data.encode(), f"box.{ending}")
        assert any("sampled" in note for note in got.notes)
        assert len(got) >= 20_000
        up = settle(got).positions
        assert np.ptp(up, axis=0).max() == pytest.approx(3, abs=0.01)


def test_bad_points_are_left_out_and_counted(cloud) -> None:
    xyz = np.vstack([cloud[0], [[np.nan, 0, 0], [0, np.inf, 0], [9e5, 0, 0]]])
    buffer = io.BytesIO()
    np.save(buffer, xyz)
    got = read_cloud(buffer.getvalue(), "a.npy")
    assert len(got) == 400
    assert any("2 points without" in n for n in got.notes)
    assert any("1 stray" in n for n in got.notes)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.ply", b"", "is empty"),
        ("a.ply", b"solid thing", "begin with 'ply'"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 9\n", "end_header"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex nine\nend_header\n", "damaged"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "no element called"),
        ("a.pcd", b"VERSION .7\nFIELDS x y z\n", "no PCD header"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F\nPOINTS 5\nDATA binary\n", "damaged"),
        ("a.xyz", b"only words here\n", "holds no points"),
        ("a.xyz", b"1 2\n3 4\n", "at least x, y and z"),
        ("a.npy", b"\x93NUMPY garbage", "not a plain NumPy file"),
        ("a.npz", b"PK\x03\x04 garbage", "not a plain NumPy file"),
        ("a.las", b"LASF broken", "not a readable LAS"),
        ("a.glb", b"glTF broken", "not a readable glb"),
        ("a.docx", b"PK", "are read from"),
        ("noending", b"x", "no ending"),
    ],
)
def test_files_that_are_not_what_they_say(name: str, data: bytes, says: str) -> None:
    with pytest.raises(CrossfuseError, match=says):
        read_cloud(data, name)


def test_headers_that_lie_about_the_count(cloud) -> None:
    xyz, rgb = cloud
    with pytest.raises(CrossfuseError, match="announces 9,000 points"):
        read_cloud(_ply(xyz, rgb, "binary_little_endian", 9000), "a.ply")
    with pytest.raises(CrossfuseError, match="announces 9,000 points"):
        read_cloud(_ply(xyz, rgb, "ascii", 9000), "a.ply")
    with pytest.raises(CrossfuseError, match="at most"):
        read_cloud(_ply(xyz, rgb, "binary_little_endian", 10**12), "a.ply")
    with pytest.raises(CrossfuseError, match="header is wrong"):
        read_cloud(_pcd(xyz, rgb, "binary").replace(b"POINTS 400", b"POINTS 4000"), "a.pcd")


def test_too_few_points_or_all_in_one_place() -> None:
    for xyz, says in (
        (np.zeros((0, 3)), "no points"),
        (np.zeros((1, 3)), "at least 50"),
        (np.ones((200, 3)), "same place"),
        (np.full((60, 3), np.nan), "finite"),
    ):
        buffer = io.BytesIO()
        np.save(buffer, xyz)
        with pytest.raises(CrossfuseError, match=says):
            read_cloud(buffer.getvalue(), "a.npy")


def test_unit_and_up_are_found_shown_and_changeable(cloud) -> None:
    xyz = cloud[0]
    assert guess_unit(xyz) == "metres"
    assert guess_unit(xyz * 1000) == "millimetres"
    assert guess_up(xyz) == "z"
    assert guess_up(xyz[:, [0, 2, 1]] * [1, 1, -1]) in ("y", "-y")
    buffer = io.BytesIO()
    np.save(buffer, xyz[:, [0, 2, 1]] * 1000)
    raw = read_cloud(buffer.getvalue(), "a.npy")
    found = settle(raw, up="y")
    assert any("millimetres" in n for n in found.notes)
    assert np.ptp(found.positions[:, 2]) == pytest.approx(2.5, abs=0.1)
    with pytest.raises(CrossfuseError, match="unit"):
        settle(raw, unit="furlongs")
    with pytest.raises(CrossfuseError, match="up axis"):
        settle(raw, up="w")
    assert len(thinned(raw, 100)) == 100


def _scannet(folder: Path, xyz: np.ndarray, rgb: np.ndarray) -> Path:
    scene = folder / "scene0000_00"
    (scene / "exported" / "color").mkdir(parents=True)
    for number in (100, 20, 0):
        (scene / "exported" / "color" / f"{number}.jpg").write_bytes(f"picture {number}".encode())
    body = _ply(xyz, rgb, "binary_little_endian")
    (scene / "scene0000_00_vh_clean_2.ply").write_bytes(body)
    (scene / "scene0000_00_vh_clean_2.labels.ply").write_bytes(body)  # labels 0, 1, 2
    turn = "0 -1 0 0 1 0 0 0 0 0 1 0 0 0 0 1"
    (scene / "scene0000_00.txt").write_text(f"axisAlignment = {turn}\nnumColorFrames = 1\n")
    return scene


def _s3dis(folder: Path, xyz: np.ndarray, rgb: np.ndarray) -> Path:
    room = folder / "Area_5" / "office_1"
    (room / "Annotations").mkdir(parents=True)
    for name, part in (("chair_1", slice(0, 200)), ("bookcase_1", slice(200, 300)),
                       ("clutter_1", slice(300, 400))):  # fmt: skip
        lines = [" ".join(map(str, row)) for row in np.hstack([xyz[part], rgb[part]])]
        lines[3] = lines[3].replace(" ", "\x10 ", 1)  # the stray characters of the real files
        (room / "Annotations" / f"{name}.txt").write_text("\n".join(lines))
    (room / "office_1.txt").write_text("1 2 3 4 5 6\n")
    return room


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        archive.writestr("__MACOSX/._junk.ply", b"junk")
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_scannet_scenes(cloud, tmp_path: Path, packed: bool) -> None:
    xyz, rgb = cloud
    scene = _scannet(tmp_path, xyz, rgb)
    got, photos = read_upload(_zipped(scene), "scene.zip") if packed else read_path(scene)
    assert [photo.name for photo in photos] == ["0.jpg", "20.jpg", "100.jpg"]  # frames in order
    assert photos[1].read() == b"picture 20"
    assert got.labels is not None
    assert got.labels[:3].tolist() == [-1, 0, 1]  # NYU40: 0 none, 1 wall, 2 floor
    assert (got.unit, got.up) == ("metres", "z")
    assert np.ptp(got.positions[:, 0]) == pytest.approx(np.ptp(xyz[:, 1]), abs=1e-4)
    (scene / "scene0000_00.txt").write_text("axisAlignment = 1 0 nonsense\n")
    with pytest.raises(CrossfuseError, match="16 numbers"):
        read_path(scene)


@pytest.mark.parametrize("packed", [False, True])
def test_s3dis_rooms(cloud, tmp_path: Path, packed: bool) -> None:
    room = _s3dis(tmp_path, *cloud)
    got, photos = read_upload(_zipped(room), "office.zip") if packed else read_path(room)
    assert not photos
    assert got.labels is not None
    assert len(got) == 397
    assert any("3 damaged lines" in note for note in got.notes)
    names = {got.label_names[i] if i >= 0 else "none" for i in set(got.labels.tolist())}
    assert names == {"chair", "bookshelf", "none"}
    (room / "Annotations" / "board_1.txt").write_text("only words\n")
    with pytest.raises(CrossfuseError, match="x y z r g b"):
        read_path(room)


def test_scenes_of_both_layouts_are_scans_to_evaluate_on(cloud, tmp_path: Path) -> None:
    from crossfuse.training import mit_scenes

    xyz, rgb = cloud
    for path in _scannet(tmp_path / "one", xyz, rgb).glob("exported/color/*.jpg"):
        Image.new("RGB", (40, 30), (90, 120, 60)).save(path)
    _s3dis(tmp_path / "two", xyz, rgb)
    ((scannet, photos),) = mit_scenes.load_scenes(tmp_path / "one")
    ((s3dis, drawn),) = mit_scenes.load_scenes(tmp_path / "two" / "Area_5")
    assert len(photos) == 3
    assert len(drawn) == 12  # no photographs: drawn
    assert scannet.histogram.sum() == len(xyz)
    assert scannet.tags[[0, 1]].all()  # wall and floor of NYU40
    counted = s3dis.histogram.sum(0)
    assert set(np.flatnonzero(counted[:-1])) == {CLASSES.index("chair"), CLASSES.index("bookshelf")}
    (tmp_path / "none").mkdir()
    with pytest.raises(CrossfuseError, match="No labelled scene"):
        mit_scenes.load_scenes(tmp_path / "none")


def test_archives_with_one_cloud_and_its_photographs(cloud, tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "room.ply").write_bytes(_ply(*cloud, "binary_little_endian"))
    (folder / "read_me.txt").write_text("a scan")
    (folder / "a.jpg").write_bytes(b"picture")
    got, photos = read_upload(_zipped(folder), "scan.ZIP")
    assert len(got) == 400
    assert [photo.name for photo in photos] == ["a.jpg"]
    assert len(read_path(folder)[1]) == 1
    (folder / "second.pcd").write_bytes(b"x")
    with pytest.raises(CrossfuseError, match="2 clouds"):
        read_upload(_zipped(folder), "scan.zip")
    with pytest.raises(CrossfuseError, match="not a readable ZIP"):
        read_upload(b"PK\x03\x04 garbage", "scan.zip")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CrossfuseError, match="neither"):
        read_path(empty)
    with pytest.raises(CrossfuseError, match="no file"):
        read_path(tmp_path / "absent.ply")


def test_an_archive_cannot_unpack_to_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.xyz", b"0 0 0\n" * 100_000)
    monkeypatch.setattr("crossfuse.data.point_clouds.datasets.MOST_BYTES", 100_000)
    with pytest.raises(CrossfuseError, match="unpacks to more than"):
        read_upload(buffer.getvalue(), "bomb.zip")


def test_labels_get_a_meaning(cloud) -> None:
    raw = read_cloud(_ply(*cloud, "ascii"), "a.ply")  # labels 0, 1, 2 without names
    assert with_meaning(raw).label_names == ()
    for meaning, wanted in (("crossfuse", [0, 1, 2]), ("nyu40", [-1, 0, 1]), ("s3dis", [2, 1, 0])):
        got = with_meaning(raw, meaning)
        assert got.labels is not None
        assert got.labels[:3].tolist() == wanted
        assert with_meaning(got) is got
    named = _ply(*cloud, "ascii").replace(
        b"made by a test", b"classes: 0 sofa, 1 bookcase, 2 thing"
    )
    got = with_meaning(read_cloud(named, "a.ply"))
    assert got.labels is not None
    assert [got.label_names[i] for i in got.labels[:2]] == ["sofa", "bookshelf"]
    assert got.labels[2] == -1
    with pytest.raises(CrossfuseError, match="cannot mean"):
        with_meaning(raw, "klingon")


def test_a_coarse_mesh_is_sampled_and_a_dense_one_gives_its_vertices() -> None:
    import trimesh

    box = trimesh.creation.box((2, 1, 3)).export(file_type="ply")
    got = read_cloud(box, "box.ply")
    assert len(got) >= 20_000
    assert any("sampled" in note for note in got.notes)
    ball = trimesh.creation.icosphere(subdivisions=6).export(file_type="ply")
    got = read_cloud(ball, "ball.ply")
    assert len(got) == 40_962
    assert any("vertices were taken" in note for note in got.notes)


def test_columns_after_the_position(cloud) -> None:
    xyz, rgb = cloud
    normals = np.random.default_rng(1).normal(size=xyz.shape)
    intensity = np.full((len(xyz), 1), -500)

    def text(*columns: np.ndarray) -> bytes:
        rows = np.hstack([xyz, *columns])
        return "\n".join(" ".join(f"{v:.5f}" for v in row) for row in rows).encode()

    scanner = f"{len(xyz)}\n".encode() + text(intensity, rgb)
    for name, data in (("a.pts", scanner), ("a.xyz", text(normals, rgb)), ("a.txt", text(rgb))):
        got = read_cloud(data, name)
        np.testing.assert_allclose(got.colours, rgb / 255, atol=1e-4, err_msg=name)
        assert got.labels is None
    assert read_cloud(text(normals), "a.xyz").colours is None


def test_a_depth_camera_frame_has_y_downwards() -> None:
    rng = np.random.default_rng(0)
    z = rng.uniform(1, 4, 3000)
    seen = np.column_stack([*(rng.uniform(-0.5, 0.5, (2, 3000)) * z), z])
    assert guess_up(seen - seen.mean(0), seen.mean(0)) == "-y"
    assert guess_up(seen - seen.mean(0), np.zeros(3)) == "z"


def test_laz_without_its_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import laspy

    las = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
    las.x, las.y, las.z = np.random.default_rng(0).uniform(0, 3, (3, 200))
    buffer = io.BytesIO()
    las.write(buffer, do_compress=True)
    monkeypatch.setattr(laspy.LazBackend, "detect_available", classmethod(lambda cls: ()))
    with pytest.raises(CrossfuseError, match="pip install lazrs"):
        read_cloud(buffer.getvalue(), "a.laz")
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(CrossfuseError, match="pip install laspy"):
        read_cloud(buffer.getvalue(), "a.las")


def test_damaged_files_of_every_format_raise_nothing_but_our_error(cloud, tmp_path: Path) -> None:
    import trimesh

    xyz, rgb = cloud[0][:80], cloud[1][:80]
    text = "\n".join(" ".join(f"{v:.3f}" for v in row) for row in np.hstack([xyz, rgb])).encode()
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, xyz)
    np.savez(npz, xyz=xyz, rgb=rgb)
    files = {"a.xyz": text, "a.pts": text, "a.npy": npy.getvalue(), "a.npz": npz.getvalue()}
    for kind in ("ascii", "binary_little_endian"):
        files[f"{kind}.ply"] = _ply(xyz, rgb, kind)
    for kind in ("binary", "binary_compressed"):
        files[f"{kind}.pcd"] = _pcd(xyz, rgb, kind)
    ball = trimesh.creation.icosphere(subdivisions=1)
    for ending in ("obj", "glb", "stl", "off", "ply"):
        data = ball.export(file_type=ending)
        files[f"ball.{ending}"] = data if isinstance(data, bytes) else data.encode()
    (tmp_path / "room.ply").write_bytes(files["ascii.ply"])
    files["room.zip"] = _zipped(tmp_path)
    rng = np.random.default_rng(0)
    for name, whole in files.items():
        for turn in range(12):
            damaged = bytearray(whole)
            if turn % 3 == 0:
                del damaged[rng.integers(len(whole)) :]
            else:
                among = min(len(whole), 300) if turn % 3 == 1 else len(whole)
                for place in rng.integers(among, size=4):
                    damaged[place] = rng.integers(256)
            with np.errstate(all="ignore"), contextlib.suppress(CrossfuseError):
                settle(read_upload(bytes(damaged), name)[0])


def test_a_damaged_laz_ends_in_a_sentence_not_in_the_end_of_the_app() -> None:
    import laspy

    las = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
    las.x, las.y, las.z = np.random.default_rng(0).uniform(0, 3, (3, 200))
    buffer = io.BytesIO()
    las.write(buffer, do_compress=True)
    data = bytearray(buffer.getvalue())
    start = struct.unpack_from("<I", data, 96)[0]  # of the points; first the place of the table
    table = struct.unpack_from("<q", data, start)[0]
    struct.pack_into("<I", data, table + 4, 2**32 - 1)  # as many chunks: 64 GB of table
    with pytest.raises(CrossfuseError, match="cannot be unpacked"):
        read_cloud(bytes(data), "a.laz")


def test_precision_is_kept_far_from_zero(cloud) -> None:
    xyz = cloud[0].astype(np.float64) + np.array([1e6, 4.5e6, 300])
    buffer = io.BytesIO()
    np.save(buffer, xyz)
    got = read_cloud(buffer.getvalue(), "far.npy")
    assert got.origin is not None
    np.testing.assert_allclose(got.positions.astype(np.float64) + got.origin, xyz, atol=1e-6)
    assert any("centred" in note for note in got.notes)


def test_no_colours_is_not_an_error_and_too_many_bytes_is(
    cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    np.save(buffer, cloud[0])
    assert read_cloud(buffer.getvalue(), "a.npy").colours is None
    monkeypatch.setattr("crossfuse.data.point_clouds.read.MOST_BYTES", 1 << 10)
    with pytest.raises(CrossfuseError, match="at most 0 MB"):
        read_cloud(buffer.getvalue(), "a.npy")

"""The two public layouts that users bring: ScanNet v2 scenes and S3DIS rooms.

Both data sets come with terms of use and are not part of this project; only their layout is known
here. Labels are mapped to the classes of CrossFuse Rooms where there is one, else to "none".
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossfuse.data.point_clouds.cloud import MOST_BYTES, PointCloud, make_cloud
from crossfuse.data.point_clouds.ply_pcd import read_ply
from crossfuse.data.point_clouds.read import read_cloud
from crossfuse.data.rooms.catalogue import CLASSES
from crossfuse.errors import CrossfuseError

# NYU40 ids that ScanNet's benchmark keeps -> class here; the others have no counterpart.
NYU40 = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door",
    9: "window", 10: "bookshelf", 14: "desk", 22: "ceiling", 24: "refrigerator", 25: "tv_monitor",
    33: "toilet", 34: "sink", 35: "lamp",
}  # fmt: skip
S3DIS = {
    "ceiling": "ceiling", "floor": "floor", "wall": "wall", "window": "window", "door": "door",
    "table": "table", "chair": "chair", "sofa": "sofa", "bookcase": "bookshelf",
}  # fmt: skip
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png")


def is_scannet(folder: Path) -> bool:
    return any(folder.glob("*_vh_clean_2.ply"))


def is_s3dis(folder: Path) -> bool:
    return (folder / "Annotations").is_dir()


def read_folder(folder: Path) -> tuple[PointCloud, list[Path]]:
    """A ScanNet scene folder or an S3DIS room folder: the cloud and its photographs.

    Raises:
        CrossfuseError: neither layout.
    """
    folder = Path(folder)
    if is_scannet(folder):
        return read_scannet(folder)
    if is_s3dis(folder):
        return read_s3dis(folder), []
    raise CrossfuseError(
        f"{folder} is neither a ScanNet scene (*_vh_clean_2.ply) nor an S3DIS room (Annotations/)."
    )


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > 2 * MOST_BYTES:
        raise CrossfuseError(f"{path} has {path.stat().st_size >> 20} MB, which is too much.")
    return path.read_bytes()


def read_scannet(folder: Path) -> tuple[PointCloud, list[Path]]:
    """``*_vh_clean_2.ply`` with its labels and axis alignment, and the frames in ``color/``."""
    scan = sorted(folder.glob("*_vh_clean_2.ply"))[0]
    cloud = read_ply(_bytes(scan), scan.name)
    labelled = scan.with_name(scan.name.replace(".ply", ".labels.ply"))
    if labelled.is_file():
        ids = read_ply(_bytes(labelled), labelled.name).labels
        if ids is None or len(ids) != len(cloud):
            raise CrossfuseError(f"{labelled.name} does not label the vertices of {scan.name}.")
        table = np.full(int(max(ids.max(), 41)) + 1, -1)
        for nyu, name in NYU40.items():
            table[nyu] = CLASSES.index(name)
        labels = np.where(ids < 0, -1, table[ids])
        cloud = replace(cloud, labels=labels, label_names=tuple(CLASSES))
    facts = scan.with_name(scan.name.replace("_vh_clean_2.ply", ".txt"))
    if facts.is_file():
        cloud = _aligned(cloud, facts)
    frames = [p for p in sorted(folder.glob("**/color/*")) if p.suffix.lower() in PHOTO_ENDINGS]
    return replace(cloud, unit="metres", up="z"), frames


def _aligned(cloud: PointCloud, facts: Path) -> PointCloud:
    for line in facts.read_text(encoding="latin-1").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "axisAlignment":
            numbers = [float(v) for v in value.split()]
            if len(numbers) != 16:
                raise CrossfuseError(f"{facts.name}: axisAlignment needs 16 numbers.")
            turn = np.array(numbers, np.float32).reshape(4, 4)[:3, :3]
            return replace(cloud, positions=cloud.positions @ turn.T)
    return cloud


def read_s3dis(folder: Path) -> PointCloud:
    """All objects of ``Annotations/<class>_<n>.txt``: x y z r g b a line, damaged lines skipped."""
    positions, colours, labels = [], [], []
    for path in sorted((folder / "Annotations").glob("*_*.txt")):
        part = read_cloud_text(path)
        name = S3DIS.get(path.name.split("_")[0].lower())
        positions.append(part[:, :3])
        colours.append(part[:, 3:6])
        labels.append(np.full(len(part), CLASSES.index(name) if name else -1))
    if not positions:
        raise CrossfuseError(f"{folder / 'Annotations'} holds no <class>_<n>.txt.")
    return make_cloud(
        np.concatenate(positions),
        np.concatenate(colours) / 255,
        np.concatenate(labels),
        what=folder.name,
        label_names=tuple(CLASSES),
        unit="metres",
        up="z",
    )


def read_cloud_text(path: Path) -> np.ndarray:
    """Rows (N, 6) of one S3DIS object; lines that are not six numbers are skipped."""
    import pandas as pd

    table = pd.read_csv(
        path, sep=r"\s+", header=None, on_bad_lines="skip", encoding="latin-1", dtype=str
    )
    if table.shape[1] < 6:
        raise CrossfuseError(f"{path.name}: a line needs x y z r g b; found {table.shape[1]}.")
    values = table.iloc[:, :6].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    return values[np.isfinite(values).all(axis=1)]


def read_path(path: Path) -> tuple[PointCloud, list[Path]]:
    """A cloud file, a room folder of CrossFuse Rooms, or a data-set folder; with its photographs.

    Raises:
        CrossfuseError: nothing there that can be read.
    """
    path = Path(path)
    if (path / "points.npz").is_file() and (path / "room.json").is_file():
        with np.load(path / "points.npz") as file:
            labels = file["labels"].astype(np.int64)
            cloud = make_cloud(
                file["positions"],
                file["colours"],
                np.where(labels < len(CLASSES), labels, -1),
                what=path.name,
                label_names=tuple(CLASSES),
                unit="metres",
                up="z",
            )
        json.loads((path / "room.json").read_text())
        return cloud, sorted((path / "photos").glob("*.jpg"))
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise CrossfuseError(f"There is no file or folder {str(path)!r}.")
    return read_cloud(_bytes(path), path.name), []

"""Labelled scenes of others as scans to measure MIT on: ScanNet, S3DIS, any cloud with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossfuse.data.images import read_image
from crossfuse.data.point_clouds import PointCloud, read_path, settle
from crossfuse.data.point_scene import prepare
from crossfuse.data.point_views import views_of_cloud
from crossfuse.data.rooms import CLASSES
from crossfuse.data.rooms.compose import tags_of
from crossfuse.errors import CrossfuseError
from crossfuse.training.mit_data import Scan

MOST_PHOTOS = 16
GREY = 0.6


def load_scenes(folder: Path) -> list[tuple[Scan, list[np.ndarray]]]:
    """Every labelled scene in ``folder`` (or ``folder`` itself), and its photographs.

    A scene is a ScanNet scene folder, an S3DIS room, a CrossFuse room, or a cloud file with labels.
    Labels that have no class here count as unlabelled. Scenes without photographs get pictures
    drawn from their points, as uploads do.

    Raises:
        CrossfuseError: no labelled scene there.
    """
    scans, why = [], ""
    for path in [folder, *sorted(folder.iterdir())]:
        try:
            cloud, files = read_path(path)
        except CrossfuseError as error:
            why = why or str(error)
            continue
        if cloud.labels is None:
            continue
        chosen = np.linspace(0, len(files) - 1, min(len(files), MOST_PHOTOS)).round().astype(int)
        photos = [read_image(files[i].read()).pixels for i in chosen]
        scans.append(scene_scan(path.name, settle(cloud), photos))
        if path == folder:
            break
    if not scans:
        raise CrossfuseError(f"No labelled scene in {folder}. {why}")
    return scans


def scene_scan(
    name: str, cloud: PointCloud, photos: list[np.ndarray]
) -> tuple[Scan, list[np.ndarray]]:
    """A settled, labelled cloud as a scan; pictures are drawn where there are no photographs."""
    assert cloud.labels is not None
    colours = cloud.colours
    if colours is None:
        colours = np.full((len(cloud), 3), GREY, np.float32)
    scene = prepare(cloud.positions, colours)
    known = [CLASSES.index(n) if n in CLASSES else len(CLASSES) for n in cloud.label_names]
    labels = np.array([*known, len(CLASSES)])[cloud.labels]  # -1, unlabelled, is the last
    histogram = np.zeros((scene.segments, len(CLASSES) + 1), np.int64)
    np.add.at(histogram, (scene.segment_of_point, labels), 1)
    if not photos:
        photos = views_of_cloud(scene.voxels.centre, scene.voxels.colour, scene.voxels.size)
    flags = np.zeros(len(CLASSES), bool)
    flags[tags_of(labels)] = True
    every = np.arange(scene.segments)
    scan = Scan(
        name, scene.places, scene.features, scene.segment, flags, histogram, True, every
    )  # fmt: skip
    return scan, photos

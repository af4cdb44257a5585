"""The sample rooms that ship with the project, composed from CC0 furniture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from crossfuse.data.point_clouds.cloud import PointCloud, make_cloud
from crossfuse.data.rooms.catalogue import CLASSES
from crossfuse.errors import CrossfuseError

ROOMS = Path(__file__).resolve().parents[2] / "assets" / "samples" / "rooms"


def sample_names(folder: Path = ROOMS) -> tuple[str, ...]:
    """The names of the sample rooms, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/room.json")))


def sample_facts(name: str, folder: Path = ROOMS) -> dict:
    """What the room's file says: tags, size, the meshes used and their authors.

    Raises:
        CrossfuseError: no such sample room.
    """
    if name not in sample_names(folder):
        have = ", ".join(sample_names(folder)) or "none"
        raise CrossfuseError(
            "There is no sample room {name!r}; there are: {have}.", name=name, have=have
        )
    facts: dict = json.loads((folder / name / "room.json").read_text(encoding="utf-8"))
    return facts


def sample_room(name: str, folder: Path = ROOMS) -> tuple[PointCloud, list[bytes]]:
    """The cloud and the photographs (files' contents) of a sample room.

    Raises:
        CrossfuseError: no such sample room.
    """
    sample_facts(name, folder)
    with np.load(folder / name / "points.npz", allow_pickle=False) as file:
        labels = file["labels"].astype(np.int64)
        cloud = make_cloud(
            file["millimetres"].astype(np.float64) / 1000,
            file["colours"].astype(np.float32) / np.float32(255),
            np.where(labels < len(CLASSES), labels, -1),
            what=name,
            label_names=tuple(CLASSES),
            unit="metres",
            up="z",
        )
    photos = [path.read_bytes() for path in sorted((folder / name / "photos").glob("*.jpg"))]
    return cloud, photos

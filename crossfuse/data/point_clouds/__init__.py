"""Readers of point clouds that people bring, and what makes an unknown one fit."""

from __future__ import annotations

from crossfuse.data.point_clouds.cloud import (
    AXES,
    UNITS,
    PointCloud,
    guess_unit,
    guess_up,
    make_cloud,
    settle,
    thinned,
)
from crossfuse.data.point_clouds.datasets import (
    PHOTO_ENDINGS,
    PhotoFile,
    read_folder,
    read_path,
    read_upload,
)
from crossfuse.data.point_clouds.labels import MEANINGS, with_meaning
from crossfuse.data.point_clouds.read import READERS, read_cloud

__all__ = [
    "AXES",
    "MEANINGS",
    "PHOTO_ENDINGS",
    "READERS",
    "UNITS",
    "PhotoFile",
    "PointCloud",
    "guess_unit",
    "guess_up",
    "make_cloud",
    "read_cloud",
    "read_folder",
    "read_path",
    "read_upload",
    "settle",
    "thinned",
    "with_meaning",
]

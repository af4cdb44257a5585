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
from crossfuse.data.point_clouds.datasets import read_folder, read_path
from crossfuse.data.point_clouds.read import READERS, read_cloud

__all__ = [
    "AXES",
    "READERS",
    "UNITS",
    "PointCloud",
    "guess_unit",
    "guess_up",
    "make_cloud",
    "read_cloud",
    "read_folder",
    "read_path",
    "settle",
    "thinned",
]

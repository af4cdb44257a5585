"""LAS and LAZ by laspy; compressed files are unpacked in a process of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from crossfuse.data.point_clouds.cloud import MOST_POINTS, PointCloud, make_cloud
from crossfuse.errors import CrossfuseError

UNPACK = Path(__file__).with_name("unpack_laz.py")
PATIENCE = 120  # seconds


def read_las(data: bytes, what: str) -> PointCloud:
    """Points and, where the format has them and they are not all zero, colours.

    Raises:
        CrossfuseError: laspy or its decoder is missing, too many points, or not readable.
    """
    try:
        import laspy
    except ModuleNotFoundError as error:
        raise CrossfuseError(
            "Reading LAS needs the package laspy: pip install laspy[lazrs]"
        ) from error
    try:
        las = _points(laspy, data, what)
    except CrossfuseError:
        raise
    except Exception as error:  # laspy lets struct and decoder errors of many types through
        raise CrossfuseError(
            "{what} is not a readable LAS file ({error}).", what=what, error=error
        ) from error
    positions = np.stack([np.asarray(las.x), np.asarray(las.y), np.asarray(las.z)], 1)
    colours = None
    if {"red", "green", "blue"} <= set(las.point_format.dimension_names):
        colours = np.stack([np.asarray(las[c]) for c in ("red", "green", "blue")], 1)
        colours = colours.astype(np.float32)
        if not colours.any():
            colours = None
    return make_cloud(positions, colours, what=what, unit="metres", up="z")


def _points(laspy: Any, data: bytes, what: str) -> Any:
    with laspy.open(io.BytesIO(data)) as reader:
        count = reader.header.point_count
        if count > MOST_POINTS:
            raise CrossfuseError(
                "{what} announces {count:,} points; at most {most_points:,} are read.",
                what=what,
                count=count,
                most_points=MOST_POINTS,
            )
        if not reader.header.are_points_compressed:
            return reader.read()
    if not laspy.LazBackend.detect_available():
        raise CrossfuseError(
            "{what} is compressed (LAZ); reading it needs a decoder: pip install lazrs",
            what=what,
        )
    return laspy.read(io.BytesIO(_unpacked(data, what)))


def _unpacked(data: bytes, what: str) -> bytes:
    try:
        done = subprocess.run(
            [sys.executable, str(UNPACK)],
            input=data,
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CrossfuseError(
            "{what} takes more than {seconds} seconds to unpack; thin it.",
            what=what,
            seconds=PATIENCE,
        ) from error
    if done.returncode:
        raise CrossfuseError("{what} is damaged: its points cannot be unpacked.", what=what)
    return done.stdout

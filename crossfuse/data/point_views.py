"""Pictures of a point cloud that came without photographs, drawn from its own points."""

from __future__ import annotations

import numpy as np

from crossfuse.data.rooms.render import Camera

SIZE = (192, 144)
GROUND = 190  # grey where nothing is


def views_of_cloud(positions: np.ndarray, colours: np.ndarray, spacing: float) -> list[np.ndarray]:
    """Twelve pictures (144, 192, 3) uint8: eight from the middle outwards, four from the corners.

    Args:
        positions: (N, 3) metres, z up; colours: (N, 3) in 0..1.
        spacing: distance of neighbouring points in metres; each point is drawn as such a square.
    """
    return [painted(index, colours) for index in view_indices(positions, spacing)]


def painted(index: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) uint8 of point indices (H, W), grey where there is none (-1)."""
    shown = np.full((len(colours) + 1, 3), GROUND, np.uint8)
    shown[:-1] = np.clip(colours, 0, 1) * 255
    return shown[index]


def view_indices(positions: np.ndarray, spacing: float) -> list[np.ndarray]:
    """Which point each pixel of :func:`views_of_cloud` shows: (144, 192) int64 each, -1 = none."""
    low, high = np.percentile(positions, [1, 99], axis=0)
    centre, extent = (low + high) / 2, np.maximum(high - low, 0.3)
    height = low[2] + min(1.5, 0.6 * extent[2])
    middle = np.array([centre[0], centre[1], height])
    cameras = []
    for turn in range(8):
        angle = turn * np.pi / 4
        target = middle + np.array([np.cos(angle), np.sin(angle), -0.15])
        cameras.append(Camera.looking(middle, target, 75, *SIZE))
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        eye = centre + np.array([x, y, 0]) * extent * 0.42
        eye[2] = height + 0.1 * extent[2]
        cameras.append(Camera.looking(eye, middle - [0, 0, 0.3 * extent[2]], 75, *SIZE))
    return [splat(camera, positions, spacing) for camera in cameras]


def splat(camera: Camera, positions: np.ndarray, spacing: float) -> np.ndarray:
    """Draw points as squares, the nearest on top: their indices (h, w) int64, -1 where none is."""
    pixels, depth = camera.project(positions)
    front = np.flatnonzero(depth > 0.15)
    front = front[np.argsort(-depth[front], kind="stable")]  # far to near: the last one stays
    column, row = np.floor(pixels[front]).astype(np.int64).T
    side = np.clip(np.ceil(1.3 * camera.focal * spacing / depth[front]), 1, 9).astype(np.int64)
    image = np.full((camera.height, camera.width), -1, np.int64)
    # One slice of depth at a time keeps far squares under near ones, whatever their size.
    for part in np.array_split(np.arange(len(front)), 24):
        if not len(part):
            continue
        widest = int(side[part].max())
        for dy in range(-(widest // 2), widest - widest // 2):
            for dx in range(-(widest // 2), widest - widest // 2):
                reach = max(2 * abs(dx), 2 * abs(dy))
                use = part[side[part] > reach - 1]
                x, y = column[use] + dx, row[use] + dy
                inside = (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
                image[y[inside], x[inside]] = front[use[inside]]
    return image

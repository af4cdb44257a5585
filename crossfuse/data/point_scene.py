"""A point cloud made ready for the 3-D encoder: voxels, their features, and supervoxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfuse.data.supervoxels import Voxels, neighbour_lists, supervoxels, surface, voxelize

VOXEL = 0.05  # metres, as in the paper's first stage
MOST_VOXELS = 150_000
NEIGHBOURS = 16


@dataclass(frozen=True)
class PointScene:
    """V voxels in M supervoxels.

    ``voxels`` the voxel grid; ``features`` (V, 7) float32: red, green, blue in -0.5..0.5, height
    over the floor in metres, |z| of the normal, flatness, linearity; ``places`` (V, 3) metres,
    centred in x and y, floor at z = 0; ``segment`` (V,) int64; ``segment_of_point`` (N,);
    ``centroids`` (M, 3) metres in the frame of the cloud; ``counts`` (M,) points.
    """

    voxels: Voxels
    features: np.ndarray
    places: np.ndarray
    segment: np.ndarray
    segment_of_point: np.ndarray
    centroids: np.ndarray
    counts: np.ndarray

    @property
    def segments(self) -> int:
        return len(self.counts)


def prepare(
    positions: np.ndarray, colours: np.ndarray, *, voxel: float = VOXEL, most_segments: int = 500
) -> PointScene:
    """Voxels, features and supervoxels of a cloud.

    Args:
        positions: (N, 3) metres, z up, finite.
        colours: (N, 3) in 0..1.
        voxel: edge in metres; made larger until at most ``MOST_VOXELS`` are left.

    Raises:
        CrossfuseError: an empty cloud or one that spans an absurd distance.
    """
    voxels = voxelize(positions, colours, voxel)
    while len(voxels) > MOST_VOXELS:
        voxel *= 1.25
        voxels = voxelize(positions, colours, voxel)
    near = neighbour_lists(voxels.centre, NEIGHBOURS)
    pieces = supervoxels(voxels, k=0.05, colour_weight=1.0, most=most_segments, near=near)
    features, places = voxel_features(voxels, near[0])
    counts = np.bincount(pieces.of_point, minlength=pieces.count)
    weight = voxels.count.astype(np.float64)
    size = np.bincount(pieces.of_voxel, weight, pieces.count)
    centroids = np.stack(
        [
            np.bincount(pieces.of_voxel, weight * voxels.centre[:, axis], pieces.count) / size
            for axis in range(3)
        ],
        axis=1,
    )
    return PointScene(
        voxels,
        features,
        places,
        pieces.of_voxel.astype(np.int64),
        pieces.of_point.astype(np.int32),
        centroids.astype(np.float32),
        counts,
    )


def voxel_features(voxels: Voxels, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features (V, 7), places (V, 3)) as :class:`PointScene` describes them.

    ``index`` (V, k): the nearest voxels of each.
    """
    centre = voxels.centre
    normal, flat, line = surface(centre, index)
    floor = float(np.percentile(centre[:, 2], 0.5))
    height = centre[:, 2] - floor
    features = np.concatenate(
        [
            voxels.colour - 0.5,
            np.stack([height, np.abs(normal[:, 2]), flat, line], axis=1),
        ],
        axis=1,
    ).astype(np.float32)
    middle = (centre[:, :2].max(axis=0) + centre[:, :2].min(axis=0)) / 2
    places = np.column_stack([centre[:, :2] - middle, height]).astype(np.float32)
    return features, places

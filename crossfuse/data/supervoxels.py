"""Supervoxels: a point cloud cut into a few hundred pieces that follow its surfaces.

Graph-based segmentation (Felzenszwalb and Huttenlocher, IJCV 59, 2004) on the nearest-neighbour
graph of a voxel grid. The weight of an edge is how much normals and colours differ; two pieces are
joined when the weight is at most *internal difference + k / size* of both. Only edges of the
minimum spanning tree can ever join two pieces, so the loop runs over N - 1 edges, not N * k.
Everything is deterministic, and the order of the points does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from crossfuse.errors import CrossfuseError


@dataclass(frozen=True)
class Voxels:
    """Points gathered in cubes. ``cell`` (V, 3) int32 indices, sorted; ``of_point`` (N,) int64.

    ``centre`` (V, 3) mean position in metres, ``colour`` (V, 3) mean colour, ``count`` (V,).
    """

    size: float
    cell: np.ndarray
    centre: np.ndarray
    colour: np.ndarray
    count: np.ndarray
    of_point: np.ndarray

    def __len__(self) -> int:
        return len(self.cell)


@dataclass(frozen=True)
class Supervoxels:
    """A partition of voxels. ``of_voxel`` (V,) and ``of_point`` (N,) give the piece, 0..M-1."""

    of_voxel: np.ndarray
    of_point: np.ndarray
    count: int


def voxelize(positions: np.ndarray, colours: np.ndarray, size: float) -> Voxels:
    """Mean position and colour per cube of ``size`` metres.

    Args:
        positions: (N, 3) metres, finite.
        colours: (N, 3) in 0..1.
        size: edge of a cube in metres.

    Raises:
        CrossfuseError: no points, or an extent of more than two million cubes along an axis.
    """
    if len(positions) == 0:
        raise CrossfuseError("The point cloud is empty; there is nothing to voxelise.")
    cell = np.floor(positions.astype(np.float64) / size)
    cell -= cell.min(axis=0)
    if cell.max() >= 1 << 21:
        raise CrossfuseError(
            "The cloud spans {cell:.0f} m, too far for {size:g} m voxels; crop it or check "
            "its unit.",
            cell=cell.max() * size,
            size=size,
        )
    cell = cell.astype(np.int64)
    key = (cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2]
    unique, of_point, count = np.unique(key, return_inverse=True, return_counts=True)
    mask = (1 << 21) - 1
    grid = np.stack([unique >> 42, (unique >> 21) & mask, unique & mask], axis=1)

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [np.bincount(of_point, values[:, i], len(unique)) / count for i in range(3)]
        return np.stack(columns, axis=1).astype(np.float32)

    return Voxels(size, grid.astype(np.int32), mean(positions), mean(colours), count, of_point)


def surface(
    centre: np.ndarray, neighbours: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normals (V, 3), z never negative, flatness (V,) and linearity (V,) of the neighbourhood
    that a voxel and its neighbours (V, k) are.

    With eigenvalues a <= b <= c of its covariance, flatness is 1 - 3 a / (a + b + c): 1 on a plane,
    0 in a ball; linearity is (c - b) / c: 1 on a line, 0 on a disc.
    """
    around = np.empty((len(centre), neighbours.shape[1] + 1, 3))
    around[:, 0] = centre
    around[:, 1:] = centre[neighbours]
    around -= around.mean(axis=1, keepdims=True)
    covariance = around.transpose(0, 2, 1) @ around / around.shape[1]
    values, vectors = np.linalg.eigh(covariance)
    normal = vectors[:, :, 0]
    normal *= np.where(normal[:, 2:] < 0, -1, 1)
    flat = 1 - 3 * values[:, 0] / np.maximum(values.sum(axis=1), 1e-12)
    line = (values[:, 2] - values[:, 1]) / np.maximum(values[:, 2], 1e-12 / around.shape[1])
    return normal.astype(np.float32), flat.astype(np.float32), line.astype(np.float32)


def neighbour_lists(centre: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest voxels of each (V, k) and their distances; fewer voxels repeat themselves."""
    k = min(k + 1, len(centre))
    distance, index = cKDTree(centre).query(centre, k=k, workers=1)
    if k == 1:
        return index.reshape(-1, 1), distance.reshape(-1, 1)
    return index[:, 1:], distance[:, 1:]


def supervoxels(
    voxels: Voxels,
    *,
    k: float = 0.1,
    smallest: int = 20,
    most: int = 500,
    colour_weight: float = 0.3,
    neighbours: int = 10,
    near: tuple[np.ndarray, np.ndarray] | None = None,
) -> Supervoxels:
    """Cut voxels into at most ``most`` pieces.

    Args:
        k: preference for large pieces (Felzenszwalb's k, here against weights of 0..1).
        smallest: pieces of fewer voxels are joined to the neighbour they differ least from.
        most: upper limit; the smallest pieces are joined until it is met. Separate islands of the
            graph never join, unless there are more of them than ``most``.
        colour_weight: weight of the colour difference beside the normal difference.
        near: what :func:`neighbour_lists` says of ``voxels.centre``, where it is known already;
            the first ``neighbours`` of each list are used.
    """
    if len(voxels) == 1:
        return Supervoxels(np.zeros(1, np.int64), np.zeros(len(voxels.of_point), np.int64), 1)
    index, distance = near if near is not None else neighbour_lists(voxels.centre, neighbours)
    index, distance = index[:, :neighbours], distance[:, :neighbours]
    normal, _, _ = surface(voxels.centre, index)
    start = np.repeat(np.arange(len(index)), index.shape[1])
    end, length = index.ravel(), distance.ravel()
    close = length < 4 * voxels.size
    start, end = start[close], end[close]
    bend = 1 - np.abs(np.einsum("nc,nc->n", normal[start], normal[end]))
    shade = np.abs(voxels.colour[start] - voxels.colour[end]).mean(axis=1)
    weight = bend + colour_weight * shade + 1e-6
    # A symmetric graph, so that the tree does not depend on which end listed the other.
    low, high = np.minimum(start, end), np.maximum(start, end)
    pair = np.unique(low * len(voxels) + high, return_index=True)[1]
    graph = coo_matrix(
        (weight[pair], (low[pair], high[pair])), shape=(len(voxels), len(voxels))
    ).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    order = np.lexsort((tree.col, tree.row, tree.data))
    of_voxel = _join(tree.row[order], tree.col[order], tree.data[order], len(voxels), k, smallest)
    of_voxel = _limit(of_voxel, graph, voxels.centre, most)
    return Supervoxels(of_voxel, of_voxel[voxels.of_point], int(of_voxel.max()) + 1)


def _join(
    start: np.ndarray, end: np.ndarray, weight: np.ndarray, count: int, k: float, smallest: int
) -> np.ndarray:
    parent = list(range(count))
    size = [1] * count
    threshold = [k] * count

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    edges = list(zip(start.tolist(), end.tolist(), weight.tolist(), strict=True))
    apart = []
    for a, b, w in edges:
        a, b = find(a), find(b)
        if w <= threshold[a] and w <= threshold[b]:
            parent[b] = a
            size[a] += size[b]
            threshold[a] = w + k / size[a]
        else:
            apart.append((a, b))
    for a, b in apart:
        a, b = find(a), find(b)
        if size[a] < smallest or size[b] < smallest:
            parent[b] = a
            size[a] += size[b]
    roots = np.array([find(i) for i in range(count)])
    return np.unique(roots, return_inverse=True)[1]


def _limit(labels: np.ndarray, graph: coo_matrix, centre: np.ndarray, most: int) -> np.ndarray:
    """Join the smallest pieces to their least different neighbours until at most ``most`` are left.

    Pieces without a neighbour in the graph (islands) go to the nearest large piece.
    """
    while (count := int(labels.max()) + 1) > most:
        sizes = np.bincount(labels, minlength=count)
        doomed = np.argsort(sizes, kind="stable")[: max(1, (count - most + 1) // 2)]
        small = np.zeros(count, bool)
        small[doomed] = True
        edges = graph.tocoo()
        a, b = labels[edges.row], labels[edges.col]
        outer = (a != b) & (small[a] | small[b])
        link = np.arange(count)
        if outer.any():
            a, b, w = a[outer], b[outer], edges.data[outer]
            both = np.concatenate([np.stack([a, b, w], 1), np.stack([b, a, w], 1)])
            both = both[small[both[:, 0].astype(int)]]
            both = both[np.lexsort((both[:, 1], both[:, 2], both[:, 0]))]
            first = np.unique(both[:, 0], return_index=True)[1]
            link[both[first, 0].astype(int)] = both[first, 1].astype(int)
        alone = np.flatnonzero(small & (link == np.arange(count)))
        if len(alone):
            middle = np.stack(
                [np.bincount(labels, centre[:, i], count) / sizes for i in range(3)], axis=1
            )
            large = np.flatnonzero(~small)
            link[alone] = large[cKDTree(middle[large]).query(middle[alone])[1]]
        rows = np.arange(count)
        joined = connected_components(
            coo_matrix((np.ones(count), (rows, link)), shape=(count, count)), directed=False
        )[1]
        labels = np.unique(joined[labels], return_inverse=True)[1]
    return labels

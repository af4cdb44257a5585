"""A point cloud in memory, and making an unknown one fit: unit, up axis, bad points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from crossfuse.errors import CrossfuseError

MOST_BYTES = 256 << 20
MOST_POINTS = 6_000_000
ENOUGH = 100_000  # points for a percentile
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
# Rows: where the new x, y, z come from; every matrix is a proper rotation.
AXES = {
    "z": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64),
    "-z": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float64),
    "y": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64),
    "-y": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float64),
    "x": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], np.float64),
    "-x": np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], np.float64),
}


@dataclass(frozen=True)
class PointCloud:
    """``positions`` (N, 3) float32 about ``origin`` (3,) float64; ``colours`` (N, 3) float32 in
    0..1 or None; ``labels`` (N,) int64 (negative = none) or None, meaning ``label_names``.

    ``unit`` / ``up``: what the numbers of the file mean, where known ("auto" = not said by the
    format). ``read_as``: the unit and up axis by which :func:`settle` understood them. ``notes``:
    sentences for the reader about what was found, dropped or assumed.
    """

    positions: np.ndarray
    colours: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    origin: np.ndarray | None = None
    unit: str = "auto"
    up: str = "auto"
    read_as: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)


def make_cloud(
    positions: np.ndarray,
    colours: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    what: str,
    label_names: tuple[str, ...] = (),
    unit: str = "auto",
    up: str = "auto",
    notes: tuple[str, ...] = (),
) -> PointCloud:
    """A cloud from raw columns: bad points dropped, centred in double precision, colours scaled.

    Args:
        positions: (N, 3), any float type, in the file's own unit and axes.
        colours: (N, 3) in 0..1, 0..255 or 0..65535, or None.
        what: the file's name, for messages.

    Raises:
        CrossfuseError: no finite point, fewer than 50, or all in one place.
    """
    said = list(notes)
    positions = np.asarray(positions, np.float64)
    if len(positions) == 0:
        raise CrossfuseError("{what} holds no points.", what=what)
    good = np.isfinite(positions).all(axis=1)
    # A stray point far outside would stretch the view and the voxel grid.
    if good.any():
        some = _some(positions[good])
        middle = np.median(some, axis=0)
        reach = np.percentile(np.abs(some - middle), 98, axis=0).max()
        far = np.abs(positions - middle).max(axis=1) > max(20 * reach, 1e-6)
        bad, stray = int((~good).sum()), int((far & good).sum())
        good &= ~far
        if bad:
            said.append(f"{bad:,} points without a finite position were left out.")
        if stray:
            said.append(f"{stray:,} stray points far outside the rest were left out.")
    if not good.any():
        raise CrossfuseError("{what} has no point with a finite position.", what=what)
    positions = positions[good]
    if len(positions) < 50:
        raise CrossfuseError(
            "{what} holds {positions} usable point(s); at least 50 are needed to see a shape.",
            what=what,
            positions=len(positions),
        )
    if np.ptp(positions, axis=0).max() == 0:
        raise CrossfuseError(
            "All {positions:,} points of {what} are in the same place.",
            positions=len(positions),
            what=what,
        )
    origin = np.round(positions.mean(axis=0), 3)
    if np.abs(origin).max() > 1e4:
        said.append("The coordinates are far from zero; they were centred to keep their precision.")
    if colours is not None:
        colours = _scaled(np.asarray(colours, np.float32)[good])
    return PointCloud(
        (positions - origin).astype(np.float32),
        colours,
        None if labels is None else np.asarray(labels)[good].astype(np.int64),
        label_names,
        origin,
        unit,
        up,
        notes=tuple(said),
    )


def _some(rows: np.ndarray) -> np.ndarray:
    """Evenly spaced rows, enough for percentiles."""
    return rows[:: max(1, len(rows) // ENOUGH)]


def _scaled(colours: np.ndarray) -> np.ndarray | None:
    colours = np.nan_to_num(colours, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(np.percentile(_some(colours), 99.9)) if len(colours) else 0.0
    if top > 255.5:
        colours = colours / np.float32(65535)
    elif top > 1.001:
        colours = colours / np.float32(255)
    return np.clip(colours, 0, 1).astype(np.float32)


def guess_unit(positions: np.ndarray) -> str:
    """The unit in which the cloud's extent is that of rooms: at most 100 m across."""
    low, high = np.percentile(_some(positions), [2, 98], axis=0)
    size = float(np.linalg.norm(high - low))
    if size <= 100:
        return "metres"
    return "centimetres" if size < 1000 else "millimetres"


def guess_up(positions: np.ndarray, origin: np.ndarray | None = None) -> str:
    """z, unless the cloud is clearly flattest along y (rooms are wider than high), or all of it
    lies in a view from the file's zero along z: a depth camera's frame, whose y points down.

    Between y and -y: the denser of the two outermost slices is taken for the floor.

    Args:
        origin: (3,) what to add to ``positions`` to get the numbers of the file.
    """
    positions = _some(positions)
    if origin is not None and _in_view_of_zero(positions + origin):
        return "-y"
    extent = np.percentile(positions, 99, 0) - np.percentile(positions, 1, 0)
    if not (extent[1] < 0.75 * extent[0] and extent[1] < 0.75 * extent[2]):
        return "z"
    y = positions[:, 1]
    low, high = np.percentile(y, [1, 99])
    slab = 0.08 * (high - low)
    return "-y" if (y > high - slab).sum() > 1.5 * (y < low + slab).sum() else "y"


def _in_view_of_zero(positions: np.ndarray) -> bool:
    """Whether a camera at zero that looks along z sees every point, to the left and the right, up
    and down, with a field of at most 84 degrees."""
    x, y, z = positions.T
    if z.min() <= 0:
        return False
    slopes = np.percentile([x / z, y / z], [0.2, 99.8], axis=1)
    return bool(np.abs(slopes).max() < 0.9 and (slopes[0] < 0).all() and (slopes[1] > 0).all())


def settle(cloud: PointCloud, *, unit: str = "auto", up: str = "auto") -> PointCloud:
    """The cloud in metres with z up; says what was assumed.

    Args:
        unit: "auto", "metres", "centimetres" or "millimetres".
        up: "auto" or the axis that points up in the file: z, -z, y, -y, x, -x.

    Raises:
        CrossfuseError: an unknown choice.
    """
    said = list(cloud.notes)
    if unit != "auto" and unit not in UNITS:
        raise CrossfuseError(
            "The unit {unit!r} is not one of auto, {units}.", unit=unit, units=", ".join(UNITS)
        )
    if up != "auto" and up not in AXES:
        raise CrossfuseError(
            "The up axis {up!r} is not one of auto, {axes}.", up=up, axes=", ".join(AXES)
        )
    if unit == "auto":
        unit = cloud.unit
        if unit == "auto":
            unit = guess_unit(cloud.positions)
            said.append(f"Unit taken to be {unit}.")
    if up == "auto":
        up = cloud.up
        if up == "auto":
            up = guess_up(cloud.positions, cloud.origin)
            said.append(f"Up taken to be {up}.")
    turned = cloud.positions @ AXES[up].T.astype(np.float32) * np.float32(UNITS[unit])
    return replace(
        cloud, positions=turned, unit="metres", up="z", read_as=(unit, up), notes=tuple(said)
    )


def thinned(cloud: PointCloud, most: int, seed: int = 0) -> PointCloud:
    """At most ``most`` points, drawn evenly at random with a fixed seed, in the file's order."""
    if len(cloud) <= most:
        return cloud
    chosen = np.sort(np.random.default_rng(seed).choice(len(cloud), most, replace=False))
    note = f"{len(cloud):,} points were thinned to {most:,}."
    return replace(
        cloud,
        positions=cloud.positions[chosen],
        colours=None if cloud.colours is None else cloud.colours[chosen],
        labels=None if cloud.labels is None else cloud.labels[chosen],
        notes=(*cloud.notes, note),
    )

"""Geometries: what the rows or columns of an attention map are, and where they lie.

An attention map is a matrix between two geometries. Each geometry is a small frozen dataclass that
knows how many items it has, a label for each, and the coordinates a drawing needs. Geometries
know nothing of models or of screens, and turn into plain arrays and back (:func:`to_arrays`,
:func:`from_arrays`), so that a trace can be stored without pickling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from crossfuse.errors import CrossfuseError

Array = np.ndarray


def _strings(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _array(values: Any, dtype: Any, columns: int, what: str) -> Array:
    """A finite array of shape (N, columns)."""
    array = np.asarray(values, dtype=dtype)
    if array.ndim != 2 or array.shape[1] != columns:
        raise CrossfuseError(
            "{what} must have shape (N, {columns}); got {shape}.",
            what=what,
            columns=columns,
            shape=array.shape,
        )
    if not np.isfinite(array).all():
        raise CrossfuseError(
            "{what} contains NaN or infinite values; all must be finite.", what=what
        )
    array = array.copy()
    array.setflags(write=False)
    return array


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


class Geometry:
    """Base class: a fixed number of labelled items, each with a place."""

    kind: ClassVar[str]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        """Equal when of the same kind with equal fields (arrays compared by value)."""
        if type(self) is not type(other):
            return NotImplemented
        return all(
            _same(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)  # type: ignore[arg-type]
        )

    __hash__ = object.__hash__


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Array) or isinstance(right, Array):
        return left is not None and right is not None and np.array_equal(left, right)
    return bool(left == right)


@dataclass(frozen=True, eq=False)
class Words(Geometry):
    """Words of a sentence. ``spans``: (N, 2) character range [start, end) of each in ``text``."""

    kind: ClassVar[str] = "words"
    words: tuple[str, ...]
    spans: Array | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", _strings(self.words))
        if self.spans is not None:
            spans = _array(self.spans, np.int32, 2, "Words.spans")
            _expect(len(spans), len(self.words), "Words.spans")
            object.__setattr__(self, "spans", spans)

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.words


@dataclass(frozen=True, eq=False)
class Regions(Geometry):
    """Boxes on a photograph. ``boxes``: (N, 4) as x0, y0, x1, y1 in pixels of the upright photo.

    ``image_size`` is (width, height) in pixels.
    """

    kind: ClassVar[str] = "regions"
    boxes: Array
    image_size: tuple[int, int]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        boxes = _array(self.boxes, np.float32, 4, "Regions.boxes")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "image_size", _pair(self.image_size))
        if self.names is not None:
            object.__setattr__(self, "names", _strings(self.names))
            _expect(len(self.names), len(boxes), "Regions.names")

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names or tuple(f"region {i + 1}" for i in range(len(self.boxes)))


@dataclass(frozen=True, eq=False)
class ImageGrid(Geometry):
    """Cells of a feature map laid over a photograph, in row-major order.

    ``centres``: (rows * columns, 2), x and y of each cell's receptive centre in pixels of the
    upright photo; ``cell``: (width, height) of one cell in pixels; ``image_size``: (width, height);
    ``receptive_field``: side of the square of pixels that a cell has seen, where known.
    """

    kind: ClassVar[str] = "image_grid"
    rows: int
    columns: int
    centres: Array
    cell: tuple[float, float]
    image_size: tuple[int, int]
    receptive_field: float | None = None

    def __post_init__(self) -> None:
        centres = _array(self.centres, np.float32, 2, "ImageGrid.centres")
        _expect(len(centres), self.rows * self.columns, "ImageGrid.centres")
        object.__setattr__(self, "centres", centres)
        object.__setattr__(self, "image_size", _pair(self.image_size))
        object.__setattr__(self, "cell", (float(self.cell[0]), float(self.cell[1])))

    @classmethod
    def regular(cls, rows: int, columns: int, image_size: tuple[int, int]) -> ImageGrid:
        """Cells that tile the photograph evenly."""
        width, height = image_size
        cell = (width / columns, height / rows)
        y, x = np.mgrid[0:rows, 0:columns]
        centres = np.stack([(x.ravel() + 0.5) * cell[0], (y.ravel() + 0.5) * cell[1]], axis=1)
        return cls(rows, columns, centres.astype(np.float32), cell, image_size)

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"row {r + 1}, column {c + 1}" for r, c in np.ndindex(self.rows, self.columns))

    def __len__(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, eq=False)
class ViewStack(Geometry):
    """A set of photographs, one item each. ``sizes``: (N, 2) width and height in pixels."""

    kind: ClassVar[str] = "view_stack"
    names: tuple[str, ...]
    sizes: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _strings(self.names))
        object.__setattr__(self, "sizes", _array(self.sizes, np.int32, 2, "ViewStack.sizes"))
        _expect(len(self.sizes), len(self.names), "ViewStack.sizes")

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names


@dataclass(frozen=True, eq=False)
class Channels(Geometry):
    """EEG sensors. ``positions``: (N, 3) metres in the head frame (x right, y front, z up)."""

    kind: ClassVar[str] = "channels"
    names: tuple[str, ...]
    positions: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _strings(self.names))
        if self.positions is not None:
            positions = np.array(self.positions, dtype=np.float32)
            # A sensor without a known place is a row of NaN; all else must be finite.
            unknown = np.isnan(positions)
            if positions.ndim != 2 or positions.shape[1] != 3 or np.isinf(positions).any():
                raise CrossfuseError("Channels.positions must be finite metres of shape (N, 3).")
            positions[unknown.any(axis=1)] = np.nan
            positions.setflags(write=False)
            object.__setattr__(self, "positions", positions)
            _expect(len(positions), len(self.names), "Channels.positions")

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Channels) or self.names != other.names:
            return False
        if self.positions is None or other.positions is None:
            return self.positions is other.positions
        return np.array_equal(self.positions, other.positions, equal_nan=True)

    __hash__ = object.__hash__


@dataclass(frozen=True, eq=False)
class TimeFrequency(Geometry):
    """Bands x time windows; item ``band * len(times) + window``.

    ``band_edges``: (B, 2) in Hz; ``times``: (T, 2) start and end of each window in seconds.
    """

    kind: ClassVar[str] = "time_frequency"
    bands: tuple[str, ...]
    band_edges: Array
    times: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", _strings(self.bands))
        edges = _array(self.band_edges, np.float32, 2, "TimeFrequency.band_edges")
        _expect(len(edges), len(self.bands), "TimeFrequency.band_edges")
        object.__setattr__(self, "band_edges", edges)
        object.__setattr__(self, "times", _array(self.times, np.float32, 2, "TimeFrequency.times"))

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        windows = [f"{start:g}-{end:g} s" for start, end in self.times]
        return tuple(f"{band}, {window}" for band in self.bands for window in windows)


@dataclass(frozen=True, eq=False)
class PointSegments(Geometry):
    """Supervoxels of a point cloud. ``centroids``: (M, 3) metres; ``counts``: (M,) points."""

    kind: ClassVar[str] = "point_segments"
    centroids: Array
    counts: Array
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        centroids = _array(self.centroids, np.float32, 3, "PointSegments.centroids")
        counts = np.asarray(self.counts, dtype=np.int32).copy()
        counts.setflags(write=False)
        _expect(len(counts), len(centroids), "PointSegments.counts")
        object.__setattr__(self, "centroids", centroids)
        object.__setattr__(self, "counts", counts)
        if self.names is not None:
            object.__setattr__(self, "names", _strings(self.names))
            _expect(len(self.names), len(centroids), "PointSegments.names")

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names or tuple(f"segment {i + 1}" for i in range(len(self.centroids)))


@dataclass(frozen=True, eq=False)
class ClassTokens(Geometry):
    """One learnt token for each class."""

    kind: ClassVar[str] = "class_tokens"
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _strings(self.names))

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names


@dataclass(frozen=True, eq=False)
class Tokens(Geometry):
    """Items that have a name and no place."""

    kind: ClassVar[str] = "tokens"
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _strings(self.names))

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.names


@dataclass(frozen=True, eq=False)
class Joined(Geometry):
    """Several geometries one after the other in one token sequence (regions, then words)."""

    kind: ClassVar[str] = "joined"
    parts: tuple[Geometry, ...]
    part_names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "part_names", _strings(self.part_names))
        _expect(len(self.part_names), len(self.parts), "Joined.part_names")
        if len(set(self.part_names)) != len(self.part_names):
            raise CrossfuseError("Joined.part_names must differ from each other.")

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(label for part in self.parts for label in part.labels)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def span(self, part: str) -> slice:
        """The items of the part of that name, as a slice of the sequence."""
        try:
            index = self.part_names.index(part)
        except ValueError:
            raise CrossfuseError(
                "No part {part!r} in this geometry; it has {part_names}.",
                part=part,
                part_names=", ".join(self.part_names),
            ) from None
        start = sum(len(before) for before in self.parts[:index])
        return slice(start, start + len(self.parts[index]))


KINDS: dict[str, type[Geometry]] = {
    cls.kind: cls
    for cls in (
        Words,
        Regions,
        ImageGrid,
        ViewStack,
        Channels,
        TimeFrequency,
        PointSegments,
        ClassTokens,
        Tokens,
        Joined,
    )
}


def _expect(got: int, wanted: int, what: str) -> None:
    if got != wanted:
        raise CrossfuseError(
            "{what} has {got} entries where {wanted} are needed.", what=what, got=got, wanted=wanted
        )


def to_arrays(geometry: Geometry) -> tuple[dict[str, Any], dict[str, Array]]:
    """Split a geometry into JSON-able metadata and named arrays."""
    meta: dict[str, Any] = {"kind": geometry.kind}
    arrays: dict[str, Array] = {}
    if isinstance(geometry, Joined):
        meta["part_names"] = list(geometry.part_names)
        meta["parts"] = []
        for index, part in enumerate(geometry.parts):
            part_meta, part_arrays = to_arrays(part)
            meta["parts"].append(part_meta)
            arrays |= {f"{index}.{name}": array for name, array in part_arrays.items()}
        return meta, arrays
    for field in fields(geometry):  # type: ignore[arg-type]
        value = getattr(geometry, field.name)
        if isinstance(value, Array):
            arrays[field.name] = value
        elif isinstance(value, tuple):
            meta[field.name] = list(value)
        else:
            meta[field.name] = value
    return meta, arrays


def from_arrays(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Geometry:
    """Rebuild what :func:`to_arrays` split.

    Raises:
        CrossfuseError: an unknown kind, or fields that do not fit the kind.
    """
    kind = meta.get("kind")
    if kind not in KINDS:
        raise CrossfuseError(
            "Unknown geometry kind {kind!r}; known are {kinds}.", kind=kind, kinds=", ".join(KINDS)
        )
    if kind == "joined":
        parts = tuple(
            from_arrays(
                part,
                {
                    name.removeprefix(f"{index}."): array
                    for name, array in arrays.items()
                    if name.startswith(f"{index}.")
                },
            )
            for index, part in enumerate(meta["parts"])
        )
        return Joined(parts, tuple(meta["part_names"]))
    values: dict[str, Any] = {name: value for name, value in meta.items() if name != "kind"}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return KINDS[kind](**values, **arrays)
    except TypeError as error:
        raise CrossfuseError(
            "The fields of a {kind!r} geometry do not fit: {error}.", kind=kind, error=error
        ) from error

"""A trace: the ordered attention maps of one forward pass, with the geometries they lie between.

File format of :meth:`Trace.save` (one ``.npz``, no pickled objects, schema version 1)::

    trace.json               0-d unicode array: {"schema", "model", "meta", "geometries", "maps"}
    geometry/<name>/<field>  arrays of the geometry called <name>
    map/<i>/weights          (heads, rows, columns) float32 or float16
    map/<i>/rows             (rows,) int64, only where a map holds chosen query items
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Geometry, from_arrays, to_arrays
from crossfuse.notices import Notice

SCHEMA = 1
MAX_TRACE_BYTES = 2 << 30


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One map between two geometries.

    ``weights``: (heads, rows, columns); row = the item that asks (query), column = the item that is
    asked (key). ``query`` and ``key`` name geometries of the trace. ``rows``: which query items
    the rows are, where not all are held. ``heads``: a label for each head. ``kind``:
    ``"attention"`` (rows sum to 1), ``"grouped"`` (columns are groups of keys), ``"relevance"``
    (signed or unsigned, of an explainer) or ``"similarity"``.
    """

    stage: str
    layer: int
    direction: str
    query: str
    key: str
    weights: np.ndarray
    rows: np.ndarray | None = None
    heads: tuple[str, ...] = ()
    kind: str = "attention"

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights)
        if weights.dtype not in (np.float32, np.float16):
            weights = weights.astype(np.float32)
        if weights.ndim != 3:
            raise CrossfuseError(
                "A map needs weights of shape (heads, rows, columns); got {shape}.",
                shape=weights.shape,
            )
        object.__setattr__(self, "weights", weights)
        heads = tuple(self.heads) or tuple(f"head {i + 1}" for i in range(len(weights)))
        if len(heads) != len(weights):
            raise CrossfuseError(
                "{heads} head labels were given for {weights} heads.",
                heads=len(heads),
                weights=len(weights),
            )
        object.__setattr__(self, "heads", heads)
        if self.rows is not None:
            rows = np.asarray(self.rows, dtype=np.int64)
            if rows.shape != (weights.shape[1],):
                raise CrossfuseError(
                    "A map with {count} rows cannot be of query items {shape}.",
                    count=weights.shape[1],
                    shape=rows.shape,
                )
            object.__setattr__(self, "rows", rows)

    @property
    def id(self) -> str:
        """Stage, layer and direction in one string, unique within a trace."""
        return f"{self.stage}/{self.layer}/{self.direction}"

    def row(self, item: int, head: int | None = None) -> np.ndarray | None:
        """One query item's weights (columns,), of a head or their mean; None if it is not held."""
        index: int | None = item
        if self.rows is not None:
            found = np.flatnonzero(self.rows == item)
            index = int(found[0]) if len(found) else None
        if index is None:
            return None
        chosen = self.weights[:, index] if head is None else self.weights[head : head + 1, index]
        return chosen.astype(np.float32).mean(axis=0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AttentionMap):
            return NotImplemented
        same_rows = (self.rows is None and other.rows is None) or (
            self.rows is not None
            and other.rows is not None
            and np.array_equal(self.rows, other.rows)
        )
        return (
            same_rows
            and self._labels() == other._labels()
            and self.weights.dtype == other.weights.dtype
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = object.__hash__

    def _labels(self) -> tuple[Any, ...]:
        return (
            self.stage,
            self.layer,
            self.direction,
            self.query,
            self.key,
            self.heads,
            self.kind,
        )


@dataclass(frozen=True)
class Trace:
    """The maps of one forward pass and the geometries they join.

    Raises:
        CrossfuseError: a map names a geometry that is not there, or its shape does not fit it.
    """

    model: str
    geometries: Mapping[str, Geometry]
    maps: tuple[AttentionMap, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", tuple(self.maps))
        object.__setattr__(self, "geometries", dict(self.geometries))
        for name in self.geometries:
            if not name or "/" in name:
                raise CrossfuseError(
                    "A geometry cannot be called {name!r}: no '/' and not empty.", name=name
                )
        seen: set[str] = set()
        for entry in self.maps:
            if entry.id in seen:
                raise CrossfuseError("Two maps of the trace are called {id!r}.", id=entry.id)
            seen.add(entry.id)
            self._check(entry)

    def _check(self, entry: AttentionMap) -> None:
        for name in (entry.query, entry.key):
            if name not in self.geometries:
                raise CrossfuseError(
                    "Map {id!r} names a geometry {name!r} that is absent.", id=entry.id, name=name
                )
        queries, keys = len(self.geometries[entry.query]), len(self.geometries[entry.key])
        _, rows, columns = entry.weights.shape
        if columns != keys or (entry.rows is None and rows != queries):
            raise CrossfuseError(
                "Map {id!r} is {rows} x {columns}; its geometries have {queries} and {keys} items.",
                id=entry.id,
                rows=rows,
                columns=columns,
                queries=queries,
                keys=keys,
            )
        if entry.rows is not None and len(entry.rows):
            low, high = int(entry.rows.min()), int(entry.rows.max())
            if low < 0 or high >= queries:
                raise CrossfuseError(
                    "Map {id!r} holds rows {low} to {high} of {queries} query items.",
                    id=entry.id,
                    low=low,
                    high=high,
                    queries=queries,
                )

    def __iter__(self) -> Iterator[AttentionMap]:
        return iter(self.maps)

    def select(
        self,
        *,
        stage: str | None = None,
        layer: int | None = None,
        direction: str | None = None,
        query: str | None = None,
        key: str | None = None,
        kind: str | None = None,
    ) -> tuple[AttentionMap, ...]:
        """The maps that fit every given criterion, in the order of the forward pass."""
        wanted = {
            "stage": stage,
            "layer": layer,
            "direction": direction,
            "query": query,
            "key": key,
            "kind": kind,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        return tuple(
            entry
            for entry in self.maps
            if all(getattr(entry, name) == value for name, value in given.items())
        )

    def with_maps(self, *maps: AttentionMap, **geometries: Geometry) -> Trace:
        """The same trace with further maps (of an explainer, say) and geometries."""
        return replace(self, maps=self.maps + maps, geometries={**self.geometries, **geometries})

    def save(self, target: str | Path | BinaryIO) -> None:
        """Write one ``.npz`` in the format at the top of this module."""
        arrays: dict[str, np.ndarray] = {}
        geometries: dict[str, Any] = {}
        for name, geometry in self.geometries.items():
            geometries[name], parts = to_arrays(geometry)
            arrays |= {f"geometry/{name}/{part}": array for part, array in parts.items()}
        maps = []
        for index, entry in enumerate(self.maps):
            arrays[f"map/{index}/weights"] = entry.weights
            if entry.rows is not None:
                arrays[f"map/{index}/rows"] = entry.rows
            names = ("stage", "layer", "direction", "query", "key", "kind")
            maps.append({n: getattr(entry, n) for n in names} | {"heads": list(entry.heads)})
        document = {
            "schema": SCHEMA,
            "model": self.model,
            "meta": dict(self.meta),
            "geometries": geometries,
            "maps": maps,
        }
        arrays["trace.json"] = np.array(json.dumps(document, ensure_ascii=False))
        if isinstance(target, str | Path):
            with Path(target).open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        else:
            np.savez_compressed(target, **arrays)  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        """The ``.npz`` as bytes, for a download."""
        buffer = io.BytesIO()
        self.save(buffer)
        return buffer.getvalue()


def load(source: str | Path | BinaryIO) -> Trace:
    """Read a trace that :meth:`Trace.save` wrote. Nothing is unpickled.

    Raises:
        CrossfuseError: not a trace file, an unknown schema, or contents that do not fit together.
    """
    hint = Notice("Use a file that crossfuse saved.")
    try:
        with zipfile.ZipFile(source) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_TRACE_BYTES:
            raise CrossfuseError(
                "The trace holds {size:.1f} GB; the limit is {limit:.1f} GB.",
                size=size / 1e9,
                limit=MAX_TRACE_BYTES / 1e9,
            )
        if not isinstance(source, str | Path):
            source.seek(0)
        with np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise CrossfuseError("There is no file {source!r}.", source=str(source)) from None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        if isinstance(error, CrossfuseError):
            raise
        raise CrossfuseError(
            "This is not a readable trace ({error}). {hint}", error=error, hint=hint
        ) from error
    if "trace.json" not in arrays:
        raise CrossfuseError(
            "This .npz has no 'trace.json' entry, so it is not a trace. {hint}", hint=hint
        )
    try:
        document = json.loads(str(arrays["trace.json"]))
        if document["schema"] != SCHEMA:
            raise CrossfuseError(
                "The trace has schema {found}; this release reads schema {schema}.",
                found=document["schema"],
                schema=SCHEMA,
            )
        geometries = {
            name: from_arrays(
                meta,
                {
                    key.removeprefix(f"geometry/{name}/"): array
                    for key, array in arrays.items()
                    if key.startswith(f"geometry/{name}/")
                },
            )
            for name, meta in document["geometries"].items()
        }
        maps = tuple(
            AttentionMap(
                **{**meta, "heads": tuple(meta["heads"])},
                weights=arrays[f"map/{index}/weights"],
                rows=arrays.get(f"map/{index}/rows"),
            )
            for index, meta in enumerate(document["maps"])
        )
        return Trace(document["model"], geometries, maps, document["meta"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CrossfuseError(
            "The trace is damaged ({error}). {hint}", error=repr(error), hint=hint
        ) from error

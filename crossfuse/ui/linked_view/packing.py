"""Geometries and maps as JSON metadata and flat arrays, the form in which they go to the browser.

Streamlit sends a dict of JSON and one-dimensional arrays without copies on either side; shapes
travel in the metadata. Small views go as one JSON text, because to send a dict or an array
Streamlit imports pandas first, which costs the first visitor more than the rest of the page.
Weights go as float32, or as the bits of float16 where a view is large (relative error below
0.05 %, 2 bytes a weight).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Geometry, Joined, to_arrays
from crossfuse.trace import AttentionMap

HALF_ABOVE = 500_000  # weights in all; more than these go as float16
MAX_BYTES = 96 << 20

INLINE_BYTES = 1 << 20  # arrays of a view that together take no more go inside the JSON
TYPED = {  # JavaScript's typed arrays
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "int32": "Int32Array",
    "float32": "Float32Array",
}

Arrays = dict[str, np.ndarray]


def pack_geometry(geometry: Geometry) -> tuple[dict[str, Any], Arrays]:
    """``{"fields", "count", "shapes", "parts"}`` and the arrays that ``shapes`` names, flat."""
    packed: dict[str, Any] = {"count": len(geometry), "shapes": {}}
    arrays: Arrays = {}
    if isinstance(geometry, Joined):
        packed["fields"] = {"kind": geometry.kind, "part_names": list(geometry.part_names)}
        packed["parts"] = []
        for index, (name, part) in enumerate(zip(geometry.part_names, geometry.parts, strict=True)):
            inner, inner_arrays = pack_geometry(part)
            packed["parts"].append({**inner, "name": name})
            arrays |= {f"{index}.{field}": array for field, array in inner_arrays.items()}
        return packed, arrays
    packed["fields"], fields = to_arrays(geometry)
    packed["shapes"] = {field: list(array.shape) for field, array in fields.items()}
    return packed, {field: np.ascontiguousarray(array).ravel() for field, array in fields.items()}


def pack_maps(maps: Sequence[AttentionMap]) -> tuple[list[dict[str, Any]], Arrays]:
    """One metadata entry a map, and its weights and held rows as flat arrays.

    Raises:
        CrossfuseError: the maps together are larger than a browser should be sent.
    """
    half = sum(entry.weights.size for entry in maps) > HALF_ABOVE
    size = sum(
        entry.weights.size * (2 if half or entry.weights.dtype == np.float16 else 4)
        for entry in maps
    )
    if size > MAX_BYTES:
        raise CrossfuseError(
            "The maps of this view take {size:.0f} MB; a browser is sent at most "
            "{limit:.0f} MB. Fewer heads, layers or rows (rows on demand) would work.",
            size=size / 1e6,
            limit=MAX_BYTES / 1e6,
        )
    packed: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for index, entry in enumerate(maps):
        _, rows, columns = entry.weights.shape
        as_half = half or entry.weights.dtype == np.float16
        weights = np.ascontiguousarray(entry.weights, dtype=np.float16 if as_half else np.float32)
        arrays[f"m/{index}"] = weights.view(np.uint16 if as_half else np.float32).ravel()
        meta = {
            "id": entry.id,
            "stage": entry.stage,
            "layer": int(entry.layer),
            "direction": entry.direction,
            "query": entry.query,
            "key": entry.key,
            "kind": entry.kind,
            "heads": list(entry.heads),
            "rows": rows,
            "columns": columns,
            "half": as_half,
            "signed": _signed(entry),
            "array": f"m/{index}",
            "items": None,
        }
        if entry.rows is not None:
            meta["items"] = f"r/{index}"
            arrays[f"r/{index}"] = entry.rows.astype(np.int32)
        packed.append(meta)
    return packed, arrays


def _signed(entry: AttentionMap) -> bool:
    shares = entry.kind in ("attention", "grouped")
    return not shares and bool((entry.weights < 0).any())


def pack_geometries(geometries: Mapping[str, Geometry]) -> tuple[dict[str, Any], Arrays]:
    """Every geometry under its name; array names are ``g/<geometry>/<field>``."""
    packed: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, geometry in geometries.items():
        packed[name], own = pack_geometry(geometry)
        arrays |= {f"g/{name}/{field}": array for field, array in own.items()}
    return packed, arrays


def payload(meta: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """What the component is given: ``meta`` and the arrays by name, or ``text`` if they are small.

    ``text`` is the JSON of ``{"meta", "inline": {name: [typed array of JavaScript, base64]}}``.
    """
    small = sum(array.nbytes for array in arrays.values()) <= INLINE_BYTES
    if not small or any(array.dtype.name not in TYPED for array in arrays.values()):
        return {"meta": meta, **arrays}
    inline = {
        name: [TYPED[array.dtype.name], base64.b64encode(array.tobytes()).decode("ascii")]
        for name, array in arrays.items()
    }
    return {"text": json.dumps({"meta": meta, "inline": inline})}

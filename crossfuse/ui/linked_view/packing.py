"""Geometries and maps as JSON metadata and flat arrays, the form in which they go to the browser.

A view goes as one JSON text: to send a dict or an array Streamlit imports pandas first, which
costs the first visitor more than the rest of the page. Small arrays stand in it, flat, with their
shapes in the metadata; for large ones it has the address of a file (``files.py``). Weights go
as float32, or as the bits of float16 where a view is large (relative error below 0.05 %, 2 bytes
a weight).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Geometry, Joined, to_arrays
from crossfuse.trace import AttentionMap

HALF_ABOVE = 500_000  # weights in all; more than these go as float16
MAX_BYTES = 96 << 20

FILE_BYTES = 64 << 10  # smaller arrays are not worth a request of their own
INLINE_BYTES = 1 << 20  # maps of a view that together take no more go inside the JSON
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


def payload(
    meta: Mapping[str, Any], arrays: Arrays, address_of: Callable[[np.ndarray, str], str | None]
) -> dict[str, str]:
    """What the component is given: ``{"text": ...}``, the JSON of ``{"meta", "inline", "files"}``.

    ``inline``: {name: [typed array of JavaScript, base64]}; ``files``: {name: [typed array,
    address]}. ``address_of(array, name)`` gives the address of an array's bytes, or None where
    there is no server to fetch them from. What panels draw (pictures, points) mostly stays the
    same while the maps change, so that large arrays of panels are always files; those of maps
    and geometries only where they are too many, because a request more delays them.
    """
    inline: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    changing = sum(array.nbytes for name, array in arrays.items() if not name.startswith("p/"))
    for name, array in arrays.items():
        large = array.nbytes >= FILE_BYTES and (name.startswith("p/") or changing > INLINE_BYTES)
        address = address_of(array, name) if large else None
        if address is not None:
            files[name] = [TYPED[array.dtype.name], address]
        else:
            content = base64.b64encode(array.tobytes()).decode("ascii")
            inline[name] = [TYPED[array.dtype.name], content]
    return {"text": json.dumps({"meta": meta, "inline": inline, "files": files})}

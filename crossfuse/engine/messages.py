"""What crosses the engine's boundary: plain arrays in a request, plain arrays in a result.

Only NumPy arrays, numbers, text, bytes and tuples of these may cross, so that a request can be
hashed by content, kept, replayed, or sent to another process without touching a page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfuse.geometry import to_arrays

if TYPE_CHECKING:
    from crossfuse.trace import Trace

Plain = Any  # ndarray | bool | int | float | str | bytes | None | tuple of these
PLAIN_KINDS = "biufcUS"  # dtype kinds that hold no Python objects


@dataclass(frozen=True, eq=False)
class Request:
    """One question to one model.

    ``model`` names an entry of ``crossfuse.registry``. ``inputs`` holds the data (arrays, encoded
    files as bytes, text), ``options`` the choices. ``user`` and ``page`` say whose turn it is: a
    newer request of the same user and page replaces an older one that still waits; with an empty
    ``page`` nothing is replaced. Neither is part of the content.

    Arrays are kept as read-only copies and lists become tuples, so that nothing that happens
    after submission changes the question. Raises TypeError if a value is not plain.
    """

    model: str
    inputs: Mapping[str, Plain] = field(default_factory=dict)
    options: Mapping[str, Plain] = field(default_factory=dict)
    user: str = "local"
    page: str = ""

    def __post_init__(self) -> None:
        for name in ("inputs", "options"):
            values = getattr(self, name)
            frozen = {key: _frozen(value, f"{name}[{key!r}]") for key, value in values.items()}
            object.__setattr__(self, name, frozen)

    @cached_property
    def digest(self) -> str:
        """Hash of the content (model, inputs, options); not of the user or the page."""
        return content_digest({"model": self.model, "inputs": self.inputs, "options": self.options})

    @cached_property
    def shape(self) -> Hashable:
        """What two requests must share to be run as one batch.

        Equal model and options, inputs of the same names and types, arrays of equal dtype and
        shape. Text and bytes may differ in length: the pipeline pads what it makes of them.
        """
        inputs = tuple((name, _shape(self.inputs[name])) for name in sorted(self.inputs))
        return self.model, content_digest(self.options), inputs


@dataclass(frozen=True, eq=False)
class Result:
    """One answer: the maps, the numbers and texts beside them, and how long each stage took.

    ``outputs`` may also hold lists and dictionaries of plain values. ``notes`` are sentences for
    the reader (what was resized, cut or assumed); ``timings`` are seconds by stage.
    Results are shared between users: treat every array in them as read-only.
    """

    trace: Trace | None = None
    outputs: Mapping[str, Plain] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.outputs.items():
            _require_plain(value, f"outputs[{key!r}]")
        object.__setattr__(self, "notes", tuple(self.notes))

    def seal(self) -> None:
        """Make every array read-only, because many users share one result."""
        _seal(self.outputs)
        for record in () if self.trace is None else self.trace.maps:
            _seal((record.weights, record.rows))

    @cached_property
    def nbytes(self) -> int:
        """Bytes held by the arrays of this result, trace included."""
        total = plain_nbytes(self.outputs)
        if self.trace is not None:
            for record in self.trace.maps:
                total += record.weights.nbytes + (0 if record.rows is None else record.rows.nbytes)
            for geometry in self.trace.geometries.values():
                total += plain_nbytes(to_arrays(geometry)[1])
        return total


def content_digest(value: Plain) -> str:
    """Hexadecimal hash of a plain value (mappings and lists allowed) by type, shape and content."""
    state = hashlib.blake2b(digest_size=20)
    _feed(state, value)
    return state.hexdigest()


def plain_nbytes(value: Plain) -> int:
    """Bytes of the arrays, text and bytes in a plain value."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(plain_nbytes(item) for item in value.values())
    if isinstance(value, tuple | list):
        return sum(plain_nbytes(item) for item in value)
    return 8


def _frozen(value: Plain, where: str) -> Plain:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        _require_plain(value, where)
        # A read-only array that owns its memory cannot change later; anything else is copied.
        if value.flags.writeable or value.base is not None:
            value = value.copy()
            value.flags.writeable = False
        return value
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    raise TypeError(_refusal(value, where))


def _require_plain(value: Plain, where: str) -> None:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in PLAIN_KINDS:
            raise TypeError(
                f"{where} is an array of {value.dtype}; only numbers and text may cross"
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(key, where)
            _require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            _require_plain(item, f"{where}[{i}]")
    elif not (
        value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic)
    ):
        raise TypeError(_refusal(value, where))


def _seal(value: Plain) -> None:
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, Mapping):
        _seal(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            _seal(item)


def _refusal(value: object, where: str) -> str:
    return (
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; only NumPy arrays, "
        "numbers, text, bytes and tuples of these may cross the engine's boundary"
    )


def _feed(state: hashlib.blake2b, value: Plain) -> None:
    # Every item is written as type, length, content, so that no two values share one encoding.
    if isinstance(value, np.ndarray):
        state.update(f"array {value.dtype.str} {value.shape} ".encode())
        state.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Mapping):
        state.update(f"mapping {len(value)} ".encode())
        for key in sorted(value):
            _feed(state, key)
            _feed(state, value[key])
    elif isinstance(value, tuple | list):
        state.update(f"tuple {len(value)} ".encode())
        for item in value:
            _feed(state, item)
    elif isinstance(value, str | bytes):
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        state.update(f"{type(value).__name__} {len(raw)} ".encode())
        state.update(raw)
    elif value is None or isinstance(value, bool | int | float | complex):
        state.update(f"{type(value).__name__} {value!r} ".encode())
    else:
        raise TypeError(_refusal(value, "the value"))


def _shape(value: Plain) -> Hashable:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape
    if isinstance(value, tuple):
        return tuple(_shape(item) for item in value)
    return type(value).__name__

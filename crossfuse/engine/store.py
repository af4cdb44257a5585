"""Models and encoders, loaded once and kept under a memory budget."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class _Entry:
    value: Any
    nbytes: int
    holders: set[int] = field(default_factory=set)


class Store:
    """A thread-safe least-recently-used store of large objects.

    ``budget`` is in bytes; None keeps everything. What somebody holds is never evicted, so the
    budget can be exceeded by what is in use at one moment, and by no more than that.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._building: dict[Hashable, threading.Lock] = {}
        self._lock = threading.RLock()

    def take(self, key: Hashable, build: Callable[[], Any], holder: object) -> Any:
        """The object under ``key``, built if absent, and held until ``release(holder)``.

        Two threads that ask for one absent key build it once. What ``build`` raises passes on.
        """
        with self._lock:
            if (entry := self._held(key, holder)) is not None:
                return entry.value
            gate = self._building.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if (entry := self._held(key, holder)) is not None:
                    return entry.value
            value = build()
            with self._lock:
                self._building.pop(key, None)
                self._entries[key] = _Entry(value, memory_of(value), {id(holder)})
                self._evict()
            return value

    def release(self, holder: object) -> None:
        """End every hold of ``holder``, then evict down to the budget."""
        with self._lock:
            for entry in self._entries.values():
                entry.holders.discard(id(holder))
            self._evict()

    def drop_unused(self) -> int:
        """Evict all that nobody holds, whatever the budget; returns the bytes let go."""
        with self._lock:
            before = self.nbytes
            for key in [key for key, entry in self._entries.items() if not entry.holders]:
                del self._entries[key]
            return before - self.nbytes

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def keys(self) -> tuple[Hashable, ...]:
        """Least recently used first."""
        with self._lock:
            return tuple(self._entries)

    def _held(self, key: Hashable, holder: object) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            entry.holders.add(id(holder))
        return entry

    def _evict(self) -> None:
        if self.budget is None:
            return
        excess = self.nbytes - self.budget
        for key, entry in list(self._entries.items()):
            if excess <= 0:
                return
            if not entry.holders:
                del self._entries[key]
                excess -= entry.nbytes


def memory_of(value: object, depth: int = 3) -> int:
    """Bytes of the tensors and arrays in ``value`` and, ``depth`` levels deep, in its attributes.

    An object that keeps memory elsewhere (an ONNX session, say) states it as ``memory_bytes``.
    """
    stated = getattr(value, "memory_bytes", None)
    if isinstance(stated, int):
        return stated
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, str | bytes):
        return len(value)
    torch = sys.modules.get("torch")
    if torch is not None:
        if isinstance(value, torch.Tensor):
            return int(value.numel() * value.element_size())
        if isinstance(value, torch.nn.Module):
            tensors = (*value.parameters(), *value.buffers())
            return sum(int(tensor.numel() * tensor.element_size()) for tensor in tensors)
    if depth == 0:
        return 0
    if isinstance(value, dict):
        return sum(memory_of(item, depth - 1) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(memory_of(item, depth - 1) for item in value)
    return sum(memory_of(item, depth - 1) for item in getattr(value, "__dict__", {}).values())

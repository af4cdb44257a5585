"""Answers kept by the content of their question."""

from __future__ import annotations

from collections import OrderedDict

from crossfuse.engine.messages import Result


class ResultCache:
    """Least-recently-used results under a cap in bytes. Not thread-safe: its owner holds a lock."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._results: OrderedDict[str, Result] = OrderedDict()

    def get(self, key: str) -> Result | None:
        result = self._results.get(key)
        if result is not None:
            self._results.move_to_end(key)
        return result

    def put(self, key: str, result: Result) -> None:
        """Keep a result; one larger than the whole cap is not kept."""
        self.discard(key)
        if result.nbytes > self.capacity:
            return
        self._results[key] = result
        self.nbytes += result.nbytes
        while self.nbytes > self.capacity:
            self.discard(next(iter(self._results)))

    def discard(self, key: str) -> None:
        result = self._results.pop(key, None)
        if result is not None:
            self.nbytes -= result.nbytes

    def __len__(self) -> int:
        return len(self._results)

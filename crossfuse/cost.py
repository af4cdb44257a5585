r"""What an attention map costs as the grid grows, measured on the device at hand.

Two ways to the same output: the naive one computes softmax(Q Kᵀ / √d) V and keeps the whole map,
N² numbers a head; ours computes the fused output and the exact rows that somebody looks at.
``benchmarks/attention.py`` measures the same ratios with more care; here the reader waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HEADS, WIDTH, ROWS = 8, 64, 64
SIDES = (14, 20, 28, 40, 56)  # cells a side of a square grid
PATIENCE = 0.5  # seconds spent on repeating one measurement


@dataclass(frozen=True)
class Cost:
    """Seconds of the fastest of some runs, and bytes of the map that is kept, for one grid."""

    side: int
    naive_seconds: float
    rows_seconds: float
    naive_bytes: int
    rows_bytes: int
    largest_difference: float

    @property
    def tokens(self) -> int:
        return self.side * self.side


def map_bytes(tokens: int, rows: int | None = None, heads: int = HEADS) -> int:
    """Bytes of a float32 map of ``tokens`` keys: all rows, or the chosen number of them."""
    return 4 * heads * (tokens if rows is None else min(rows, tokens)) * tokens


def measure(device: torch.device | str, sides: Sequence[int] = SIDES) -> Iterator[Cost]:
    """Measure grid after grid, smallest first; 8 heads of width 64, float32, random features."""
    import torch

    from crossfuse.attention import Want, attend

    generator = torch.Generator().manual_seed(0)
    for side in sides:
        tokens = side * side
        shape = (1, HEADS, tokens, WIDTH)
        query, key, value = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
        chosen = torch.linspace(0, tokens - 1, min(ROWS, tokens)).long().to(device)
        want = Want.of_rows(chosen)
        with torch.inference_mode():
            ours, ours_seconds = _fastest(partial(attend, query, key, value, want=want), device)
            (naive_map, _), naive_seconds = _fastest(partial(_naive, query, key, value), device)
            assert ours.weights is not None
            difference = float((naive_map[:, :, chosen] - ours.weights).abs().max())
        del naive_map
        yield Cost(
            side, naive_seconds, ours_seconds, map_bytes(tokens), map_bytes(tokens, ROWS),
            difference,
        )  # fmt: skip


def _naive(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)
    return weights, weights @ value


def _fastest(run: Callable[[], Any], device: torch.device | str) -> tuple[Any, float]:
    import torch

    synchronise = torch.cuda.synchronize if "cuda" in str(device) else (lambda: None)
    result, best, deadline = run(), float("inf"), time.perf_counter() + PATIENCE
    while True:
        synchronise()
        start = time.perf_counter()
        result = run()
        synchronise()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > deadline:
            return result, best

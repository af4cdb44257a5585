"""The kernel against its peers in one run: time, peak memory and error, as ratios.

Each row: ``time_ratio`` = ours / peer, median over interleaved pairs; ``memory_ratio`` = extra peak
memory of ours / peer's; ``max_error`` against float64 on chosen rows. 8 heads of 64.

    crossfuse bench attention --json
    crossfuse bench attention --device cuda --dtype bfloat16 --runs 20
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.attention import Want, attend

HEADS, WIDTH, ROWS, GROUPS = 8, 64, 64, 36


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="interleaved pairs a row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[3136, 8192], help="sides of the square cases"
    )


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {case, tokens, peer, time_ratio, memory_ratio, max_error}."""
    torch.set_num_threads(arguments.threads)
    rows = []
    with torch.no_grad():
        for tokens in arguments.tokens:
            query, key, value = _inputs(tokens, tokens, arguments)
            chosen = torch.linspace(0, tokens - 1, ROWS).long()  # a reader's choice: on the CPU
            labels = (torch.arange(tokens) % GROUPS).to(arguments.device)
            some = Want.of_rows(chosen)

            def ours(want: Want = some, qkv: tuple[Tensor, ...] = (query, key, value)) -> Any:
                return attend(*qkv, want=want)

            peers: dict[str, Callable[[], Any]] = {
                "sdpa, no map": lambda q=query, k=key, v=value: F.scaled_dot_product_attention(
                    q, k, v
                ),
                "naive, map kept": lambda q=query, k=key, v=value: _naive(q, k, v),
                "nn.MultiheadAttention": _multihead(query, key, value),
            }
            full_map = HEADS * tokens * tokens * 4
            for peer, run in peers.items():
                rows.append(
                    _compare(f"output + {ROWS} rows", tokens, peer, ours, run, arguments)
                    | {"max_error": _row_error(query, key, chosen)}
                )
                if peer == "sdpa, no map":
                    extra = _peak(ours, arguments.device) - _peak(run, arguments.device)
                    rows[-1]["memory_ratio"] = max(extra, 0) / full_map
                    rows[-1]["memory_of"] = "extra peak / full map"
            rows.append(
                _compare(
                    f"output + mass on {GROUPS} groups",
                    tokens,
                    "sdpa, no map",
                    lambda q=query, k=key, v=value, g=labels: attend(
                        q, k, v, want=Want.of_groups(g)
                    ),
                    peers["sdpa, no map"],
                    arguments,
                )
                | {"max_error": _group_error(query, key, value, labels)}
            )
            rows.append(
                _compare(
                    "output alone",
                    tokens,
                    "sdpa, no map",
                    lambda q=query, k=key, v=value: attend(q, k, v),
                    peers["sdpa, no map"],
                    arguments,
                )
                | {"max_error": 0.0}
            )
        query, key, value = _inputs(3136, 784, arguments)
        rows.append(
            _compare(
                "output + whole map",
                3136,
                "naive, map kept",
                lambda: attend(query, key, value, want=Want.everything()),
                lambda: _naive(query, key, value),
                arguments,
            )
            | {"max_error": _whole_error(query, key, value)}
        )
    return rows


def _inputs(
    queries: int, keys: int, arguments: argparse.Namespace
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(1, HEADS, n, WIDTH, generator=generator) for n in (queries, keys, keys))
    query, key, value = (
        part.to(arguments.device, getattr(torch, arguments.dtype)) for part in made
    )
    return query, key, value


def _naive(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(query @ key.transpose(-2, -1) / WIDTH**0.5, dim=-1)
    return weights @ value, weights


def _multihead(query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Any]:
    """torch's own module with its projections; it projects too, which favours us a little."""
    module = torch.nn.MultiheadAttention(HEADS * WIDTH, HEADS, batch_first=True)
    module = module.to(query.device, query.dtype)
    merged = [part.transpose(1, 2).flatten(2) for part in (query, key, value)]
    return lambda: module(*merged, need_weights=True, average_attn_weights=False)


def _compare(
    case: str,
    tokens: int,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    ours(), theirs()
    ratios = []
    for _ in range(arguments.runs):
        ratios.append(_seconds(ours, arguments.device) / _seconds(theirs, arguments.device))
    mine, others = _peak(ours, arguments.device), _peak(theirs, arguments.device)
    return {
        "case": case,
        "tokens": tokens,
        "peer": peer,
        "time_ratio": round(statistics.median(ratios), 3),
        "memory_ratio": round(mine / max(others, 1), 4),
        "memory_of": "extra peak / peer's",
    }


def _seconds(run: Callable[[], Any], device: str) -> float:
    """Wall seconds of one call, its result let go included; on CUDA until the device is done."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def _peak(run: Callable[[], Any], device: str) -> int:
    """Extra peak bytes while ``run`` works: the allocator's on CUDA, sampled RSS on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    process = psutil.Process()
    before = process.memory_info().rss
    peak, stop = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = run()
    peak = max(peak, process.memory_info().rss)
    stop.set()
    watcher.join()
    del kept
    return peak - before


def _row_error(query: Tensor, key: Tensor, rows: Tensor) -> float:
    got = attend(query, key, key, want=Want.of_rows(rows)).weights
    true = torch.softmax(
        query[:, :, rows].double() @ key.double().transpose(-2, -1) / WIDTH**0.5, -1
    )
    assert got is not None
    return float((got - true).abs().max())


def _group_error(query: Tensor, key: Tensor, value: Tensor, labels: Tensor) -> float:
    got = attend(query, key, value, want=Want.of_groups(labels)).weights
    rows = torch.arange(0, query.shape[2], 97, device=query.device)
    true = torch.softmax(
        query[:, :, rows].double() @ key.double().transpose(-2, -1) / WIDTH**0.5, -1
    )
    mass = true @ F.one_hot(labels, GROUPS).double()
    assert got is not None
    return float((got[:, :, rows] - mass).abs().max())


def _whole_error(query: Tensor, key: Tensor, value: Tensor) -> float:
    got = attend(query, key, value, want=Want.everything()).weights
    true = torch.softmax(query.double() @ key.double().transpose(-2, -1) / WIDTH**0.5, -1)
    assert got is not None
    return float((got - true).abs().max())

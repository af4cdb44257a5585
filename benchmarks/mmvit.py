"""MMViT against a plain MViTv2 stack, and what its maps cost, as ratios of one run.

The peer has, for each view, the blocks of our config as MViTv2 writes them: self-attention only,
the relative position bias as a whole N_q x N_k matrix, ``F.scaled_dot_product_attention``. Its
multiply-adds are printed as a ratio too (``flop_ratio`` = ours / peer). ``memory_ratio``: peak of
what the allocator hands out during a call. ``cpu_ratio``: of the process's own time, which other
work on the machine does not disturb.

    crossfuse bench mmvit --json
    crossfuse bench mmvit --device cuda          (throughput of the paper's size in its place)
    crossfuse bench mmvit --device cuda --compile
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from crossfuse.attention import Want
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.models.mmvit_blocks import embedding, plan_blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=7, help="interleaved pairs a row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--compile", action="store_true", help="on CUDA: torch.compile as well")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a case: {case, peer, time_ratio, ...} or {case, seconds}."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.device.startswith("cuda"):
        return throughput(arguments, MMViTConfig.paper(), (64, 256))
    size = (arguments.side, arguments.side)
    rows = []
    with torch.inference_mode():
        for name, config in CONFIGS.items():
            model = MMViT(config).eval()
            peer = PlainStack(config).eval()
            stem = model.stem(torch.randn(arguments.batch, 3, *size))
            ours: Run = lambda m=model, s=stem: m.from_stem(s, size)  # noqa: E731
            theirs: Run = lambda p=peer, s=stem: p(s)  # noqa: E731
            row = compare(f"{name}: forward", "plain MViTv2 blocks", ours, theirs, arguments)
            rows.append(row | {"flop_ratio": round(flops(ours) / flops(theirs), 3)})
            if name != "frozen stem":
                continue
            one = torch.randn(1, 3, *size)
            wants = {"one cell's rows": one_cell(model, size), "all maps": Want.everything()}
            for what, want in wants.items():
                rows.append(
                    compare(
                        f"{name}: forward with {what}", "the same without maps",
                        lambda m=model, x=one, w=want: m(x, want=w), lambda m=model, x=one: m(x),
                        arguments,
                    )
                )  # fmt: skip
    rows += through_the_engine(arguments)
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


Run = Callable[[], Any]
CONFIGS = {
    "frozen stem": MMViTConfig.small(),
    "residual stem": MMViTConfig.from_scratch(10, 128),
}


def one_cell(model: MMViT, size: tuple[int, int]) -> dict[str, Want]:
    """In every map, the rows of the cells of every view that hold the middle of the picture."""
    wants: dict[str, Want] = {}
    for name, layout in model.layouts(size).items():
        chosen, before = [], 0
        for place in layout.queries.values():
            found = place.cell_at(size[1] / 2, size[0] / 2)
            chosen += [] if found is None else [before + found]
            before += len(place)
        wants[name] = Want.of_rows(chosen)
    return wants


def compare(
    case: str, peer: str, ours: Run, theirs: Run, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Median ratios of interleaved pairs, after one unmeasured run of each."""
    ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(arguments.runs)]
    wall, cpu = (
        statistics.median(mine[clock] / other[clock] for mine, other in pairs) for clock in (0, 1)
    )
    return {
        "case": case,
        "peer": peer,
        "time_ratio": round(wall, 3),
        "cpu_ratio": round(cpu, 3),
        "memory_ratio": round(peak(ours) / peak(theirs), 3),
    }


def timed(run: Run) -> tuple[float, float]:
    """Seconds of one call: by the clock, and of this process's processors."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def peak(run: Run) -> int:
    """Most bytes that tensors made during a call held at one time (CPU)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = run()
    assert record.profiler is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return most


def flops(run: Run) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def through_the_engine(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from a picture to everything that the page draws, and from a click to a cell's rows.

    Every request differs (another part of the picture), so that none is answered from memory.
    """
    from crossfuse.engine import EmbeddedEngine
    from crossfuse.engine.messages import Request

    engine = EmbeddedEngine()
    rows = []
    for case, options in (
        ("engine: a picture to its linked view", {}),
        ("engine: another cell, rows alone", {"point": (150, 150)}),
    ):
        taken = []
        for number in range(arguments.runs + 1):
            changed = options | {"zoom": 1 - number / 1000}
            start = time.perf_counter()
            engine.run(Request("mmvit", {"sample": "chelsea"}, changed))
            taken.append(time.perf_counter() - start)
        rows.append({"case": case, "seconds": round(statistics.median(taken[1:]), 3)})
    return rows


def throughput(
    arguments: argparse.Namespace, config: MMViTConfig, batches: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Pictures a second on a GPU, beside float32 whose attention is written out (N_q x N_k)."""
    device = torch.device(arguments.device)
    model = MMViT(config).eval().to(device)

    def eager(x: Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return model(x)

    def half(x: Tensor, run: nn.Module | Callable[..., Any] = model) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return run(x)

    runs: dict[str, Callable[[Tensor], Any]] = {
        WRITTEN_OUT: eager,
        "float32, fused": model,
        "bfloat16, fused": half,
    }
    if arguments.compile:
        compiled = torch.compile(model)
        runs["bfloat16, fused, compiled"] = lambda x: half(x, compiled)
    rows = []
    base: dict[int, float] = {}
    for name, run in runs.items():
        for batch in batches:
            images = torch.randn(batch, 3, arguments.side, arguments.side, device=device)
            with torch.no_grad():
                taken = on_device(lambda r=run, x=images: r(x), arguments)
            base.setdefault(batch, taken)
            rows.append(
                {
                    "case": name,
                    "batch": batch,
                    "pictures_per_second": round(batch / taken),
                    "peer": WRITTEN_OUT,
                    "time_ratio": round(taken / base[batch], 3),
                }
            )
            # Compiling takes a minute: what is known is told before.
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


WRITTEN_OUT = "float32, attention written out"


def on_device(run: Run, arguments: argparse.Namespace) -> float:
    """Median seconds of a call, until the device is done."""
    wait = torch.cuda.synchronize if arguments.device.startswith("cuda") else lambda: None
    taken = []
    for _ in range(arguments.runs + 2):
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


class PlainStack(nn.Module):
    """One stack of MViTv2 blocks a view, with the sizes of our plan; cross blocks are self."""

    def __init__(self, config: MMViTConfig) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList([embedding(config, v) for v in range(config.views)])
        plans = plan_blocks(config)
        self.stacks = nn.ModuleList(
            [
                nn.ModuleList([PlainBlock(plan, config.mlp_ratio) for plan in plans])
                for _ in range(config.views)
            ]
        )
        self.head = nn.Linear(plans[-1].width_out, config.classes)

    def forward(self, taps: tuple[Tensor, ...]) -> Tensor:
        pooled = []
        for make, stack in zip(self.embeddings, self.stacks, strict=True):
            x = make(taps).permute(0, 2, 3, 1)
            for block in stack:
                x = block(x)
            pooled.append(x.mean((1, 2)))
        return self.head(torch.stack(pooled).mean(0))


class PlainBlock(nn.Module):
    """(B, h, w, width_in) -> (B, h', w', width_out), as in the public MViTv2 code's layout."""

    def __init__(self, plan: Any, mlp_ratio: float) -> None:
        super().__init__()
        width, self.heads = plan.width_out, plan.heads
        self.stride = plan.query_stride
        self.norm = nn.LayerNorm(plan.width_in)
        self.qkv = nn.Linear(plan.width_in, 3 * width)
        strides = (plan.query_stride, plan.key_stride, plan.key_stride)
        self.pools = nn.ModuleList(
            [nn.Conv2d(width, width, 3, s, 1, groups=width, bias=False) for s in strides]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width // self.heads) for _ in strides])
        self.rows = nn.Parameter(torch.randn(127, width // self.heads) * 0.02)
        self.columns = nn.Parameter(torch.randn(127, width // self.heads) * 0.02)
        self.output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        wider = plan.width_in != width
        self.shortcut = nn.Linear(plan.width_in, width) if wider else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        parts = []
        for part, pool, norm in zip(
            self.qkv(normed).chunk(3, -1), self.pools, self.norms, strict=True
        ):
            pooled = pool(part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            grid = pooled.shape[1:3]
            split = pooled.flatten(1, 2).unflatten(2, (self.heads, -1))
            parts.append((norm(split).transpose(1, 2), grid))
        (query, here), (key, there), (value, _) = parts
        cells = query.unflatten(2, here)
        by_row = torch.einsum(
            "bnhwd,hkd->bnhwk", cells, self.rows[distances(here[0], there[0], x.device)]
        )
        by_column = torch.einsum(
            "bnhwd,wkd->bnhwk", cells, self.columns[distances(here[1], there[1], x.device)]
        )
        bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(2, 3)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias) + query
        merged = self.output(attended.transpose(1, 2).flatten(2)).unflatten(1, here)
        short = x if self.shortcut is None else self.shortcut(normed)
        if self.stride > 1:
            short = F.max_pool2d(short.permute(0, 3, 1, 2), 3, self.stride, 1).permute(0, 2, 3, 1)
        x = short + merged
        return x + self.mlp(self.mlp_norm(x))


def distances(queries: int, keys: int, device: torch.device) -> Tensor:
    """Index of the relative position of every query x key on one axis, as MViTv2 counts them."""
    query = torch.arange(queries, device=device)[:, None] * max(keys / queries, 1.0)
    key = torch.arange(keys, device=device)[None, :] * max(queries / keys, 1.0)
    return (query - key + (keys - 1) * max(queries / keys, 1.0)).long()

"""MMViT against a plain MViTv2 stack, and what its maps cost, as ratios of one run.

The peer has, for each view, the blocks of our config as MViTv2 writes them: self-attention only,
the relative position bias as a whole N_q x N_k matrix, ``F.scaled_dot_product_attention``. Its
multiply-adds are printed as a ratio too (``flop_ratio`` = ours / peer).

    crossfuse bench mmvit --json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from crossfuse.attention import Want
from crossfuse.models.mmvit import MMViT, MMViTConfig
from crossfuse.models.mmvit_blocks import embedding, plan_blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=7, help="interleaved pairs a row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows {case, peer, time_ratio, flop_ratio, memory_ratio}."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    side, device = arguments.side, torch.device(arguments.device)
    model = MMViT(MMViTConfig.small()).eval().to(device)
    peer = PlainStack(model.config).eval().to(device)
    images = torch.randn(arguments.batch, 3, side, side, device=device)
    one = images[:1]
    layouts = model.layouts((side, side))
    cell = (side / 2, side / 2)
    rows: dict[str, Want] = {}
    for name, layout in layouts.items():
        chosen, before = [], 0
        for place in layout.queries.values():
            found = place.cell_at(*cell)
            chosen += [] if found is None else [before + found]
            before += len(place)
        rows[name] = Want.of_rows(chosen)
    everything = Want.everything()
    with torch.inference_mode():
        taps, single = model.stem(images), model.stem(one)
        size = (side, side)
        flop_ratio = flops(lambda: model.from_stem(taps, size)) / flops(lambda: peer(taps))
        results = [
            compare(
                "pyramid, no maps", "plain MViTv2 blocks",
                lambda: model.from_stem(taps, size), lambda: peer(taps), arguments,
            )
            | {"flop_ratio": flop_ratio},
            compare(
                "whole model, one cell's rows", "whole model, no maps",
                lambda: model(one, want=rows), lambda: model(one), arguments,
            ),
            compare(
                "whole model, all maps", "whole model, no maps",
                lambda: model(one, want=everything), lambda: model(one), arguments,
            ),
            compare(
                "pyramid, one cell's rows", "pyramid, no maps",
                lambda: model.from_stem(single, size, rows),
                lambda: model.from_stem(single, size), arguments,
            ),
        ]  # fmt: skip
        held = sum(entry.weights.numel() * 4 for entry in model(one, want=rows).maps)
        results[1]["map_bytes"] = held
        results[2]["map_bytes"] = sum(
            entry.weights.numel() * 4 for entry in model(one, want=everything).maps
        )
    return results


def compare(
    case: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Median ratio of interleaved pairs, after one unmeasured run of each."""
    ours()
    theirs()
    ratios = []
    for _ in range(arguments.runs):
        first = timed(ours, arguments.device)
        ratios.append(first / timed(theirs, arguments.device))
    return {
        "case": case, "peer": peer, "time_ratio": statistics.median(ratios),
        "flop_ratio": float("nan"), "map_bytes": 0,
    }  # fmt: skip


def timed(run: Callable[[], Any], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def flops(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


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

"""Sparse convolution against dense Conv3d, and spconv where it is, on the voxels of a sample room.

    crossfuse bench sparse_conv [--device cuda] [--voxel 0.1 0.05]

One 3x3x3 layer with 24 channels, forward, in turns in one run; the dense grid is the bounding box
of the room. ``time_dense_to_sparse`` and ``memory_dense_to_sparse``: how many times as much the
dense layer takes. Memory is what a forward adds at its peak to a process that holds the inputs (of
the card with ``--device cuda``); the rules are made once a room and counted apart (``rules_ms``).
``spconv``: milliseconds of spconv's SubMConv3d, or why there is none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.data.sample_rooms import sample_names, sample_room
from crossfuse.data.supervoxels import voxelize
from crossfuse.models.sparse_unet import SparseConv, batch_grid

CHANNELS = 24
ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--voxel", type=float, nargs="+", default=[0.1, 0.05], help="metres")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a sample room and voxel size; see the top of this file."""
    rows = []
    for voxel in options.voxel:
        for name in sample_names():
            case = Case(name, voxel, options.device)
            rows.append(case.row(options.repeats))
            for side in ("sparse", "dense"):
                rows[-1][f"{side}_mb"] = round(_memory(case, side), 1)
            rows[-1]["memory_dense_to_sparse"] = round(
                rows[-1]["dense_mb"] / max(rows[-1]["sparse_mb"], 0.1), 1
            )
    return rows


class Case:
    """One room at one voxel size, and both layers with the same weights."""

    def __init__(self, room: str, voxel: float, device: str) -> None:
        self.room, self.voxel, self.device = room, voxel, torch.device(device)
        cloud, _ = sample_room(room)
        voxels = voxelize(cloud.positions, np.zeros_like(cloud.positions), voxel)
        self.cells = torch.from_numpy(voxels.cell.astype(np.int64)).to(device)
        torch.manual_seed(0)
        everything = torch.ones(1, len(self.cells), dtype=torch.bool, device=device)
        self.grid, order = batch_grid(self.cells[None], everything)
        self.features = torch.randn(len(self.cells), CHANNELS).to(device)[order]
        self.layer = SparseConv(27, CHANNELS, CHANNELS).to(device)
        kernel = self.layer.weight.detach().reshape(3, 3, 3, CHANNELS, CHANNELS)
        self.kernel = kernel.permute(4, 3, 0, 1, 2).contiguous()
        self.size = tuple(int(v) for v in self.cells.max(0).values + 1)
        start = time.perf_counter()
        self.rules = self.grid.rules(3)
        self.wait()
        self.rules_ms = 1000 * (time.perf_counter() - start)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def volume(self) -> Tensor:
        dense = torch.zeros(1, CHANNELS, *self.size, device=self.device)
        x, y, z = self.grid.cells[:, 1:].T
        dense[0, :, x, y, z] = self.features.T
        return dense

    def sparse(self) -> Tensor:
        return self.layer(self.features, self.rules, len(self.grid))

    @torch.inference_mode()
    def row(self, repeats: int) -> dict[str, Any]:
        dense = self.volume()
        runs: dict[str, Callable[[], Any]] = {
            "sparse": self.sparse,
            "dense": lambda: F.conv3d(dense, self.kernel, padding=1),
        }
        other = _spconv(self)
        if callable(other):
            runs["spconv"] = other
        taken: dict[str, list[float]] = {name: [] for name in runs}
        results = {name: run() for name, run in runs.items()}
        for _ in range(repeats):
            for name, run in runs.items():
                self.wait()
                start = time.perf_counter()
                run()
                self.wait()
                taken[name].append(1000 * (time.perf_counter() - start))
        ms = {name: statistics.median(times) for name, times in taken.items()}
        x, y, z = self.grid.cells[:, 1:].T
        error = (results["sparse"] - results["dense"][0, :, x, y, z].T).abs().max()
        return {
            "room": self.room,
            "device": str(self.device),
            "voxel_m": self.voxel,
            "voxels": len(self.cells),
            "filled": round(len(self.cells) / float(np.prod(self.size)), 4),
            "sparse_ms": round(ms["sparse"], 2),
            "rules_ms": round(self.rules_ms, 2),
            "dense_ms": round(ms["dense"], 2),
            "spconv": round(ms["spconv"], 2) if "spconv" in ms else other,
            "time_dense_to_sparse": round(ms["dense"] / ms["sparse"], 1),
            "largest_error": float(error),
        }


def _spconv(case: Case) -> Callable[[], Any] | str:
    """A run of spconv's layer on the same voxels, or why there is none."""
    if case.device.type != "cuda":
        return "needs a GPU"
    try:
        spconv = importlib.import_module("spconv.pytorch")
    except ImportError:
        return "not installed"
    layer = spconv.SubMConv3d(CHANNELS, CHANNELS, 3, bias=False, indice_key="k").to(case.device)
    places = case.grid.cells.int().contiguous()

    def run() -> Any:
        made = spconv.SparseConvTensor(case.features, places, list(case.size), 1)
        return layer(made).features

    return run


def _memory(case: Case, side: str) -> float:
    """Megabytes that one forward adds at its peak."""
    if case.device.type == "cuda":
        return _added(case, side)
    asked = [sys.executable, __file__, "--one", case.room, str(case.voxel), side]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


@torch.inference_mode()
def _added(case: Case, side: str) -> float:
    dense = case.volume() if side == "dense" else None
    run = case.sparse if dense is None else lambda: F.conv3d(dense, case.kernel, padding=1)
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = run()
        added = (torch.cuda.max_memory_allocated() - before) / 1e6
    else:
        F.conv3d(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 3, 3, 3))  # loads what it needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here
        before = _status("VmRSS")
        kept = run()
        added = (_status("VmHWM") - before) / 1e3
    del kept
    inputs = dense if dense is not None else case.features
    return added + inputs.numel() * 4 / 1e6


def _status(name: str) -> int:
    """A figure of this process in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"no {name} in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--one", nargs=3, metavar=("ROOM", "VOXEL", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        room, voxel, side = options.one
        print(_added(Case(room, float(voxel), "cpu"), side))
        return
    for row in measure(options):
        print(json.dumps(row))


if __name__ == "__main__":
    main()

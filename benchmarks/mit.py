"""From an uploaded PLY to segments, labels and the packed view: seconds and peak memory.

    crossfuse bench mit [--points 100000 1000000 5000000] [--place room house]

Each case runs in a process of its own, so that its peak is its own. ``room`` is a sample room with
points added between its own until there are enough; ``house`` is 3 x 2 such rooms in one file.
``first_s``: the first answer, with reading weights; ``seconds``: the median of the answers after
it; ``cpu_s``: processor time of one such answer; the ``*_s`` columns are its parts. ``peak_mb``:
the largest resident memory of the process, ``base_mb`` before the cloud came. ``bytes_a_point``:
what goes to the browser, maps and photographs left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    "reading points": "read_s",
    "cutting supervoxels": "supervoxels_s",
    "drawing views": "views_s",
    "looking at photographs": "encoder_s",
    "attending": "model_s",
    "packing": "gather_s",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--place", nargs="+", choices=("room", "house"), default=["room", "house"])
    parser.add_argument("--runs", type=int, default=3)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a place and number of points; see the top of this file."""
    cases = [(place, count) for place in options.place for count in options.points]
    return [_apart(place, count, options.runs) for place, count in cases]


def _apart(place: str, count: int, runs: int) -> dict[str, Any]:
    asked = [sys.executable, __file__, "--one", place, str(count), "--runs", str(runs)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def made_ply(place: str, count: int) -> bytes:
    """A binary PLY of ``count`` coloured points: a dense scan of a sample room, or six of them."""
    from crossfuse.data.sample_rooms import sample_room

    cloud, _ = sample_room("living_room")
    assert cloud.colours is not None
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(cloud), count)
    rows = np.zeros(count, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"] = cloud.positions[chosen] + rng.normal(0, 0.006, (count, 3))
    rows["rgb"] = np.clip(cloud.colours[chosen] + rng.normal(0, 0.02, (count, 3)), 0, 1) * 255
    if place == "house":
        across = np.ptp(cloud.positions, axis=0)[:2] + 0.2
        which = rng.integers(0, 6, count)
        rows["xyz"][:, :2] += np.stack([which % 3, which // 3], 1) * across
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    head += "".join(f"property float {a}\n" for a in "xyz")
    head += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue"))
    return (head + "end_header\n").encode() + rows.tobytes()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _one(place: str, count: int, runs: int) -> dict[str, Any]:
    import torch

    from crossfuse.engine import Request
    from crossfuse.engine.context import Context
    from crossfuse.engine.resources import idle_cores
    from crossfuse.pipelines import mit
    from crossfuse.ui.mit.answer import segmentation
    from crossfuse.ui.mit.view import points_panel

    torch.set_num_threads(idle_cores())  # as the engine does
    store = Context("cpu")
    data = made_ply(place, count)
    request = Request("mit", {"cloud": data, "cloud_name": "scan.ply"})
    base = _peak_mb()
    walls, cpus, parts = [], [], []
    for _ in range(runs + 1):
        store.timings.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        result = mit.run(request, store)
        store.close()
        parts.append(dict(store.timings))
        packing = time.perf_counter()
        out = result.outputs
        panel = points_panel(out, segmentation(out, []), out["classes"])
        sent = sum(array.nbytes for array in panel.arrays().values())
        panel.options()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        parts[-1]["pack_s"] = time.perf_counter() - packing
    middle = int(np.argsort(walls[1:])[len(walls[1:]) // 2]) + 1
    found = {STAGES.get(name, name): round(value, 2) for name, value in parts[middle].items()}
    return {
        "place": place,
        "points": count,
        "first_s": round(walls[0], 2),
        "seconds": round(statistics.median(walls[1:]), 2),
        "cpu_s": round(statistics.median(cpus[1:]), 2),
        **{name: found.get(name, 0.0) for name in (*STAGES.values(), "pack_s")},
        "peak_mb": round(_peak_mb()),
        "base_mb": round(base),
        "voxels": result.outputs["voxels"],
        "voxel_cm": round(100 * float(result.trace.meta["voxel_m"]), 1) if result.trace else 0,
        "segments": len(result.outputs["counts"]),
        "drawn": len(result.outputs["positions"]),
        "bytes_a_point": round(sent / len(result.outputs["positions"]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--one", nargs=2, metavar=("PLACE", "POINTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(options.one[0], int(options.one[1]), options.runs)))
        return
    for row in measure(options):
        print(json.dumps(row))


if __name__ == "__main__":
    main()

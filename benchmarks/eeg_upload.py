"""A long EDF from bytes to every view of the EEG page, beside MNE reading and resampling it.

    crossfuse bench eeg_upload --json

An EDF of ``--minutes`` x ``--channels`` at ``--rate`` Hz is written to memory. One process decodes
and analyses it as the page does (``views``: read, resample, features, fusion, relevance, envelope
of the traces); another reads it with MNE and resamples it (``mne``: the first two of these steps
alone). Each is a process of its own, so that its peak memory is its own. ``memory`` = peak above
what the process holds with the libraries loaded and the uploaded bytes in hand, as a multiple of
the decoded recording (float32); ``stages`` in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peer", choices=("mne", "none"), default="mne")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {what, seconds, cpu_seconds, memory, stages}, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="crossfuse-bench-") as folder:
        path = Path(folder) / "long.edf"
        write_edf(path, arguments.channels, arguments.minutes * 60, arguments.rate)
        kinds = ("views", "mne") if arguments.peer == "mne" else ("views",)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for _ in range(arguments.runs):
            for kind in kinds:
                found[kind].append(_alone(kind, path))
    decoded = 4 * arguments.channels * arguments.rate * arguments.minutes * 60
    rows = []
    for kind, runs in found.items():
        row: dict[str, Any] = {
            key: round(statistics.median(run[key] for run in runs), 2)
            for key in ("seconds", "cpu_seconds")
        }
        peak = statistics.median(run["peak_bytes"] for run in runs)
        rows.append({"what": kind, **row, "memory": round(peak / decoded, 2)} | runs[0]["more"])
    if len(rows) == 2:
        rows.append({"what": "views / mne", "seconds": rows[0]["seconds"] / rows[1]["seconds"]})
    return rows


def _alone(kind: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, kind, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_edf(path: Path, channels: int, seconds: float, rate: int) -> None:
    """Pink-ish noise with a 10 Hz rhythm on 10-10 names, in records of one second."""
    from crossfuse.data.eeg import montage

    known = [name for name in montage.standard_positions() if name not in montage.TEN_TWENTY]
    known = [name for name in known if name not in (*montage.MASTOIDS, *montage.OLD_NAMES)]
    names = (*montage.TEN_TWENTY, *known)[:channels]
    records = int(seconds)
    fields = (
        (16, names),
        (80, [""] * channels),
        (8, ["uV"] * channels),
        (8, ["-500"] * channels),
        (8, ["500"] * channels),
        (8, ["-32768"] * channels),
        (8, ["32767"] * channels),
        (80, [""] * channels),
        (8, [str(rate)] * channels),
        (32, [""] * channels),
    )
    head = f"{'0':<8}{'X':<80}{'X':<80}01.01.2400.00.00{256 * (channels + 1):<8}{'':<44}"
    head += f"{records:<8}{'1':<8}{channels:<4}"
    head += "".join(f"{text:<{width}}" for width, texts in fields for text in texts)
    random = np.random.default_rng(0)
    base = random.normal(size=(channels, rate * 60)).cumsum(1)
    base -= base.mean(1, keepdims=True)
    slow = np.fft.rfft(base)
    slow[:, :30] = 0
    noise = np.fft.irfft(slow)
    noise *= 12 / noise.std(1, keepdims=True)
    turn = 2 * np.pi * 10 * np.arange(rate * 60) / rate
    minute = noise + 6 * np.sin(turn + random.uniform(0, 6, (channels, 1)))
    with path.open("wb") as stream:
        stream.write(head.encode("ascii"))
        for start in range(0, records, 60):
            take = min(60, records - start)
            part = minute * random.uniform(0.7, 1.3, (channels, 1))
            cells = np.rint(part / 1000 * 65535).clip(-32768, 32767).astype("<i2")
            stream.write(cells.reshape(channels, 60, rate).swapaxes(0, 1)[:take].tobytes())


# --- in a process of its own -----------------------------------------------------------------


def _views(data: bytes) -> dict[str, Any]:
    from crossfuse.engine.context import Context
    from crossfuse.engine.messages import Request
    from crossfuse.pipelines import mca_eeg
    from crossfuse.ui.traces import envelope

    context = Context()
    result = mca_eeg.run(Request("mca_eeg", {"names": ("a.edf",), "contents": (data,)}), context)
    context.close()
    began = time.perf_counter()
    envelope(result.outputs["signal"])
    stages = {name: round(value, 2) for name, value in context.timings.items()}
    return {"stages": stages | {"envelope": round(time.perf_counter() - began, 2)}}


def _mne(data: bytes) -> dict[str, Any]:
    import mne

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.edf"
        path.write_bytes(data)
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
        raw.resample(128, verbose="error")
    return {}


def _main(kind: str, path: str) -> None:
    for library in (
        "mne",
        "scipy.signal",
        "torch",
        "crossfuse.ui.traces",
        "crossfuse.models.mca_eeg",
    ):
        import_module(library)
    from crossfuse.data.eeg import montage

    montage.standard_positions()
    data = Path(path).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter()
    more = {"views": _views, "mne": _mne}[kind](data)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = 1024 * (after.ru_maxrss - before.ru_maxrss)
    found = {"seconds": wall, "cpu_seconds": spent, "peak_bytes": peak, "more": more}
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""What this machine has to give: cores, memory, and how running out of it shows."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


def available_cores() -> int:
    """Cores this process may use: its affinity, and its container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _read(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        cores = min(cores or 1, max(1, int(quota[0]) // int(quota[1])))
    return cores or 1


def idle_cores() -> int:
    """How many of the available cores have nothing to do, by the load of the last minute; >= 1.

    A torch thread too many is far worse than one too few: each waits for the others, and on two
    busy cores a network of 30 ms with one thread took over 2 s with two.
    """
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    return max(1, round(available_cores() * (1.0 - load)))


def available_memory() -> int:
    """Bytes of main memory: the machine's, or its container's limit where that is smaller."""
    total = 4 << 30
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read(CGROUP / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def device_title(device: str) -> str:
    """How people call a torch device: the name of the accelerator, or the CPU and its cores."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"{device.upper()} × {available_cores()}"


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch's own type, and the RuntimeErrors of CPU allocators."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError):
        return True
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY)


def let_go(error: BaseException) -> None:
    """Give back the memory that a failed run still holds through its traceback's frames."""
    link: BaseException | None = error
    while link is not None:
        if link.__traceback__ is not None:
            traceback.clear_frames(link.__traceback__)
        before = link.__cause__ or link.__context__
        link.__traceback__ = link.__cause__ = link.__context__ = None
        link = before
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _read(path: Path) -> str:
    # No such file outside Linux containers; then there is no limit to read.
    return path.read_text().strip() if path.is_file() else ""

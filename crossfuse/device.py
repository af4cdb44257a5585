"""Which device computes, and what is known of it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceInfo:
    """``type``: cuda, mps or cpu. ``memory_bytes``: of the device (the machine's for a CPU)."""

    type: str
    name: str
    memory_bytes: int
    threads: int
    dtype: str

    @property
    def is_gpu(self) -> bool:
        return self.type != "cpu"


def best_device() -> torch.device:
    """A CUDA device where there is one, else the CPU.

    The environment variable ``CROSSFUSE_DEVICE`` (``cpu``, ``cuda``, ``cuda:1``, ``mps``)
    overrides the choice.
    """
    import torch

    wanted = os.environ.get("CROSSFUSE_DEVICE", "")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(device: torch.device | None = None) -> DeviceInfo:
    """Name, memory and threads of a device (the best one by default)."""
    import psutil
    import torch

    device = device or best_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        return DeviceInfo(
            "cuda", properties.name, properties.total_memory, torch.get_num_threads(), dtype
        )
    name = platform.processor() or platform.machine()
    return DeviceInfo(
        device.type, name, psutil.virtual_memory().total, torch.get_num_threads(), "float32"
    )

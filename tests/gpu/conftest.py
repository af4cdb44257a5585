"""Tests of the GPU: ``pytest tests/gpu -m gpu``. They need torch, NumPy and pytest only.

``CROSSFUSE_DEVICE=cpu`` rehearses them without a GPU (what measures GPU memory is skipped).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(name="device")
def _device() -> str:
    wanted = os.environ.get("CROSSFUSE_DEVICE", "cuda")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return wanted


@pytest.fixture(autouse=True)
def _without_tf32() -> Iterator[None]:
    """Float32 means float32: no TensorFloat-32 in matrix products and convolutions."""
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    torch.manual_seed(0)
    yield
    for part, was in zip(parts, before, strict=True):
        part.allow_tf32 = was

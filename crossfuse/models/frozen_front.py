"""The first twenty blocks of EfficientNet-Lite2 (Tan & Le 2019, arXiv 1905.11946) as a stem.

Frozen inverted residual blocks without batch norm: the norms are folded into the convolutions, so
that a layer is convolution -> ReLU6. Three maps come out, before their activation: 48 channels
at stride 8 (after block 7), 120 at stride 16 (after block 15) and 208 at stride 32 (after block
20, the last but one). Input is RGB from -1 to 1.

Padding is that of the network the weights come from, built for 260 px: the two first convolutions
of stride 2 pad right and below only, the later ones on both sides. So cell i of the map at stride s
is centred on pixel s i + 3, counted from 0, for each of the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRONT_ORIGIN = 3
FRONT_CHANNELS = {8: 48, 16: 120, 32: 208}
# kernel, stride, expansion, channels in, channels out
_BLOCKS = (
    (3, 1, 1, 32, 16),
    (3, 2, 6, 16, 24),
    *[(3, 1, 6, 24, 24)] * 2,
    (5, 2, 6, 24, 48),
    *[(5, 1, 6, 48, 48)] * 2,
    (3, 2, 6, 48, 88),
    *[(3, 1, 6, 88, 88)] * 3,
    (5, 1, 6, 88, 120),
    *[(5, 1, 6, 120, 120)] * 3,
    (5, 2, 6, 120, 208),
    *[(5, 1, 6, 208, 208)] * 4,
)
_TAPS = (6, 14, 19)
_ONE_SIDED = (1,)  # blocks that pad right and below only, like the first convolution


def front_cells(side: int, stride: int) -> int:
    """Cells of the map of that stride along a side of so many pixels: exact for odd sides too."""
    cells = side // 2 // 2  # one-sided padding rounds down
    while stride > 4:
        cells, stride = (cells + 1) // 2, stride // 2
    return cells


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depth-wise convolution, 1 x 1 projection; a shortcut where shapes allow."""

    def __init__(
        self, kernel: int, stride: int, expansion: int, inside: int, outside: int, one_sided: bool
    ) -> None:
        super().__init__()
        hidden = inside * expansion
        self.expand = nn.Conv2d(inside, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, stride, 0 if one_sided else kernel // 2, groups=hidden
        )
        self.project = nn.Conv2d(hidden, outside, 1)
        self.one_sided = one_sided
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(F.pad(y, (0, 1, 0, 1)) if self.one_sided else y)))
        return x + y if self.shortcut else y


class FrozenFront(nn.Module):
    """(B, 3, H, W) -> (B, C, H / s, W / s) for the strides 8, 16 and 32, without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(
            [InvertedResidual(*sizes, i in _ONE_SIDED) for i, sizes in enumerate(_BLOCKS)]
        )
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            x = F.relu6(self.first(F.pad(images, (0, 1, 0, 1))))
            taps = []
            for index, block in enumerate(self.blocks):
                x = block(x)
                if index in _TAPS:
                    taps.append(x)
        return tuple(taps)


def front_state(original: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of :class:`FrozenFront` out of an EfficientNet-Lite2 state dict, norms folded."""
    state: dict[str, Tensor] = {}

    def fold(target: str, convolution: str, norm: str) -> None:
        factor = original[f"{norm}.weight"] / (original[f"{norm}.running_var"] + 1e-3).sqrt()
        state[f"{target}.weight"] = original[f"{convolution}.weight"] * factor[:, None, None, None]
        state[f"{target}.bias"] = (
            original[f"{norm}.bias"] - original[f"{norm}.running_mean"] * factor
        )

    fold("first", "_conv_stem", "_bn0")
    for index, (_, _, expansion, _, _) in enumerate(_BLOCKS):
        there, here = f"_blocks.{index}", f"blocks.{index}"
        if expansion > 1:
            fold(f"{here}.expand", f"{there}._expand_conv", f"{there}._bn0")
        fold(f"{here}.depthwise", f"{there}._depthwise_conv", f"{there}._bn1")
        fold(f"{here}.project", f"{there}._project_conv", f"{there}._bn2")
    return state

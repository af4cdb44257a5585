"""Residual convolutions as MMViT's own stem (He et al. 2016, arXiv 1512.03385), trained with it.

Four convolutions of stride 2 (3 x 3, padded by 1), with residual blocks after the second, the third
and the fourth; batch norm after every convolution. Nearly all of its work is in dense convolutions,
which is what processors do best. One map comes out, at the stride of the finest view or at 16 if
that is less; cell i of it is centred on pixel stride * i, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (1, 2, 4, 6)  # channels at strides 2, 4, 8 and 16, in multiples of the first
DEPTHS = (0, 1, 2, 1)  # residual blocks there
DEEPEST = 16


def channels_at(stride: int, width: int) -> int:
    """Channels of the map at that stride."""
    return WIDTHS[stride.bit_length() - 2] * width


class Convolution(nn.Sequential):
    """Convolution without bias, then batch norm; (B, C, H, W), halved by ``stride`` 2."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outside)
        )


class ResidualBlock(nn.Module):
    """ReLU(x + norm(conv(ReLU(norm(conv x))))); the branch begins small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(width, width), Convolution(width, width)
        norm = self.second[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.weight, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ResidualFront(nn.Module):
    """Pictures (B, channels, H, W) -> (map,): (B, channels_at(stride), H / stride, W / stride).

    ``channels``: of the pictures; ``width``: channels at stride 2; ``stride``: 2, 4, 8 or 16.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = channels
        for times, depth in zip(WIDTHS[: stride.bit_length() - 1], DEPTHS, strict=False):
            layers += [Convolution(inside, times * width, stride=2), nn.ReLU()]
            layers += [ResidualBlock(times * width) for _ in range(depth)]
            inside = times * width
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.layers(images),)


@torch.no_grad()
def settle_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the batch norms' means and variances anew, over ``batches`` of pictures.

    Averaged weights have never seen a batch, and pictures in use are whole and not augmented.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

"""EfficientNet-Lite for inference (Tan and Le 2019, arXiv 1905.11946, without squeeze-and-excite).

Built from a published state dict: batch norms are folded into the convolutions, widths and kernels
are read off the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.errors import CrossfuseError

# The first block of a stage with one of these widths (lite0's or lite2's) halves the grid.
HALVING_WIDTHS = {24, 40, 48, 80, 88, 192, 208}


class _Convolution(nn.Module):
    """A convolution with its batch norm folded in and TensorFlow's lopsided padding."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, clip: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor
        self.kernel, self.stride, self.clip = weight.shape[-1], stride, clip
        self.groups = weight.shape[0] if weight.shape[1] == 1 else 1
        self.pad_before = (self.kernel - stride) // 2
        self.pad_after = self.kernel - stride - self.pad_before

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            before, after = self.pad_before, self.pad_after
            x = F.pad(x, (before, after, before, after))
            x = F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        else:
            x = F.conv2d(x, self.weight, self.bias, padding=self.pad_before, groups=self.groups)
        return F.relu6(x) if self.clip else x


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project, and a skip where the shape allows it."""

    def __init__(self, layers: Sequence[_Convolution], skip: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y + x if self.skip else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite for inference, built from a published state dict (all keys are used).

    Raises:
        CrossfuseError: the state dict has missing or additional entries.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        unused = {key for key in state if not key.endswith("num_batches_tracked")}

        def take(key: str) -> Tensor:
            if key not in unused:
                raise CrossfuseError("The image encoder's weights have no entry {key}.", key=key)
            unused.remove(key)
            return state[key]

        def convolution(name: str, norm: str, stride: int = 1, clip: bool = True) -> _Convolution:
            weight = take(f"{name}.weight")
            gain = take(f"{norm}.weight") / (take(f"{norm}.running_var") + 1e-3).sqrt()
            bias = take(f"{norm}.bias") - take(f"{norm}.running_mean") * gain
            return _Convolution(weight * gain[:, None, None, None], bias, stride, clip)

        self.stem = convolution("_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()
        self.ends: dict[int, int] = {}  # stride -> number of blocks after which its stage ends
        width, stride = 32, 2
        while f"_blocks.{len(self.blocks)}._project_conv.weight" in unused:
            name = f"_blocks.{len(self.blocks)}"
            out = state[f"{name}._project_conv.weight"].shape[0]
            step = 2 if out != width and out in HALVING_WIDTHS else 1
            layers = []
            if f"{name}._expand_conv.weight" in unused:
                layers.append(convolution(f"{name}._expand_conv", f"{name}._bn0"))
            layers.append(convolution(f"{name}._depthwise_conv", f"{name}._bn1", step))
            layers.append(convolution(f"{name}._project_conv", f"{name}._bn2", clip=False))
            self.blocks.append(_Block(layers, skip=out == width))
            width, stride = out, stride * step
            self.ends[stride] = len(self.blocks)
        self.head = convolution("_conv_head", "_bn1")
        self.register_buffer("classifier_weight", take("_fc.weight"))
        self.register_buffer("classifier_bias", take("_fc.bias"))
        self.classifier_weight: Tensor
        self.classifier_bias: Tensor
        if unused or stride != 32:
            raise CrossfuseError(
                "The image encoder's weights do not fit EfficientNet-Lite: {unused} entries "
                "left over.",
                unused=len(unused),
            )

    def forward(self, pixels: Tensor, stride: int = 32) -> Tensor:
        """Features of the last layer at ``stride``.

        Args:
            pixels: (B, 3, H, W) RGB, already normalised by (x - 127) / 128.
            stride: 4, 8, 16 (the stage's linear bottleneck) or 32 (the 1280-channel head).

        Returns:
            (B, C, H // stride, W // stride).
        """
        x = self.stem(pixels)
        for block in self.blocks[: self.ends[stride]]:
            x = block(x)
        return self.head(x) if stride == 32 else x

    def pyramid(self, pixels: Tensor, strides: Sequence[int]) -> dict[int, Tensor]:
        """Features at several strides from one pass: stride -> (B, C, H // stride, W // stride)."""
        x, found = self.stem(pixels), {}
        ends = {self.ends[stride]: stride for stride in strides}
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index in ends:
                found[ends[index]] = self.head(x) if ends[index] == 32 else x
        return found

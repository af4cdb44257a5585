r"""Cross-attention between two 2-D feature maps: the common block, done right.

No single paper; ancestors are Non-local networks (Wang et al. 2018, arXiv 1711.07971) and SAGAN
(Zhang et al. 2019, arXiv 1805.08318).  ``x`` asks, ``y`` is asked; their grids may differ:

    x  (B, C_x, H_q, W_q),  y  (B, C_y, H_k, W_k),  N_q = H_q W_q,  N_k = H_k W_k,  d = h d_h
    y' = mean of r x r cells of y, so that N_k <= max_keys           [r = 1: y itself]
    Q = Conv1x1(x) + P,  K = Conv1x1(y') + P,  V = Conv1x1(y')       [P: 2-D sin-cos, optional]
    A = softmax over keys (Q Kᵀ / (τ √d_h))                          (B, h, N_q, N_k)
    O = A V                                                          on the query grid
    out = x + γ Conv1x1(O)                                           (B, C_x, H_q, W_q)

Cell (i, j) of a grid is token i W + j.  The contracted width is d_h, so the scale is 1 / √d_h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, attend, merge_heads, split_heads
from crossfuse.errors import CrossfuseError


@dataclass(frozen=True)
class FeatureMapConfig:
    """``reduction`` 0 chooses r from ``max_keys``; ``gamma`` is where γ starts: 1 for a block on
    its own, 0 inside a trained net, which then starts unchanged (SAGAN)."""

    query_channels: int = 120
    key_channels: int = 120
    width: int = 128
    heads: int = 4
    reduction: int = 0
    max_keys: int = 1024
    positions: bool = True
    norm: bool = False
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.positions and self.width // self.heads % 4):
            raise CrossfuseError(
                "A width of {width} cannot be shared by {heads} heads in multiples of {multiple}.",
                width=self.width,
                heads=self.heads,
                multiple=4 if self.positions else 1,
            )

    @classmethod
    def small(cls) -> FeatureMapConfig:
        """Unequal channels and grids, reduction at work; for tests."""
        return cls(query_channels=6, key_channels=10, width=16, heads=2, max_keys=12)


@dataclass(frozen=True)
class FeatureMapOutput:
    """``output`` has the shape of x; ``maps`` holds what was wanted, ``direction`` "x->y"."""

    output: Tensor
    maps: tuple[LayerMap, ...]


class FeatureMapAttention(nn.Module):
    """The block; equations at the top of this module."""

    Config = FeatureMapConfig

    def __init__(self, config: FeatureMapConfig) -> None:
        super().__init__()
        self.config = config
        self.norm_x = _ChannelNorm(config.query_channels) if config.norm else nn.Identity()
        self.norm_y = _ChannelNorm(config.key_channels) if config.norm else nn.Identity()
        self.to_query = nn.Conv2d(config.query_channels, config.width, 1)
        self.to_key = nn.Conv2d(config.key_channels, config.width, 1)
        self.to_value = nn.Conv2d(config.key_channels, config.width, 1)
        self.to_output = nn.Conv2d(config.width, config.query_channels, 1)
        self.gamma = nn.Parameter(torch.tensor(float(config.gamma)))

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        key_mask: Tensor | None = None,
        temperature: float = 1.0,
        want: Want = NOTHING,
        direction: str = "x->y",
    ) -> FeatureMapOutput:
        """Let every cell of ``x`` look at ``y``.

        Args:
            x: (B, C_x, H_q, W_q), asks and receives.
            y: (B, C_y, H_k, W_k), is asked; None = x itself (self-attention).
            key_mask: (B, H_k, W_k) bool, True on real cells of ``y``.
            temperature: τ, divides the scores.
            want: of the map (B, h, N_q, N_k); keys are the cells after reduction by ``r``.
            direction: what the map is called.

        Raises:
            CrossfuseError: channels that are not the config's, or a temperature not above 0.
        """
        y = x if y is None else y
        self._check(x, y, temperature)
        query_name, key_name = direction.split("->")
        y, mask = reduce_keys(y, key_mask, self.reduction(y))
        q_in, kv_in = self.norm_x(x), self.norm_y(y)
        query, key = self.project_query(q_in), self.project_key(kv_in)
        value = _tokens(self.to_value(kv_in), self.config.heads)
        scale = 1 / (temperature * math.sqrt(query.shape[-1]))
        attended = attend(query, key, value, key_mask=mask, scale=scale, want=want)
        on_grid = merge_heads(attended.output).transpose(1, 2).unflatten(2, x.shape[2:])
        output = x + self.gamma * self.to_output(on_grid)
        if attended.weights is None:
            return FeatureMapOutput(output, ())
        record = LayerMap(
            "feature_map",
            0,
            direction,
            query_name,
            key_name,
            attended.weights,
            rows=want.rows,
            value=value if want.check else None,
            context=attended.output if want.check else None,
        )
        return FeatureMapOutput(output, (record,))

    def reduction(self, y: Tensor) -> int:
        """r for the map ``y``: the config's, or the smallest that leaves at most max_keys."""
        rows, columns = y.shape[2:]
        return self.config.reduction or smallest_reduction(rows, columns, self.config.max_keys)

    def project_query(self, normed: Tensor) -> Tensor:
        """Q with positions: (B, C_x, H, W) -> (B, h, N_q, d_h)."""
        return self._placed(self.to_query(normed))

    def project_key(self, normed: Tensor) -> Tensor:
        """K with positions: (B, C_y, H, W) -> (B, h, N_k, d_h)."""
        return self._placed(self.to_key(normed))

    def _placed(self, projected: Tensor) -> Tensor:
        tokens = _tokens(projected, self.config.heads)
        if not self.config.positions:
            return tokens
        rows, columns = projected.shape[2:]
        return tokens + position_code(rows, columns, tokens.shape[-1]).to(tokens)

    def _check(self, x: Tensor, y: Tensor, temperature: float) -> None:
        wanted = (self.config.query_channels, self.config.key_channels)
        if (x.shape[1], y.shape[1]) != wanted:
            raise CrossfuseError(
                "This block takes maps of {wanted_x} and {wanted_y} channels; got {x} and {y}.",
                wanted_x=wanted[0],
                wanted_y=wanted[1],
                x=x.shape[1],
                y=y.shape[1],
            )
        if not temperature > 0:
            raise CrossfuseError(
                "The temperature must be above 0, not {temperature}.", temperature=temperature
            )

    @staticmethod
    def example_inputs(config: FeatureMapConfig, batch: int, seed: int) -> dict[str, Any]:
        """Random maps on unequal grids; part of each key map is padding."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, config.query_channels, 4, 5, generator=generator)
        y = torch.randn(batch, config.key_channels, 7, 6, generator=generator)
        key_mask = torch.ones(batch, 7, 6, dtype=torch.bool)
        key_mask[:, 5:, 4:] = False
        return {"x": x, "y": y, "key_mask": key_mask}


@dataclass(frozen=True)
class PairOutput:
    """Both maps after each asked the other; ``maps``: first "x->y", then "y->x"."""

    x: Tensor
    y: Tensor
    maps: tuple[LayerMap, ...]


class FeatureMapPair(nn.Module):
    """x asks y and y asks x, by two blocks with weights of their own."""

    def __init__(self, config: FeatureMapConfig) -> None:
        super().__init__()
        turned = {"query_channels": config.key_channels, "key_channels": config.query_channels}
        self.x_asks = FeatureMapAttention(config)
        self.y_asks = FeatureMapAttention(FeatureMapConfig(**{**vars(config), **turned}))

    def forward(self, x: Tensor, y: Tensor, want: Want = NOTHING) -> PairOutput:
        """Both directions from the same two maps; shapes as :class:`FeatureMapAttention`."""
        forth = self.x_asks(x, y, want=want)
        back = self.y_asks(y, x, want=want, direction="y->x")
        return PairOutput(forth.output, back.output, forth.maps + back.maps)


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell; cells do not see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def _tokens(grid: Tensor, heads: int) -> Tensor:
    """(B, d, H, W) -> (B, h, H W, d / h), row by row."""
    return split_heads(grid.flatten(2).transpose(1, 2).contiguous(), heads)


def smallest_reduction(rows: int, columns: int, max_keys: int) -> int:
    """The smallest r with ceil(rows / r) * ceil(columns / r) <= max_keys."""
    r = 1
    while -(-rows // r) * -(-columns // r) > max(max_keys, 1):
        r += 1
    return r


def reduce_keys(y: Tensor, key_mask: Tensor | None, r: int) -> tuple[Tensor, Tensor | None]:
    """Mean of the real cells of every r x r square; squares at the far border may be smaller.

    Returns:
        (B, C, ceil(H / r), ceil(W / r)) and the mask (B, N_k) of squares with a real cell.
    """
    if r == 1:
        return y, None if key_mask is None else key_mask.flatten(1)
    real = torch.ones_like(y[:, :1]) if key_mask is None else key_mask[:, None].to(y.dtype)
    beyond = (0, -y.shape[3] % r, 0, -y.shape[2] % r)
    total = F.avg_pool2d(F.pad(y * real, beyond), r)
    share = F.avg_pool2d(F.pad(real, beyond), r)
    pooled = total / share.clamp(min=1e-6)
    return pooled, None if key_mask is None else (share > 0).flatten(1)


def position_code(rows: int, columns: int, width: int) -> Tensor:
    """2-D sin-cos code (rows * columns, width) of each cell's place as a share of the side.

    A quarter of the width each: sine and cosine of x, sine and cosine of y, at 1 to 16 half
    cycles a side; equal places of two grids have equal codes.
    """
    count = width // 4
    cycles = 16 ** (torch.arange(count) / max(count - 1, 1)) * math.pi
    y, x = (((torch.arange(n) + 0.5) / n)[:, None] * cycles for n in (rows, columns))
    across = torch.cat([x.sin(), x.cos()], 1).expand(rows, columns, -1)
    down = torch.cat([y.sin(), y.cos()], 1)[:, None].expand(rows, columns, -1)
    return torch.cat([across, down], 2).flatten(0, 1)


def frozen_heads(x: Tensor, y: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Features themselves as query and key: no learned projection at all.

    Every channel is standardised over the cells of both maps, channels are dealt out to heads,
    and each head's vector gets length 1, so that scores are cosines. Attend with
    ``scale = 1 / temperature``; 0.05 to 0.2 is a useful range.

    Args:
        x, y: (B, C, H_q, W_q) and (B, C, H_k, W_k) from one encoder.

    Returns:
        query (B, heads, N_q, C // heads) and key (B, heads, N_k, C // heads).

    Raises:
        CrossfuseError: unequal channels, or fewer channels than heads.
    """
    channels = x.shape[1]
    if channels != y.shape[1]:
        raise CrossfuseError(
            "Without projections both maps need the same channels; got {x} and {y}.",
            x=channels,
            y=y.shape[1],
        )
    if not 1 <= heads <= channels:
        raise CrossfuseError(
            "{channels} channels can be shared by 1 to {channels} heads.", channels=channels
        )
    both = torch.cat([x.flatten(2), y.flatten(2)], 2)
    mean, spread = both.mean(2, keepdim=True), both.std(2, keepdim=True, correction=0)
    unit = (both - mean) / spread.clamp(min=1e-6)
    unit = unit[:, : channels // heads * heads].unflatten(1, (heads, -1)).transpose(2, 3)
    unit = F.normalize(unit, dim=-1)
    return unit[:, :, : x[0, 0].numel()], unit[:, :, x[0, 0].numel() :]

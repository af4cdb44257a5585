"""A sparse voxel U-Net in plain PyTorch: gather, multiply, scatter; no compiled extension.

Layout of MinkUNet18A (Choy, Gwak, Savarese, "4D Spatio-Temporal ConvNets", CVPR 2019): a stem,
strided 2x2x2 convolutions downwards with residual blocks after each, transposed ones upwards with
skip connections. Only occupied voxels exist; a 3x3x3 convolution writes at the places it reads
(submanifold convolution, Graham et al., CVPR 2018). On a fully occupied grid both kinds of layer
are equal to ``torch.nn.Conv3d``.

A :class:`Grid` holds one resolution. Its *rulebook*, the (input row, output row) pairs of every
kernel offset, is found by binary search in the sorted voxel keys and shared by all layers there.
On a GPU a grid gives tables instead (:mod:`crossfuse.models.sparse_tables`); results are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.models.sparse_tables import (
    Grow,
    Neighbours,
    Shrink,
    Table,
    child_table,
    convolve,
    neighbour_table,
)

BITS = 18  # per axis in a voxel key; 9 are left for the sample within a batch
SPAN = 1 << BITS
Rules = list[tuple[Tensor, Tensor]]


class Grid:
    """Occupied voxels of one resolution, sorted. ``cells`` (N, 4) int64: sample, x, y, z >= 0.

    ``tables``: give tables instead of rulebooks; by default on a GPU only.
    """

    def __init__(self, cells: Tensor, tables: bool | None = None) -> None:
        self.cells = cells
        self.keys = voxel_keys(cells, check=False)
        self.tables = cells.is_cuda if tables is None else tables
        self._rules: dict[int, Rules | Table] = {}
        self._coarser: tuple[Grid, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def rules(self, kernel: int) -> Rules | Table:
        """Pairs for a submanifold convolution, one (inputs, outputs) per offset; or a table.

        The order of offsets is that of Conv3d: output at p reads p + offset.
        """
        if kernel not in self._rules:
            reach = range(-(kernel // 2), kernel // 2 + 1)
            shifts = [(x * SPAN + y) * SPAN + z for x, y, z in product(reach, reach, reach)]
            if self.tables:
                every = torch.tensor(shifts, device=self.keys.device)
                self._rules[kernel] = Neighbours(neighbour_table(self.keys, every))
                return self._rules[kernel]
            found: Rules = []
            for shift in shifts[: len(shifts) // 2]:
                wanted = self.keys + shift
                at = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
                outputs = torch.nonzero(self.keys[at] == wanted).squeeze(1)
                found.append((at[outputs], outputs))
            itself = torch.arange(len(self.keys), device=self.keys.device)
            mirrored = [(outputs, inputs) for inputs, outputs in reversed(found)]
            self._rules[kernel] = [*found, (itself, itself), *mirrored]
        return self._rules[kernel]

    def coarser(self) -> tuple[Grid, Tensor, Tensor]:
        """The grid of twice the voxel size, and each row's parent row (N,) and octant 0..7 (N,)."""
        if self._coarser is None:
            half = self.cells.clone()
            half[:, 1:] = half[:, 1:] >> 1
            keys, parent = torch.unique(voxel_keys(half, check=False), return_inverse=True)
            mask = SPAN - 1
            cells = torch.stack(
                [
                    keys >> (3 * BITS),
                    ((keys >> (2 * BITS)) & mask) - 1,
                    ((keys >> BITS) & mask) - 1,
                    (keys & mask) - 1,
                ],
                1,
            )
            odd = self.cells[:, 1:] & 1
            self._coarser = (
                Grid(cells, self.tables),
                parent,
                odd[:, 0] * 4 + odd[:, 1] * 2 + odd[:, 2],
            )
        return self._coarser

    def octant_rules(self) -> Rules | Table:
        """(this row, parent row) pairs, one list per octant: the 2x2x2 stride-2 convolution."""
        coarse, parent, octant = self.coarser()
        if self.tables:
            return child_table(parent, octant, len(coarse))
        rows = [torch.nonzero(octant == index).squeeze(1) for index in range(8)]
        return [(row, parent[row]) for row in rows]


def voxel_keys(cells: Tensor, *, check: bool = True) -> Tensor:
    """One sortable integer per cell (N, 4). Each axis is shifted by one, so that -1 fits too.

    ``check=False``: the range is known to be right (looking it up makes a GPU wait).

    Raises:
        ValueError: a coordinate outside 0..2^18 - 3, or more than 512 samples.
    """
    check = check and len(cells) > 0
    if check and (int(cells[:, 1:].min()) < 0 or int(cells[:, 1:].max()) > SPAN - 3):
        raise ValueError(f"voxel coordinates must lie in 0..{SPAN - 3}")
    if check and int(cells[:, 0].max()) >= 1 << (63 - 3 * BITS):
        raise ValueError("too many samples in one batch of voxels")
    sample, x, y, z = cells.unbind(1)
    return ((sample * SPAN + x + 1) * SPAN + y + 1) * SPAN + z + 1


def batch_grid(cells: Tensor, mask: Tensor, tables: bool | None = None) -> tuple[Grid, Tensor]:
    """Grid of a padded batch. cells (B, N, 3) int64, mask (B, N) True = a voxel.

    Raises:
        ValueError: see :func:`voxel_keys`.

    Returns the grid (sorted) and the order: grid row r is row order[r] of ``cells.flatten(0, 1)``.
    The range of the cells is checked on a CPU only; a GPU would have to wait.
    """
    kept = torch.nonzero(mask.flatten()).squeeze(1)
    sample = torch.div(kept, cells.shape[1], rounding_mode="floor")
    flat = torch.cat([sample[:, None], cells.flatten(0, 1).index_select(0, kept).long()], 1)
    order = torch.argsort(voxel_keys(flat, check=not cells.is_cuda))
    return Grid(flat.index_select(0, order), tables), kept.index_select(0, order)


class _GatherScatter(torch.autograd.Function):
    """out[o] = sum over offsets k and pairs (i, o) of k: x[i] @ weight[k]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rules: Rules, rows: int) -> Tensor:
        out = x.new_zeros(rows, weight.shape[2])
        for kernel, (inputs, outputs) in zip(weight, rules, strict=True):
            if len(inputs):
                out.index_add_(0, outputs, x.index_select(0, inputs) @ kernel)
        ctx.save_for_backward(x, weight)
        ctx.rules = rules
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        for index, (inputs, outputs) in enumerate(ctx.rules):
            if len(inputs):
                part = grad.index_select(0, outputs)
                grad_weight[index] = x.index_select(0, inputs).T @ part
                grad_x.index_add_(0, inputs, part @ weight[index].T)
        return grad_x, grad_weight, None, None


def upward(rules: Rules | Table) -> Rules | Table:
    """The rules of the transposed convolution that undoes :meth:`Grid.octant_rules`."""
    if isinstance(rules, list):
        return [(parent, row) for row, parent in rules]
    assert isinstance(rules, Shrink)
    return Grow(rules)


class SparseConv(nn.Module):
    """Convolution by rules. ``weight`` (offsets, in, out): Conv3d's kernel, offsets first."""

    def __init__(self, offsets: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(offsets, inputs, outputs))
        # About a third of a surface's neighbours exist: count those in the fan-in.
        nn.init.normal_(self.weight, std=(2.0 / (inputs * max(1.0, offsets / 3))) ** 0.5)

    def forward(self, x: Tensor, rules: Rules | Table, rows: int) -> Tensor:
        if not isinstance(rules, list):
            return convolve(x, self.weight, rules)
        return _GatherScatter.apply(x, self.weight, rules, rows)


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


class ResidualBlock(nn.Module):
    """Two submanifold 3x3x3 convolutions with a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, width: int, norm: str) -> None:
        super().__init__()
        self.first, self.first_norm = SparseConv(27, inputs, width), _norm(norm, width)
        self.second, self.second_norm = SparseConv(27, width, width), _norm(norm, width)
        self.shortcut = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        rules, rows = grid.rules(3), len(grid)
        inner = F.relu(self.first_norm(self.first(x, rules, rows)))
        inner = self.second_norm(self.second(inner, rules, rows))
        return F.relu(inner + self.shortcut(x))


class _Pointwise(nn.Module):
    """Mixes channels without looking at neighbours."""

    def __init__(self, inputs: int, width: int, norm: str) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(inputs, width, bias=False), _norm(norm, width)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return F.relu(self.norm(self.mix(x)))


@dataclass(frozen=True)
class SparseUNetConfig:
    """``down`` / ``up``: widths per level; ``down_blocks`` / ``up_blocks``: residual blocks there.

    A level without blocks mixes its channels point by point instead.

    ``stem_kernel`` 5 is MinkUNet's first layer; 0 starts with the strided convolution itself, so
    that the finest voxels give shape but carry no convolution (cheap: the small model).
    """

    inputs: int = 3
    stem: int = 32
    stem_kernel: int = 5
    down: tuple[int, ...] = (32, 64, 128, 256)
    up: tuple[int, ...] = (128, 128, 96, 96)
    down_blocks: tuple[int, ...] = (2, 2, 2, 2)
    up_blocks: tuple[int, ...] = (2, 2, 2, 2)
    norm: str = "batch"

    @classmethod
    def minkunet18a(cls, inputs: int = 3) -> SparseUNetConfig:
        """The published backbone, 96 output channels at full resolution."""
        return cls(inputs=inputs)

    @classmethod
    def small(cls, inputs: int) -> SparseUNetConfig:
        """For a CPU too: one block a level, and none at the finest, where voxels are many."""
        return cls(inputs, 24, 3, (32, 64, 96, 112), (96, 64, 48), (1, 1, 1, 1), (1, 1, 1))

    @property
    def outputs(self) -> int:
        return self.up[-1]


@dataclass
class _Level:
    grid: Grid
    features: Tensor
    rules: Rules | Table = field(default_factory=list)


class SparseUNet(nn.Module):
    """Features (N, outputs) for the voxels of a grid from input features (N, inputs)."""

    def __init__(self, config: SparseUNetConfig) -> None:
        super().__init__()
        self.config = config
        width, norm = config.inputs, config.norm
        if config.stem_kernel:
            self.stem = SparseConv(config.stem_kernel**3, width, config.stem)
            self.stem_norm = _norm(norm, config.stem)
            width = config.stem
        widths = [width]
        self.shrink, self.shrink_norm = nn.ModuleList(), nn.ModuleList()
        self.down = nn.ModuleList()
        for index, planes in enumerate(config.down):
            # MinkUNet keeps the width while shrinking and widens in the block that follows.
            kept = planes if index == 0 and not config.stem_kernel else width
            self.shrink.append(SparseConv(8, width, kept))
            self.shrink_norm.append(_norm(norm, kept))
            self.down.append(_blocks(kept, planes, config.down_blocks[index], norm))
            width = planes
            widths.append(width)
        self.grow, self.grow_norm, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, planes in enumerate(config.up):
            self.grow.append(SparseConv(8, width, planes))
            self.grow_norm.append(_norm(norm, planes))
            joined = planes + widths[-2 - index]
            self.up.append(_blocks(joined, planes, config.up_blocks[index], norm))
            width = planes

    def forward(self, features: Tensor, grid: Grid) -> Tensor:
        x = features
        if self.config.stem_kernel:
            rules = grid.rules(self.config.stem_kernel)
            x = F.relu(self.stem_norm(self.stem(x, rules, len(grid))))
        levels = [_Level(grid, x)]
        for shrink, norm, blocks in zip(self.shrink, self.shrink_norm, self.down, strict=True):
            fine = levels[-1]
            coarse = fine.grid.coarser()[0]
            fine.rules = fine.grid.octant_rules()
            x = F.relu(norm(shrink(fine.features, fine.rules, len(coarse))))
            for block in cast(nn.ModuleList, blocks):
                x = block(x, coarse)
            levels.append(_Level(coarse, x))
        levels.pop()
        for grow, norm, blocks in zip(self.grow, self.grow_norm, self.up, strict=True):
            fine = levels.pop()
            x = F.relu(norm(grow(x, upward(fine.rules), len(fine.grid))))
            x = torch.cat([x, fine.features], 1)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, fine.grid)
        while levels:  # levels without a block of their own take their parent's feature
            fine = levels.pop()
            x = x.index_select(0, fine.grid.coarser()[1])
        return x


def _blocks(inputs: int, width: int, count: int, norm: str) -> nn.ModuleList:
    if not count:
        return nn.ModuleList([_Pointwise(inputs, width, norm)] if inputs != width else [])
    return nn.ModuleList(
        ResidualBlock(inputs if i == 0 else width, width, norm) for i in range(count)
    )

"""Sparse convolution by tables: one gather and one large matrix product a layer, for a GPU.

A rulebook (:mod:`crossfuse.models.sparse_unet`) wastes nothing, but launches several small kernels
for each of 27 offsets. A GPU is faster with a table that names the input row of every (output row,
offset), "no such voxel" included: the neighbourhood is gathered as one wide row and multiplied
once. Nothing waits for the GPU, and backward passes gather too, so that they repeat exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """``read`` (N, K): row of each voxel's neighbour at each offset, N where there is none."""

    read: Tensor


@dataclass(frozen=True)
class Shrink:
    """``children`` (N_coarse, 8) rows of the fine grid, N_fine where there is none;
    ``slot`` (N_fine,) = parent row * 8 + octant."""

    children: Tensor
    slot: Tensor


@dataclass(frozen=True)
class Grow:
    """The way back of a :class:`Shrink`."""

    down: Shrink


Table = Neighbours | Shrink | Grow


def neighbour_table(keys: Tensor, shifts: Tensor) -> Tensor:
    """(N, K) rows of keys + shift in the sorted ``keys`` (N,), N where absent."""
    wanted = keys[:, None] + shifts
    at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[at] == wanted, at, len(keys))


def child_table(parent: Tensor, octant: Tensor, coarse: int) -> Shrink:
    slot = parent * 8 + octant
    children = torch.full((coarse * 8,), len(parent), dtype=torch.long, device=parent.device)
    children[slot] = torch.arange(len(parent), device=parent.device)
    return Shrink(children.view(coarse, 8), slot)


def _gathered(x: Tensor, table: Tensor) -> Tensor:
    """(rows, K * C): the rows of x (N, C) that each table row names, zeros for N."""
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return padded.index_select(0, table.flatten()).view(len(table), -1)


def _spread(x: Tensor, slot: Tensor, weight: Tensor) -> Tensor:
    """out[r] = x[slot[r] // K] @ weight[slot[r] % K]; weight (K, I, O)."""
    wide = x @ weight.transpose(0, 1).flatten(1)
    return wide.view(-1, weight.shape[2]).index_select(0, slot)


class _ConvNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, read: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, read)
        return _gathered(x, read) @ weight.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, read = ctx.saved_tensors
        # i is read by the voxel at the opposite offset: the table mirrored.
        back = _gathered(grad, read.flip(1)) @ weight.transpose(1, 2).flatten(0, 1)
        return back, (_gathered(x, read).T @ grad).view_as(weight), None


class _ConvShrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, children: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, children, slot)
        return _gathered(x, children) @ weight.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, children, slot = ctx.saved_tensors
        back = _spread(grad, slot, weight.transpose(1, 2))
        return back, (_gathered(x, children).T @ grad).view_as(weight), None, None


class _ConvGrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, children: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, children, slot)
        return _spread(x, slot, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, children, _ = ctx.saved_tensors
        near = _gathered(grad, children)
        back = near @ weight.transpose(1, 2).flatten(0, 1)
        count, inputs, outputs = weight.shape
        grad_weight = (x.T @ near).view(inputs, count, outputs).transpose(0, 1)
        return back, grad_weight, None, None


def convolve(x: Tensor, weight: Tensor, table: Table) -> Tensor:
    """Features (rows of the table's outputs, O) from x (N, I) and weight (K, I, O).

    Under autocast both are taken in its type.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
    if isinstance(table, Neighbours):
        return _ConvNeighbours.apply(x, weight, table.read)
    down = table if isinstance(table, Shrink) else table.down
    layer = _ConvShrink if isinstance(table, Shrink) else _ConvGrow
    return layer.apply(x, weight, down.children, down.slot)

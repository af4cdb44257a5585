"""Gradient-weighted relevance (Chefer et al. 2021, arXiv 2103.15679), with pooling operators.

For a target score s, a layer's map A_h and the gradient dA_h = ds / dA_h:

    Abar = mean_h (dA_h * A_h)^+                     eq. 5
    R <- R + Abar R                                  eqs 6 and 7, R = I at the input

and where grids change between layers, with the operators of :mod:`crossfuse.explain.rollout`,

    R <- P_q R + Abar P_k R.

Only the row of the deciding token is wanted, so the recursion is run from the output down, one
vector (or a few) at a time: r <- r (P_q + Abar P_k). Nothing is normalised on the way, by design.
The gradient of a map needs no map in the graph: dA = dO V^T, with dO the gradient at the attention
output (see :func:`crossfuse.attention.gradient_weighted_map`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.explain.rollout import Layer, _check_chain

if TYPE_CHECKING:
    from torch import Tensor

    from crossfuse.attention import LayerMap

TILE_ROWS = 1024


def relevance_rows(layers: Sequence[Layer], start: np.ndarray) -> np.ndarray:
    """``start`` @ prod (P_q + Abar P_k), from the last layer to the first: (S, N).

    ``layers`` hold the gradient-weighted maps in the place of attention; ``start``: (S, M_L), the
    weight of each output token in the decision.

    Raises:
        CrossfuseError: two neighbouring layers of different token counts, or no layers.
    """
    if not layers:
        raise CrossfuseError("There is nothing to carry back: no layers were given.")
    _check_chain(layers)
    result = np.atleast_2d(np.asarray(start, dtype=np.float64))
    for layer in reversed(layers):
        result = result @ layer.residual() + result @ layer.carried()
    return result


def weighted_maps(
    target: Tensor, maps: Sequence[LayerMap], *, positive: bool = True
) -> list[Tensor]:
    """Abar of every map, (B, rows, columns) float32, from one backward pass.

    ``maps`` come from a forward pass with ``Want.everything(check=True)`` and gradients on;
    ``target`` is a scalar of that pass (a logit, or the sum over a batch of one logit each). Maps
    that do not reach the target get zeros. Rows are treated by tiles, so no per-head map of the
    gradient is ever whole in memory.

    Raises:
        CrossfuseError: the maps were made without ``check`` or outside of a graph.
    """
    import torch

    contexts = [entry.context for entry in maps]
    if any(context is None or not context.requires_grad for context in contexts):
        raise CrossfuseError(
            "Relevance needs maps from a forward pass with gradients and Want(check=True)."
        )
    gradients = torch.autograd.grad(target, contexts, allow_unused=True)  # type: ignore[arg-type]
    result = []
    with torch.no_grad():
        for entry, gradient in zip(maps, gradients, strict=True):
            assert entry.value is not None
            weights = entry.weights.detach()
            total = weights.new_zeros((weights.shape[0], *weights.shape[2:]))
            if gradient is not None:
                for first in range(0, weights.shape[2], TILE_ROWS):
                    rows = slice(first, first + TILE_ROWS)
                    tile = gradient[:, :, rows].float() @ entry.value.float().transpose(-2, -1)
                    tile *= weights[:, :, rows]
                    total[:, rows] = (tile.clamp_(min=0) if positive else tile).mean(1)
            result.append(total)
    return result

"""Attention carried through many layers, also where pooling changes the grid between them.

One layer takes N tokens to M tokens. In what follows it is known by three matrices:

    A  (M, K)   its attention map, mean over heads, rows summing to 1
    P_k (K, N)  how the keys were pooled from the tokens that came in
    P_q (M, N)  how the shortcut was pooled from them (the identity where the grid stays)

Rollout (Abnar & Zuidema 2020, arXiv 2005.00928), with pooling operators:

    R = T_L ... T_2 T_1,   T_l = rownorm(P_q + A P_k)

Rows of R sum to 1. For equal grids P = I, and this is the method as published. A depth-wise
convolution is taken as the plain mean of its window, which is an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from crossfuse.errors import CrossfuseError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """``attention`` (M, K), ``keys`` (K, N) or None for K = N unpooled, ``shortcut`` (M, N) or None
    for M = N unpooled."""

    attention: Array
    keys: Array | None = None
    shortcut: Array | None = None

    def __post_init__(self) -> None:
        rows, columns = self.attention.shape
        inputs = columns if self.keys is None else self.keys.shape[1]
        outputs = (inputs, inputs) if self.shortcut is None else (self.shortcut.shape[0], inputs)
        fits = (self.keys is None or self.keys.shape[0] == columns) and outputs[0] == rows
        if self.shortcut is not None:
            fits = fits and self.shortcut.shape[1] == inputs
        if not fits:
            shapes = [None if m is None else m.shape for m in (self.keys, self.shortcut)]
            raise CrossfuseError(
                "An attention map {shape} does not fit its pooling operators {of_queries} and "
                "{of_keys}; a rectangular map needs both.",
                shape=self.attention.shape,
                of_queries=shapes[0],
                of_keys=shapes[1],
            )

    def carried(self) -> Array:
        """A P_k: (M, N)."""
        return self.attention if self.keys is None else self.attention @ self.keys

    def residual(self) -> Array:
        """P_q: (M, N)."""
        return np.eye(len(self.attention)) if self.shortcut is None else self.shortcut


def rollout(layers: Sequence[Layer], start: Array | None = None) -> Array:
    """``start`` @ T_L ... T_1: (rows of start, tokens of the first layer), rows summing to 1.

    ``start``: (S, M_L), rows summing to 1; the identity by default. Memory is O(S N): no product
    of whole matrices is formed when ``start`` has few rows.

    Raises:
        CrossfuseError: two neighbouring layers of different token counts, or no layers.
    """
    if not layers:
        raise CrossfuseError("There is nothing to roll out: no layers were given.")
    _check_chain(layers)
    result = np.eye(len(layers[-1].attention)) if start is None else np.atleast_2d(start)
    for layer in reversed(layers):
        result = result @ row_normalised(layer.residual() + layer.carried())
    return np.asarray(result)


def row_normalised(matrix: Array) -> Array:
    """Rows divided by their sum; a row of zeros stays as it is."""
    total = matrix.sum(axis=1, keepdims=True)
    return np.asarray(matrix / np.where(total == 0, 1.0, total))


def pooling_operator(rows: int, columns: int, stride: int, special: int = 0) -> Array:
    """Mean over the 3 x 3 window of a pool of that stride, padded by 1: (M, N), rows summing to 1.

    N = special + rows * columns; each side of the result has floor((n - 1) / stride) + 1 cells.
    ``special`` tokens in front (class tokens) are handed on as they are.
    """
    by_row, by_column = _windows(rows, stride), _windows(columns, stride)
    cells = np.kron(by_row, by_column)
    result = np.zeros((special + cells.shape[0], special + cells.shape[1]))
    result[:special, :special] = np.eye(special)
    result[special:, special:] = cells
    return result


def _windows(cells: int, stride: int) -> Array:
    centres = np.arange(0, cells, stride)
    inside = np.abs(np.arange(cells)[None, :] - centres[:, None]) <= 1
    return row_normalised(inside.astype(float))


def _check_chain(layers: Sequence[Layer]) -> None:
    for number, (before, after) in enumerate(pairwise(layers)):
        out, into = len(before.attention), after.residual().shape[1]
        if out != into:
            raise CrossfuseError(
                "Layer {number} gives {out} tokens but layer {next} takes {into}: rollout "
                "needs every layer in between, with its pooling operators.",
                number=number,
                out=out,
                next=number + 1,
                into=into,
            )

"""Gradients with respect to a map that is never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from crossfuse.attention.scores import (
    allowed_pairs,
    masked_scores,
    part_of,
    softmax_over_keys,
    take_rows,
    wide,
)

# Scores held at a time where a result is built by tiles: 4 MiB of float32. Smaller tiles spend
# their time in dispatch, larger ones out of the cache.
TILE_ELEMENTS = 1 << 20


def map_gradient(grad_output: Tensor, value: Tensor, rows: Tensor | None = None) -> Tensor:
    """dL/dA = dO Vᵀ, exact, without A in the graph: (B, H, R, N_k) float32.

    ``grad_output`` (B, H, N_q, D_v) is the gradient at the attention output, before the output
    projection. Ask for ``rows`` to keep it small.
    """
    if rows is not None:
        grad_output = take_rows(grad_output, rows.to(grad_output.device))
    return wide(grad_output) @ wide(value).transpose(-2, -1)


def gradient_weighted_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_output: Tensor,
    *,
    key_mask: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    positive: bool = True,
) -> Tensor:
    """mean over heads of (dA o A), with its positive part by default: (B, N_q, N_k) float32.

    Chefer et al. 2021 (arXiv 2103.15679), eq. 5. Works tile by tile from Q, K, V and dO, so that
    no per-head map is kept.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    allowed = allowed_pairs(mask, key_mask)
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    result = wide(query.new_zeros((batch, queries, keys)))
    step = max(1, TILE_ELEMENTS // max(1, batch * keys))
    with torch.no_grad():
        for head in range(heads):
            one = slice(head, head + 1)
            for start in range(0, queries, step):
                rows = slice(start, start + step)
                tile_mask, tile_bias = part_of(allowed, one, rows), part_of(bias, one, rows)
                scores = masked_scores(
                    query[:, one, rows], key[:, one], tile_mask, tile_bias, scale
                )
                weighted = softmax_over_keys(scores, tile_mask)
                weighted *= map_gradient(grad_output[:, one, rows], value[:, one])
                result[:, rows] += (weighted.clamp_(min=0) if positive else weighted)[:, 0]
    return result / heads

"""The steps of attention: scores, masks, softmax; in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_scores(
    query: Tensor, key: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Scaled, biased and masked scores in float32."""
    scores = (wide(query) * scale) @ wide(key).transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~(allowed | without_key(allowed)), float("-inf"))
    return scores


def softmax_over_keys(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax over keys, in place where autograd does not look; a row without keys is zeros."""
    if torch.is_grad_enabled() and scores.requires_grad:
        weights = torch.softmax(scores, dim=-1)
    else:
        weights = torch.softmax(scores, dim=-1, out=scores)
    if allowed is None:
        return weights
    return weights.masked_fill(without_key(allowed), 0.0)


def without_key(allowed: Tensor) -> Tensor:
    """Queries that may attend to nothing. Their scores are -inf throughout, which is NaN in value
    and gradient of a softmax: such a row is computed as if it saw all, and then blanked."""
    return ~allowed.any(-1, keepdim=True)


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def allowed_pairs(mask: Tensor | None, key_mask: Tensor | None) -> Tensor | None:
    """One bool mask broadcastable to (B, H, N_q, N_k), or None."""
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError("mask must be bool (True = may be attended to); use bias to add numbers")
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    if key_mask is None:
        return mask
    padding = key_mask.bool()[:, None, None, :]
    return padding if mask is None else mask & padding


def take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows (R,) or (B, R) of a tensor (B, H, N, X); a broadcast row axis stays as it is."""
    tensor = tensor[(None,) * (4 - tensor.dim())]
    if tensor.shape[2] == 1 and not (rows == 0).all():
        return tensor
    if rows.dim() == 1:
        return tensor.index_select(2, rows)
    _, heads, _, width = tensor.shape
    tensor = tensor.expand(len(rows), heads, -1, width)
    return tensor.gather(2, rows[:, None, :, None].expand(-1, heads, -1, width))


def part_of(tensor: Tensor | None, heads: slice, rows: slice = slice(None)) -> Tensor | None:
    """What of a broadcastable mask or bias that belongs to these heads and rows."""
    if tensor is None:
        return None
    tensor = tensor[(None,) * (4 - tensor.dim())]
    if tensor.shape[1] > 1:
        tensor = tensor[:, heads]
    return tensor[:, :, rows] if tensor.shape[2] > 1 else tensor

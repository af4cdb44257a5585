"""The fused output, and exactly the part of the map that is wanted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.attention.scores import (
    allowed_pairs,
    masked_scores,
    part_of,
    softmax_over_keys,
    take_rows,
    without_key,
)
from crossfuse.attention.want import NOTHING, Attended, Want


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, H * D) -> (B, H, N, D)."""
    batch, count, width = tokens.shape
    return tokens.view(batch, count, heads, width // heads).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(B, H, N, D) -> (B, N, H * D)."""
    return tokens.transpose(1, 2).flatten(2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_mask: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    want: Want = NOTHING,
) -> Attended:
    """Scaled dot-product attention, and the part of its map that is wanted.

    Args:
        query, key, value: (B, H, N_q, D), (B, H, N_k, D), (B, H, N_k, D_v).
        key_mask: (B, N_k) bool, True = a real key (False = padding).
        mask: bool, broadcastable to (B, H, N_q, N_k), True = may be attended to.
        bias: float, broadcastable to (B, H, N_q, N_k), added to the scaled scores.
        scale: factor of the scores; 1 / sqrt(D) by default.
        dropout: probability on the weights of the output only; returned maps never have it.
        want: what of the map to return.

    A query that may attend to nothing gets an output and a map row of zeros.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    allowed = allowed_pairs(mask, key_mask)
    if want.kind == "everything" and not dropout and want.heads is None:
        return _whole(query, key, value, allowed, bias, scale, want)
    output = _fused(query, key, value, allowed, bias, scale, dropout)
    if not want.any:
        return Attended(output)
    query, key, allowed, bias = _choose_heads(want.heads, query, key, allowed, bias)
    if want.kind == "groups":
        assert want.groups is not None
        weights = _grouped(query, key, want.groups, allowed, bias, scale)
    else:
        rows = want.rows if want.kind == "rows" else None
        weights = map_rows(query, key, rows, mask=allowed, bias=bias, scale=scale)
    return Attended(output, weights.mean(1, keepdim=True) if want.head_mean else weights)


def map_rows(
    query: Tensor,
    key: Tensor,
    rows: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Exact rows of the map: (B, H, R, N_k) float32 for ``rows`` (R,) or (B, R); all for None."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if rows is not None:
        # Looked at where they are: rows that come from the CPU cost a GPU no wait.
        low, high = (int(bound) for bound in rows.aminmax()) if rows.numel() else (0, 0)
        if not 0 <= low <= high < query.shape[2]:
            raise ValueError(f"rows {low}..{high} are not within 0..{query.shape[2] - 1}")
        rows = rows.to(query.device, non_blocking=True)
        query = take_rows(query, rows)
        mask = take_rows(mask, rows) if mask is not None else None
        bias = take_rows(bias, rows) if bias is not None else None
    return softmax_over_keys(masked_scores(query, key, mask, bias, scale), mask)


# ------------------------------------------------------------------------------- the three paths


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """PyTorch's fused kernel; queries without any key give zeros instead of NaN."""
    empty = None
    attn_mask = bias
    if allowed is not None:
        empty = without_key(allowed)
        allowed = allowed | empty
        attn_mask = allowed
        if bias is not None:
            attn_mask = bias.masked_fill(~allowed, float("-inf"))
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, dropout_p=dropout, scale=scale
    )
    return output if empty is None else output.masked_fill(empty, 0.0)


def _whole(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    scale: float,
    want: Want,
) -> Attended:
    """The whole map and the output from it; softmax in place where no gradient is needed."""
    if not want.head_mean:
        weights = map_rows(query, key, mask=allowed, bias=bias, scale=scale)
        return Attended(weights.to(value.dtype) @ value, weights)
    total: Tensor | None = None
    outputs = []
    for head in range(query.shape[1]):  # one head's map at a time, never all of them
        one = slice(head, head + 1)
        weights = map_rows(
            query[:, one],
            key[:, one],
            mask=part_of(allowed, one),
            bias=part_of(bias, one),
            scale=scale,
        )
        outputs.append(weights.to(value.dtype) @ value[:, one])
        total = weights if total is None else total + weights
    assert total is not None
    return Attended(torch.cat(outputs, 1), total / query.shape[1])


def _grouped(
    query: Tensor,
    key: Tensor,
    groups: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Mass on groups of keys: the fused kernel with group membership in the place of V."""
    batch, heads, keys, width = key.shape
    if groups.dim() == 1:
        if groups.shape[0] != keys:
            raise ValueError(f"{groups.shape[0]} group labels were given for {keys} keys")
        count = max(int(groups.max()) + 1, 1) if groups.numel() else 1
        labels = groups.to(key.device)[:, None]
        member = key.new_zeros(keys, count)
        groups = member.scatter_(1, labels.clamp(min=0), (labels >= 0).to(key.dtype))
    if groups.shape[-2] != keys:
        raise ValueError(f"group weights {tuple(groups.shape)} do not fit {keys} keys")
    groups = groups.to(key.device, key.dtype)
    groups = groups.expand(batch, 1, keys, -1) if groups.dim() == 2 else groups[:, None]
    masses = []
    for part in groups.split(width, dim=-1):
        # The fused kernel wants V as wide as Q and K; the padding costs less than losing it.
        padded = F.pad(part, (0, width - part.shape[-1])).expand(batch, heads, keys, width)
        mass = _fused(query, key, padded, allowed, bias, scale)
        masses.append(mass[..., : part.shape[-1]].float())
    return torch.cat(masses, dim=-1)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = tuple(tuple(part.shape) for part in (query, key, value))
    fits = (
        all(len(shape) == 4 for shape in shapes)
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[3] == key.shape[3]
        and key.shape[2] == value.shape[2]
    )
    if not fits:
        raise ValueError(
            "query (B, H, N_q, D), key (B, H, N_k, D) and value (B, H, N_k, D_v) do not fit "
            f"together: {shapes[0]}, {shapes[1]}, {shapes[2]}"
        )


def _choose_heads(
    heads: tuple[int, ...] | None,
    query: Tensor,
    key: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    if heads is None:
        return query, key, allowed, bias
    count = query.shape[1]
    if any(not -count <= head < count for head in heads):
        raise ValueError(f"heads {heads} are not all within the {count} heads there are")
    index = torch.tensor([head % count for head in heads], device=query.device)

    def pick(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        tensor = tensor[(None,) * (4 - tensor.dim())]
        return tensor.index_select(1, index) if tensor.shape[1] > 1 else tensor

    return query.index_select(1, index), key.index_select(1, index), pick(allowed), pick(bias)

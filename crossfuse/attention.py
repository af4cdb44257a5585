"""The one attention kernel: a fused output, and exactly the part of the map that is asked for.

    S = Q Kᵀ · scale + bias        (N_q x N_k), scale = 1 / sqrt(D) unless given
    A = softmax over keys (S)      every row sums to 1; masked keys get exactly 0
    O = A V                        (Vaswani et al. 2017, eq. 1, per head)

The output comes from PyTorch's fused kernel, which never forms A. A :class:`Want` says what of A
to return beside it: nothing, everything, chosen query rows, or the mass on groups of keys, for all
heads, chosen heads, or their mean. Only ``Want.everything()`` materialises N_q x N_k. Maps are
returned in float32 and are computed in float32 also for half-precision inputs.

Shapes throughout: query (B, H, N_q, D), key (B, H, N_k, D), value (B, H, N_k, D_v).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# Scores held at a time where a result is built by tiles: 4 MiB of float32. Smaller tiles spend
# their time in dispatch, larger ones out of the cache.
TILE_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Want:
    """What of the map a caller asks for. Build it with the class methods.

    ``rows``: (R,) or (B, R) query indices. ``groups``: (N_k,) integer labels 0..G-1 (negative =
    no group), or (N_k, G) / (B, N_k, G) membership weights. ``heads``: which heads to return.
    ``head_mean``: average the (chosen) heads into one. ``check``: records also carry value and
    output, for tests that multiply the map by the value.
    """

    kind: Literal["nothing", "everything", "rows", "groups"] = "nothing"
    rows: Tensor | None = None
    groups: Tensor | None = None
    heads: tuple[int, ...] | None = None
    head_mean: bool = False
    check: bool = False

    @classmethod
    def nothing(cls) -> Want:
        return cls()

    @classmethod
    def everything(
        cls, *, heads: Sequence[int] | None = None, head_mean: bool = False, check: bool = False
    ) -> Want:
        return cls("everything", heads=_heads(heads), head_mean=head_mean, check=check)

    @classmethod
    def of_rows(
        cls,
        rows: Tensor | Sequence[int],
        *,
        heads: Sequence[int] | None = None,
        head_mean: bool = False,
    ) -> Want:
        indices = torch.as_tensor(rows, dtype=torch.long)
        return cls("rows", rows=indices, heads=_heads(heads), head_mean=head_mean)

    @classmethod
    def of_groups(
        cls, groups: Tensor, *, heads: Sequence[int] | None = None, head_mean: bool = False
    ) -> Want:
        return cls("groups", groups=groups, heads=_heads(heads), head_mean=head_mean)

    @property
    def any(self) -> bool:
        return self.kind != "nothing"

    def with_rows(self, rows: Tensor | Sequence[int]) -> Want:
        """The same wish for chosen rows: what a model asks of one of its layers."""
        return replace(self, kind="rows", rows=torch.as_tensor(rows, dtype=torch.long), groups=None)


NOTHING = Want()


@dataclass(frozen=True)
class Attended:
    """``output``: (B, H, N_q, D_v). ``weights``: (B, heads, rows, columns) float32, or None."""

    output: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class LayerMap:
    """One map that a model returns beside its prediction.

    ``weights``: (B, heads, rows, columns). ``query`` / ``key`` name the two geometries. ``rows``:
    the query items held, where not all are. ``value`` (B, heads, N_k, D_v) and ``context``
    (B, heads, N_q, D_v) are there only on ``Want(check=True)``: weights @ value = context.
    """

    stage: str
    layer: int
    direction: str
    query: str
    key: str
    weights: Tensor
    rows: Tensor | None = None
    value: Tensor | None = None
    context: Tensor | None = None


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
    allowed = _allowed(mask, key_mask)
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
        query = _take_rows(query, rows)
        mask = _take_rows(mask, rows) if mask is not None else None
        bias = _take_rows(bias, rows) if bias is not None else None
    return _softmax(_scores(query, key, mask, bias, scale), mask)


def map_gradient(grad_output: Tensor, value: Tensor, rows: Tensor | None = None) -> Tensor:
    """dL/dA = dO Vᵀ, exact, without A in the graph: (B, H, R, N_k) float32.

    ``grad_output`` (B, H, N_q, D_v) is the gradient at the attention output, before the output
    projection. Ask for ``rows`` to keep it small.
    """
    if rows is not None:
        grad_output = _take_rows(grad_output, rows.to(grad_output.device))
    return _wide(grad_output) @ _wide(value).transpose(-2, -1)


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
    allowed = _allowed(mask, key_mask)
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    result = _wide(query.new_zeros((batch, queries, keys)))
    step = max(1, TILE_ELEMENTS // max(1, batch * keys))
    with torch.no_grad():
        for head in range(heads):
            one = slice(head, head + 1)
            for start in range(0, queries, step):
                rows = slice(start, start + step)
                tile_mask, tile_bias = _tile(allowed, one, rows), _tile(bias, one, rows)
                scores = _scores(query[:, one, rows], key[:, one], tile_mask, tile_bias, scale)
                weighted = _softmax(scores, tile_mask)
                weighted *= map_gradient(grad_output[:, one, rows], value[:, one])
                result[:, rows] += (weighted.clamp_(min=0) if positive else weighted)[:, 0]
    return result / heads


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
        empty = _without_key(allowed)
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
            mask=_tile(allowed, one),
            bias=_tile(bias, one),
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


# -------------------------------------------------------------------------------------- the steps


def _scores(
    query: Tensor, key: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Scaled, biased and masked scores in float32."""
    scores = (_wide(query) * scale) @ _wide(key).transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~(allowed | _without_key(allowed)), float("-inf"))
    return scores


def _softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax over keys, in place where autograd does not look; a row without keys is zeros."""
    if torch.is_grad_enabled() and scores.requires_grad:
        weights = torch.softmax(scores, dim=-1)
    else:
        weights = torch.softmax(scores, dim=-1, out=scores)
    if allowed is None:
        return weights
    return weights.masked_fill(_without_key(allowed), 0.0)


def _without_key(allowed: Tensor) -> Tensor:
    """Queries that may attend to nothing. Their scores are -inf throughout, which is NaN in value
    and gradient of a softmax: such a row is computed as if it saw all, and then blanked."""
    return ~allowed.any(-1, keepdim=True)


def _wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _allowed(mask: Tensor | None, key_mask: Tensor | None) -> Tensor | None:
    """One bool mask broadcastable to (B, H, N_q, N_k), or None."""
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError("mask must be bool (True = may be attended to); use bias to add numbers")
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
    if key_mask is None:
        return mask
    padding = key_mask.bool()[:, None, None, :]
    return padding if mask is None else mask & padding


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


def _take_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows (R,) or (B, R) of a tensor (B, H, N, X); a broadcast row axis stays as it is."""
    tensor = tensor[(None,) * (4 - tensor.dim())]
    if tensor.shape[2] == 1 and not (rows == 0).all():
        return tensor
    if rows.dim() == 1:
        return tensor.index_select(2, rows)
    _, heads, _, width = tensor.shape
    tensor = tensor.expand(len(rows), heads, -1, width)
    return tensor.gather(2, rows[:, None, :, None].expand(-1, heads, -1, width))


def _tile(tensor: Tensor | None, heads: slice, rows: slice = slice(None)) -> Tensor | None:
    """What of a broadcastable mask or bias that belongs to these heads and rows."""
    if tensor is None:
        return None
    tensor = tensor[(None,) * (4 - tensor.dim())]
    if tensor.shape[1] > 1:
        tensor = tensor[:, heads]
    return tensor[:, :, rows] if tensor.shape[2] > 1 else tensor


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


def _heads(heads: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if heads is None else tuple(int(head) for head in heads)

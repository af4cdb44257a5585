"""What a caller may ask of an attention map, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


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


def _heads(heads: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if heads is None else tuple(int(head) for head in heads)

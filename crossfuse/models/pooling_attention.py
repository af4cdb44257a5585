"""Pooling attention over one view or several, with decomposed relative positions.

Fan et al. 2021 (MViT, arXiv 2104.11227), Li et al. 2022 (MViTv2, arXiv 2112.01526). For the tokens
X_v of view v, a grid of h x w cells (after an optional class token, which no pool touches):

    Q_v = pool_q(X_v W_q)   K_v = pool_k(X_v W_k)   V_v = pool_v(X_v W_v)     3 x 3 depth-wise, LN
    Q* = [Q_0; Q_1; ...]    K* = [K_0; K_1; ...]    V* = [V_0; V_1; ...]
    A* = softmax(Q* K*^T / sqrt(d_h) + E)           over all keys of all views that may be asked
    O  = A* V* + Q*                                 residual pooling, patches only; then W_o

With one view this is MViTv2's attention; with several it is the cross-attention of MMViT (Liu et
al. 2023, arXiv 2305.00104). A pool of stride s turns n cells into floor((n - 1) / s) + 1, and
cell i of its output is centred on cell i * s of its input.

E is the decomposed relative position bias, E[i, j] = q_i . R_row[dy] + q_i . R_column[dx] (MViTv2
eq. 4), with dy and dx the distances of the two cells as a fraction of the picture, so that views
of different cell size, or pictures of another size, share one ruler. It never becomes an N_q x N_k
matrix: q_i . R_row is one number for each key *row*, so the query is extended by these numbers and
the key by the one-hot code of its row (likewise columns), and the dot product does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.attention import Attended, Want, attend, merge_heads

Grid = tuple[int, int]


def pooled(cells: int, stride: int) -> int:
    """Cells left after a 3-wide pool of that stride, padded by 1: floor((n - 1) / s) + 1."""
    return (cells - 1) // stride + 1


def pooled_grid(grid: Grid, stride: int) -> Grid:
    return pooled(grid[0], stride), pooled(grid[1], stride)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of one view lie.

    ``grid``: rows and columns of cells; ``stride``: pixels between the centres of two neighbours;
    ``origin``: the pixel that the first cell is centred on, in both directions; ``image``: height
    and width in pixels; ``has_class``: whether a class token comes first.
    """

    grid: Grid
    stride: int
    origin: int
    image: tuple[int, int]
    has_class: bool = False

    def __len__(self) -> int:
        return int(self.has_class) + self.grid[0] * self.grid[1]

    def pooled(self, stride: int) -> Layout:
        return replace(self, grid=pooled_grid(self.grid, stride), stride=self.stride * stride)

    def cell_at(self, x: float, y: float) -> int | None:
        """The token whose cell holds a pixel; None outside of the picture or without cells."""
        rows, columns = self.grid
        inside = 0 <= x < self.image[1] and 0 <= y < self.image[0]
        if not inside or not rows:
            return None
        row = min(max(round((y - self.origin) / self.stride), 0), rows - 1)
        column = min(max(round((x - self.origin) / self.stride), 0), columns - 1)
        return int(self.has_class) + row * columns + column

    def class_only(self) -> Layout:
        return replace(self, grid=(0, 0))


@dataclass(frozen=True)
class Stream:
    """The tokens of one view: (B, [1 +] rows * columns, width), row-major after the class token."""

    tokens: Tensor
    layout: Layout

    @property
    def class_token(self) -> Tensor:
        return self.tokens[:, : int(self.layout.has_class)]

    @property
    def cells(self) -> Tensor:
        return self.tokens[:, int(self.layout.has_class) :]

    def as_map(self) -> Tensor:
        """The cells as (B, width, rows, columns), a channels-last view without a copy."""
        return self.cells.unflatten(1, self.layout.grid).permute(0, 3, 1, 2)

    def with_tokens(self, tokens: Tensor) -> Stream:
        return replace(self, tokens=tokens)


def tokens_of(feature_map: Tensor) -> Tensor:
    """(B, width, rows, columns) -> (B, rows * columns, width)."""
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2)


class Pool(nn.Module):
    """Depth-wise 3 x 3 convolution of a stride over the cells of a stream, then LayerNorm per head.

    (B, [1 +] rows * columns, width) -> (B, H, [1 +] rows' * columns', d_h); class token untouched.
    """

    def __init__(self, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.convolution = nn.Conv2d(
            width, width, 3, stride=stride, padding=1, groups=width, bias=False
        )
        self.norm = nn.LayerNorm(width // heads)

    def forward(self, stream: Stream) -> Tensor:
        cells = tokens_of(self.convolution(stream.as_map()))
        tokens = torch.cat([stream.class_token, cells], 1)
        return self.norm(tokens.unflatten(2, (self.heads, -1))).transpose(1, 2)


class PooledQuery(nn.Module):
    """Norm, projection and pool of one view's queries."""

    def __init__(self, width_in: int, width: int, heads: int, stride: int, patches: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, width)
        self.heads, self.patches, self.stride = heads, patches, stride
        # Where only the class token asks, there is nothing to pool: no such weights are built.
        self.pool = Pool(width, heads, stride) if patches else None
        self.norm = None if patches else nn.LayerNorm(width // heads)

    def forward(self, stream: Stream) -> Tensor:
        if self.pool is not None:
            return self.pool(stream.with_tokens(self.projection(stream.tokens)))
        assert self.norm is not None
        query = self.projection(stream.class_token)
        return self.norm(query.unflatten(2, (self.heads, -1))).transpose(1, 2)


class PooledKeyValue(nn.Module):
    """Projection and pools of one view's keys and values."""

    def __init__(self, width_in: int, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, 2 * width)
        self.key_pool = Pool(width, heads, stride)
        self.value_pool = Pool(width, heads, stride)
        self.stride = stride

    def forward(self, stream: Stream) -> tuple[Tensor, Tensor]:
        key, value = self.projection(stream.tokens).chunk(2, dim=-1)
        return (
            self.key_pool(stream.with_tokens(key)),
            self.value_pool(stream.with_tokens(value)),
        )


class RelativePositions(nn.Module):
    """R_row and R_column of one pair of views: tables (2 * size - 1, d_h) over distances -1 ... 1.

    ``size``: cells of the query view along one side of the picture that the model is made for.
    Distances between two entries of a table are interpolated linearly.
    """

    def __init__(self, size: int, head_width: int) -> None:
        super().__init__()
        self.size = max(size, 2)
        self.rows = nn.Parameter(torch.empty(2 * self.size - 1, head_width))
        self.columns = nn.Parameter(torch.empty(2 * self.size - 1, head_width))
        nn.init.trunc_normal_(self.rows, std=0.02)
        nn.init.trunc_normal_(self.columns, std=0.02)

    def forward(self, query: Tensor, asking: Layout, asked: Layout) -> Tensor:
        """q . R for every key row and column.

        ``query``: (B, H, rows * columns, d_h) of the ``asking`` view's cells. Returns
        (B, H, rows * columns, asked rows + asked columns).
        """
        by_row, by_column = (
            self._entries(table, asking, asked, axis)
            for axis, table in enumerate((self.rows, self.columns))
        )
        query = query.unflatten(2, asking.grid)
        rows = torch.einsum("bnhwd,hkd->bnhwk", query, by_row)
        columns = torch.einsum("bnhwd,wkd->bnhwk", query, by_column)
        return torch.cat([rows, columns], dim=-1).flatten(2, 3)

    def _entries(self, table: Tensor, asking: Layout, asked: Layout, axis: int) -> Tensor:
        """Table entries of every query x key position on one axis: (queries, keys, d_h)."""
        query = asking.origin + torch.arange(asking.grid[axis]) * asking.stride
        key = asked.origin + torch.arange(asked.grid[axis]) * asked.stride
        fraction = (query[:, None] - key[None, :]).to(table.device) / asking.image[axis]
        place = (fraction + 1) * self.size - 1
        low = place.floor().clamp(0, 2 * self.size - 3)
        share = (place - low).clamp(0, 1).unsqueeze(-1).to(table.dtype)
        index = low.long()
        return torch.lerp(table[index], table[index + 1], share)


class PoolingAttention(nn.Module):
    """Views ``asking`` attend, in one softmax, to the keys of the views ``asked``.

    Args:
        width_in, width: of the tokens that enter and leave. heads: of the attention.
        query_stride, key_stride: of the pools.
        allowed: allowed[u] = the views whose keys the cells of view u may see (u itself included).
        class_sees: the views whose keys the class token (of view 0) may see; None = no class token.
        sizes: cells along one side of the made-for picture, after the query pool, view by view.
        class_only: only the class token asks (the last block under a class-token head).
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        heads: int,
        *,
        query_stride: int,
        key_stride: int,
        asking: Sequence[int],
        allowed: dict[int, tuple[int, ...]],
        class_sees: tuple[int, ...],
        sizes: dict[int, int],
        class_only: bool = False,
    ) -> None:
        super().__init__()
        self.asking, self.allowed, self.class_sees = tuple(asking), allowed, class_sees
        seen = set(class_sees) if 0 in self.asking else set()
        if not class_only:
            seen |= {v for u in self.asking for v in allowed[u]}
        self.asked = tuple(sorted(seen))
        self.class_only, self.heads, self.head_width = class_only, heads, width // heads
        self.query_stride, self.key_stride = query_stride, key_stride
        self.queries = nn.ModuleDict(
            {
                str(v): PooledQuery(width_in, width, heads, query_stride, not class_only)
                for v in self.asking
            }
        )
        self.keys_values = nn.ModuleDict(
            {str(v): PooledKeyValue(width_in, width, heads, key_stride) for v in self.asked}
        )
        pairs = [] if class_only else [(u, v) for u in self.asking for v in allowed[u]]
        self.positions = nn.ModuleDict(
            {f"{u}_{v}": RelativePositions(sizes[u], self.head_width) for u, v in pairs}
        )
        self.output = nn.Linear(width, width)

    def forward(
        self, streams: dict[int, Stream], want: Want
    ) -> tuple[dict[int, Stream], Attended, Tensor]:
        """Attended streams of the asking views, context and map, and the values under the map.

        The map is (B, heads, rows, columns): rows are the queries of the asking views one after
        the other, columns the keys of the asked ones; a class token comes first in view 0.
        """
        asking = {view: self.query_layout(streams[view].layout) for view in self.asking}
        asked = {view: streams[view].layout.pooled(self.key_stride) for view in self.asked}
        queries = {view: self.queries[str(view)](streams[view]) for view in self.asking}
        both = [self.keys_values[str(view)](streams[view]) for view in self.asked]
        query = torch.cat(
            [self._with_positions(queries[u], u, asking[u], asked) for u in asking], 2
        )
        key = torch.cat([key for key, _ in both], dim=2)
        value = torch.cat([value for _, value in both], dim=2)
        if not self.class_only:
            codes = place_codes(tuple(asked.values())).to(key)
            key = torch.cat([key, codes.expand(*key.shape[:2], -1, -1)], dim=-1)
        attended = attend(
            query,
            key,
            # The fused kernel wants keys and values of equal width.
            F.pad(value, (0, key.shape[-1] - value.shape[-1])),
            mask=self._mask(asking, asked, query.device),
            scale=1.0,
            want=want,
        )
        context = attended.output[..., : self.head_width]
        result = {}
        parts = context.split([len(layout) for layout in asking.values()], dim=2)
        for part, (view, layout) in zip(parts, asking.items(), strict=True):
            first = int(layout.has_class)
            part = torch.cat(
                [part[:, :, :first], part[:, :, first:] + queries[view][:, :, first:]], 2
            )
            result[view] = Stream(self.output(merge_heads(part)), layout)
        return result, Attended(context, attended.weights), value

    def query_layout(self, layout: Layout) -> Layout:
        return layout.class_only() if self.class_only else layout.pooled(self.query_stride)

    def _with_positions(
        self, query: Tensor, view: int, layout: Layout, asked: dict[int, Layout]
    ) -> Tensor:
        """The scaled query, extended by its relative position scores: (B, H, n, d_h + codes)."""
        # Scaled here and not by the kernel: MViTv2 leaves the position scores unscaled.
        parts = [query * self.head_width**-0.5]
        if not self.class_only:
            first = int(layout.has_class)
            cells = query[:, :, first:]
            for other, there in asked.items():
                name = f"{view}_{other}"
                if name in self.positions:
                    scores = self.positions[name](cells, layout, there)
                    parts.append(F.pad(scores, (0, 0, first, 0)))  # a class token has no place
                else:
                    parts.append(query.new_zeros((*query.shape[:3], sum(there.grid))))
        return torch.cat(parts, dim=-1)

    def _mask(
        self, asking: dict[int, Layout], asked: dict[int, Layout], device: torch.device
    ) -> Tensor | None:
        """(N_q, N_k) bool, True = may be asked; None where every query may ask every key."""
        rows = []
        for view, layout in asking.items():
            cells = [v in self.allowed[view] for v in asked]
            token = [v in self.class_sees for v in asked]
            rows += [token] * int(layout.has_class) + [cells] * (len(layout) - layout.has_class)
        if all(all(row) for row in rows):
            return None
        by_view = torch.tensor(rows, device=device)
        lengths = torch.tensor([len(layout) for layout in asked.values()], device=device)
        return by_view.repeat_interleave(lengths, dim=1)


def place_codes(layouts: Sequence[Layout]) -> Tensor:
    """One-hot row and column codes of the cells of several views: (N_k, sum of rows + columns).

    Every view has code columns of its own; a class token has none set.
    """
    blocks = []
    for layout in layouts:
        rows, columns = layout.grid
        code = torch.cat(
            [
                torch.eye(rows).repeat_interleave(columns, dim=0),
                torch.eye(columns).repeat(rows, 1),
            ],
            dim=1,
        )
        blocks.append(F.pad(code, (0, 0, int(layout.has_class), 0)))
    return torch.block_diag(*blocks)

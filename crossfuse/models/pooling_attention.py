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
of different cell size, or pictures of another size, share one ruler. E never becomes a whole
N_q x N_k matrix. It is the product of two thin ones, scores and codes: q_i . R_row is one number
for each key *row*, and the code of a key is one-hot in its row (likewise columns). On a GPU, and
where gradients are needed, they extend query and key, and the dot product does the rest. On a CPU
without gradients that would make the heads several times wider, so E is added up for a few queries
at a time, a tile small enough to stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.attention import Attended, Want, attend, map_rows, merge_heads

Grid = tuple[int, int]
Scores = list[tuple[Tensor, Tensor]]  # q . R of rows and of columns, for every asked view
BIAS_ELEMENTS = 1 << 18  # scores whose bias is held at a time: 1 MiB, within a core's own cache


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
        return Stream(tokens, self.layout)


def tokens_of(feature_map: Tensor) -> Tensor:
    """(B, width, rows, columns) -> (B, rows * columns, width)."""
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2)


class Pool(nn.Module):
    """Depth-wise 3 x 3 convolution of a stride over the cells of a stream, then LayerNorm per head.

    (B, [1 +] rows * columns, width) -> the class token (B, H, 1, d_h), not pooled, where there is
    one, and the cells (B, H, rows' * columns', d_h).
    """

    def __init__(self, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.convolution = nn.Conv2d(
            width, width, 3, stride=stride, padding=1, groups=width, bias=False
        )
        self.norm = nn.LayerNorm(width // heads)

    def forward(self, stream: Stream) -> list[Tensor]:
        parts = [stream.class_token] if stream.layout.has_class else []
        parts.append(tokens_of(self.convolution(stream.as_map())))
        return [normed_heads(part, self.norm, self.heads) for part in parts]


def normed_heads(tokens: Tensor, norm: nn.LayerNorm, heads: int) -> Tensor:
    """(B, N, H * d_h) -> (B, H, N, d_h), each head of a token normed."""
    return norm(tokens.unflatten(2, (heads, -1))).transpose(1, 2)


class PooledQuery(nn.Module):
    """Norm, projection and pool of one view's queries."""

    def __init__(self, width_in: int, width: int, heads: int, stride: int, patches: bool) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, width)
        self.heads, self.patches, self.stride = heads, patches, stride
        # Where only the class token asks, there is nothing to pool: no such weights are built.
        self.pool = Pool(width, heads, stride) if patches else None
        self.norm = None if patches else nn.LayerNorm(width // heads)

    def forward(self, stream: Stream) -> list[Tensor]:
        if self.pool is not None:
            return self.pool(stream.with_tokens(self.projection(stream.tokens)))
        assert self.norm is not None
        return [normed_heads(self.projection(stream.class_token), self.norm, self.heads)]


class PooledKeyValue(nn.Module):
    """Projection and pools of one view's keys and values."""

    def __init__(self, width_in: int, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width_in, 2 * width)
        self.key_pool = Pool(width, heads, stride)
        self.value_pool = Pool(width, heads, stride)
        self.stride = stride

    def forward(self, stream: Stream) -> tuple[list[Tensor], list[Tensor]]:
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

    def forward(self, query: Tensor, asking: Layout, asked: Layout) -> tuple[Tensor, Tensor]:
        """q . R for every key row, and for every key column.

        ``query``: (B, H, rows * columns, d_h) of the ``asking`` view's cells. Returns
        (B, H, rows * columns, asked rows) and (B, H, rows * columns, asked columns).
        """
        by_row, by_column = (
            self._entries(table, asking, asked, axis)
            for axis, table in enumerate((self.rows, self.columns))
        )
        query = query.unflatten(2, asking.grid)
        rows = torch.einsum("bnhwd,hkd->bnhwk", query, by_row)
        columns = torch.einsum("bnhwd,wkd->bnhwk", query, by_column)
        return rows.flatten(2, 3), columns.flatten(2, 3)

    def _entries(self, table: Tensor, asking: Layout, asked: Layout, axis: int) -> Tensor:
        """Table entries of every query x key position on one axis: (queries, keys, d_h)."""
        shares = interpolation(self.size, asking, asked, axis, table.device, table.dtype)
        return (shares @ table).unflatten(0, (asking.grid[axis], asked.grid[axis]))


@lru_cache(maxsize=256)
def interpolation(
    size: int, asking: Layout, asked: Layout, axis: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Shares of the entries of a table in every query x key distance on one axis.

    (queries * keys, 2 size - 1), rows summing to 1, two neighbouring entries at most in each.
    """
    with torch.inference_mode(False):  # kept: a training step may use it next
        query = asking.origin + torch.arange(asking.grid[axis], device=device) * asking.stride
        key = asked.origin + torch.arange(asked.grid[axis], device=device) * asked.stride
        fraction = (query[:, None] - key[None, :]) / asking.image[axis]
        place = ((fraction + 1) * size - 1).clamp(0, 2 * size - 2).flatten()
        entries = torch.arange(2 * size - 1, device=device)
        return (1 - (place[:, None] - entries).abs()).clamp(min=0).to(dtype)


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
        key = joined([part for keys, _ in both for part in keys])
        value = joined([part for _, values in both for part in values])
        outputs, attended = self._attend(queries, key, value, asking, asked, want)
        result = {}
        for view, layout in asking.items():
            tokens = [merge_heads(next(outputs)) for _ in queries[view]]
            if not self.class_only:
                tokens[-1] = tokens[-1] + merge_heads(queries[view][-1])
            whole = tokens[0] if len(tokens) == 1 else torch.cat(tokens, 1)
            result[view] = Stream(self.output(whole), layout)
        return result, attended, value

    def query_layout(self, layout: Layout) -> Layout:
        return layout.class_only() if self.class_only else layout.pooled(self.query_stride)

    def _attend(
        self,
        queries: dict[int, list[Tensor]],
        key: Tensor,
        value: Tensor,
        asking: dict[int, Layout],
        asked: dict[int, Layout],
        want: Want,
    ) -> tuple[Iterator[Tensor], Attended]:
        """Outputs (B, H, n, d_h) of every part of the queries, and what is wanted of the map."""
        mask = self._mask(asking, asked, key.device)
        parts = [part for own in queries.values() for part in own]
        sizes = [part.shape[2] for part in parts]
        # Not the scores of E: MViTv2 leaves those unscaled.
        scale = self.head_width**-0.5
        if self.class_only:
            found = attend(parts[0], key, value, mask=mask, scale=scale, want=want)
            return iter([found.output]), found
        scores = {view: self._scores(own[-1], view, asking, asked) for view, own in queries.items()}
        layouts = tuple(asked.values())
        if key.is_cuda or torch.is_grad_enabled() or want.kind in ("everything", "groups"):
            query, coded = extended(queries, scores, scale), with_codes(key, layouts)
            # The fused kernel wants keys and values of equal width.
            padded = F.pad(value, (0, coded.shape[-1] - value.shape[-1]))
            found = attend(query, coded, padded, mask=mask, scale=1.0, want=want)
            context = found.output[..., : self.head_width]
            return iter(context.split(sizes, dim=2)), Attended(context, found.weights)
        outputs: list[Tensor] = []
        for view, own in queries.items():
            for part in own:
                row = sum(output.shape[2] for output in outputs)
                outputs.append(
                    attend_by_tiles(
                        part,
                        key,
                        value,
                        scores[view] if part is own[-1] else None,
                        layouts,
                        None if mask is None else mask[row : row + 1],
                    )
                )
        if not want.any:
            return iter(outputs), Attended(outputs[0])
        weights = map_rows(
            extended(queries, scores, scale),
            with_codes(key, layouts),
            want.rows,
            mask=mask,
            scale=1.0,
        )
        weights = weights if want.heads is None else weights[:, list(want.heads)]
        weights = weights.mean(1, keepdim=True) if want.head_mean else weights
        return iter(outputs), Attended(outputs[0], weights)

    def _scores(
        self, cells: Tensor, view: int, asking: dict[int, Layout], asked: dict[int, Layout]
    ) -> Scores:
        """q . R of one view's cells, for the rows and for the columns of every asked view."""
        found = []
        for other, there in asked.items():
            name = f"{view}_{other}"
            if name in self.positions:
                found.append(self.positions[name](cells, asking[view], there))
            else:
                found.append(tuple(cells.new_zeros((*cells.shape[:3], n)) for n in there.grid))
        return found

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
        lengths = torch.tensor([len(layout) for layout in asked.values()])
        return torch.tensor(rows).repeat_interleave(lengths, dim=1).to(device)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """(B, H, n, d) parts one after the other in n; the heads of a token stay side by side."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.transpose(1, 2) for part in parts], 1).transpose(1, 2)


def attend_by_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Scores | None,
    asked: Sequence[Layout],
    mask: Tensor | None,
) -> Tensor:
    """softmax(Q K^T / sqrt(d_h) + E) V, with E made a tile at a time: (B, H, n, d_h).

    ``scores``: of the rows and columns of every asked view; None = no E. ``mask``: (1, N_k).
    """
    if scores is None:
        return attend(query, key, value, mask=mask).output
    batch, heads, count, _ = query.shape
    a_row = heads * key.shape[2]
    # Whole samples, or rows of a single one.
    samples = min(batch, max(1, BIAS_ELEMENTS // (a_row * count)))
    step = count if samples > 1 else max(1, BIAS_ELEMENTS // a_row)
    output = query.new_empty((batch, count, heads, query.shape[3])).transpose(1, 2)
    for sample in range(0, batch, samples):
        some = slice(sample, sample + samples)
        for row in range(0, count, step):
            rows = slice(row, row + step)
            tile = [(down[some, :, rows], along[some, :, rows]) for down, along in scores]
            output[some, :, rows] = attend(
                query[some, :, rows],
                key[some],
                value[some],
                bias=position_bias(tile, asked),
                mask=mask,
            ).output
    return output


def position_bias(scores: Scores, asked: Sequence[Layout]) -> Tensor:
    """E of some queries, from their scores: (B, H, n, N_k). No gradients."""
    first, _ = scores[0]
    bias = first.new_empty((*first.shape[:3], sum(map(len, asked))))
    key = 0
    for (rows, columns), layout in zip(scores, asked, strict=True):
        if layout.has_class:
            bias[..., key] = 0.0  # a class token has no place
            key += 1
        cells = layout.grid[0] * layout.grid[1]
        here = bias[..., key : key + cells].unflatten(-1, layout.grid)
        torch.add(rows[..., :, None], columns[..., None, :], out=here)
        key += cells
    return bias


def extended(queries: dict[int, list[Tensor]], scores: dict[int, Scores], scale: float) -> Tensor:
    """Scaled queries with their position scores: (B, H, N_q, d_h + codes)."""
    parts = []
    for view, own in queries.items():  # a class token has no place: its scores are zero
        codes = torch.cat([part for pair in scores[view] for part in pair], -1)
        parts += [F.pad(token * scale, (0, codes.shape[-1])) for token in own[:-1]]
        parts.append(torch.cat([own[-1] * scale, codes], -1))
    return joined(parts)


def with_codes(key: Tensor, asked: Sequence[Layout]) -> Tensor:
    """Keys with the place codes of their cells: (B, H, N_k, d_h + codes)."""
    codes = place_codes(asked, key.device).to(key)
    return torch.cat([key, codes.expand(*key.shape[:2], -1, -1)], dim=-1)


def place_codes(layouts: Sequence[Layout], device: torch.device | None = None) -> Tensor:
    """One-hot row and column codes of the cells of several views: (N_k, sum of rows + columns).

    Every view has code columns of its own; a class token has none set.
    """
    blocks = []
    for layout in layouts:
        rows, columns = layout.grid
        code = torch.cat(
            [
                torch.eye(rows, device=device).repeat_interleave(columns, dim=0),
                torch.eye(columns, device=device).repeat(rows, 1),
            ],
            dim=1,
        )
        blocks.append(F.pad(code, (0, 0, int(layout.has_class), 0)))
    return torch.block_diag(*blocks)

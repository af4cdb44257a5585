"""The blocks of MMViT and the order they come in. See :mod:`crossfuse.models.mmvit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossfuse.attention import NOTHING, LayerMap, Want
from crossfuse.models.frozen_front import FRONT_CHANNELS, FrozenFront, front_cells
from crossfuse.models.pooling_attention import Layout, PoolingAttention, Stream, pooled, tokens_of
from crossfuse.models.residual_front import DEEPEST, ResidualFront, channels_at

if TYPE_CHECKING:
    from crossfuse.models.mmvit import MMViTConfig

Kind = Literal["self", "cross", "scaled"]


@dataclass(frozen=True)
class BlockPlan:
    """One block: which views enter, which leave, and its sizes.

    ``class_only``: nothing after this block reads a cell, so only the class token asks.
    """

    stage: int
    kind: Kind
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    width_in: int
    width_out: int
    heads: int
    query_stride: int
    key_stride: int
    class_only: bool


def allowed_views(config: MMViTConfig, kind: str, view: int) -> tuple[int, ...]:
    """The views whose keys a cell of ``view`` may see in a block of that kind."""
    if kind != "cross" or config.fusion in ("none", "class_token"):
        return (view,)
    if config.fusion == "joint":
        return tuple(range(config.views))
    return tuple(v for v in (view, view + 1) if v < config.views)


def class_token_sees(config: MMViTConfig, kind: str) -> tuple[int, ...]:
    """The views whose keys the class token may see."""
    if kind == "cross" and config.fusion == "class_token":
        return tuple(range(config.views))
    return allowed_views(config, kind, 0)


def plan_blocks(config: MMViTConfig) -> list[BlockPlan]:
    """The blocks in order, without those that cannot reach the output.

    Walking back from the head: the views that are read, then the views that those may ask.
    """
    order: list[tuple[int, Kind]] = []
    last = len(config.blocks) - 1
    for stage, plain in enumerate(config.blocks):
        order += [(stage, "self")] * plain
        if stage < last or config.cross_in_last_stage:
            order.append((stage, "cross"))
        if stage < last:
            order.append((stage, "scaled"))
    needed = tuple(range(config.views)) if config.head == "all_views" else (0,)
    cells_read = config.head == "all_views"
    plans: list[BlockPlan] = []
    for stage, kind in reversed(order):
        after = stage + (kind == "scaled")
        asked = set(class_token_sees(config, kind))
        if cells_read:
            asked |= {v for u in needed for v in allowed_views(config, kind, u)}
        inputs = tuple(sorted(asked | set(needed)))
        plans.append(
            BlockPlan(
                stage=stage,
                kind=kind,
                inputs=inputs,
                outputs=needed,
                width_in=config.width << stage,
                width_out=config.width << after,
                heads=config.heads << after,
                query_stride=2 if kind == "scaled" else 1,
                key_stride=max(1, config.key_stride >> after),
                class_only=not cells_read,
            )
        )
        needed, cells_read = inputs, True
    return plans[::-1]


def view_cells(config: MMViTConfig, side: int, view: int) -> int:
    """Cells of a view along a side of so many pixels."""
    stride = config.stride << view
    if config.stem == "lite2":
        return front_cells(side, stride)
    if config.stem == "patch":
        return pooled(side, stride)
    return halved(side, stride)


def halved(cells: int, stride: int) -> int:
    """Cells left by a stack of stride-2 convolutions of that total stride; each rounds up."""
    while stride > 1:
        cells, stride = (cells + 1) // 2, stride // 2
    return cells


def stage_cells(config: MMViTConfig, view: int, stage: int) -> int:
    cells = view_cells(config, config.image_size, view)
    for _ in range(stage):
        cells = pooled(cells, 2)
    return cells


class Block(nn.Module):
    """x' = P(x) + PoolingAttention(LN x), y = x' + MLP(LN x'); views meet in the softmax only.

    In a scaled block P is a max-pool of stride 2 over the projected LN x, as in MViTv2.
    """

    def __init__(self, config: MMViTConfig, plan: BlockPlan, drop_path: float) -> None:
        super().__init__()
        self.plan = plan
        self.drop_path = drop_path
        self.joint = plan.kind == "cross" and config.fusion != "none"
        groups = [plan.outputs] if self.joint else [(view,) for view in plan.outputs]
        after = plan.stage + (plan.kind == "scaled")
        self.attentions = nn.ModuleList(
            [
                PoolingAttention(
                    plan.width_in,
                    plan.width_out,
                    plan.heads,
                    query_stride=plan.query_stride,
                    key_stride=plan.key_stride,
                    asking=group,
                    allowed={view: allowed_views(config, plan.kind, view) for view in group},
                    class_sees=class_token_sees(config, plan.kind),
                    sizes={view: stage_cells(config, view, after) for view in group},
                    class_only=plan.class_only,
                )
                for group in groups
            ]
        )
        self.norms = nn.ModuleDict({str(v): nn.LayerNorm(plan.width_in) for v in plan.inputs})
        self.mlp_norms = nn.ModuleDict({str(v): nn.LayerNorm(plan.width_out) for v in plan.outputs})
        hidden = int(plan.width_out * config.mlp_ratio)
        self.mlps = nn.ModuleDict(
            {
                str(v): nn.Sequential(
                    nn.Linear(plan.width_out, hidden), nn.GELU(), nn.Linear(hidden, plan.width_out)
                )
                for v in plan.outputs
            }
        )
        wider = plan.width_in != plan.width_out
        self.shortcuts = nn.ModuleDict(
            {str(v): nn.Linear(plan.width_in, plan.width_out) for v in plan.outputs if wider}
        )

    def forward(
        self, streams: dict[int, Stream], index: int, want: Want | Mapping[str, Want]
    ) -> tuple[dict[int, Stream], list[LayerMap]]:
        normed = {
            view: streams[view].with_tokens(self.norms[str(view)](streams[view].tokens))
            for view in self.plan.inputs
        }
        result: dict[int, Stream] = {}
        maps: list[LayerMap] = []
        stage = f"stage {self.plan.stage + 1}"
        for attention in self.groups:
            direction = self.direction(attention)
            wish = want if isinstance(want, Want) else want.get(f"{stage}/{index}/{direction}")
            attended, found, value = attention(normed, wish or NOTHING)
            for view, stream in attended.items():
                short = self._shortcut(view, streams[view], normed[view])
                tokens = short + self._dropped(stream.tokens)
                name = str(view)
                tokens = tokens + self._dropped(self.mlps[name](self.mlp_norms[name](tokens)))
                result[view] = stream.with_tokens(tokens)
            if found.weights is not None:
                assert wish is not None
                maps.append(
                    LayerMap(
                        stage,
                        index,
                        direction,
                        f"block {index} {direction} queries",
                        f"block {index} {direction} keys",
                        found.weights,
                        rows=wish.rows,
                        value=value if wish.check else None,
                        context=found.output if wish.check else None,
                    )
                )
        return result, maps

    @property
    def groups(self) -> tuple[PoolingAttention, ...]:
        """The attentions of this block: one for each group of views that share a softmax."""
        return tuple(part for part in self.attentions if isinstance(part, PoolingAttention))

    @property
    def mlp_outputs(self) -> tuple[nn.Linear, ...]:
        """The last layer of every MLP."""
        layers = (layer for mlp in self.mlps.values() for layer in mlp.children())
        return tuple(
            layer
            for layer in layers
            if isinstance(layer, nn.Linear) and layer.out_features == self.plan.width_out
        )

    def after(self, layouts: dict[int, Layout]) -> dict[int, Layout]:
        """Where the tokens lie that leave this block."""
        if self.plan.class_only:
            return {view: layouts[view].class_only() for view in self.plan.outputs}
        return {view: layouts[view].pooled(self.plan.query_stride) for view in self.plan.outputs}

    def direction(self, attention: PoolingAttention) -> str:
        """Who asks, for names: "across views" in a cross block, else "view 1", "view 2", ..."""
        return "across views" if self.joint else f"view {attention.asking[0] + 1}"

    def _shortcut(self, view: int, stream: Stream, normed: Stream) -> Tensor:
        if self.shortcuts:
            stream = normed.with_tokens(self.shortcuts[str(view)](normed.tokens))
        if self.plan.class_only:
            return stream.class_token
        if self.plan.query_stride == 1:
            return stream.tokens
        cells = F.max_pool2d(stream.as_map(), 3, stride=self.plan.query_stride, padding=1)
        tokens = tokens_of(cells)
        return torch.cat([stream.class_token, tokens], 1) if stream.layout.has_class else tokens

    def _dropped(self, tokens: Tensor) -> Tensor:
        """Stochastic depth: the whole branch of a sample is left out with this block's rate."""
        if not self.training or self.drop_path == 0.0:
            return tokens
        kept = torch.rand(len(tokens), 1, 1, device=tokens.device) >= self.drop_path
        return tokens * kept / (1.0 - self.drop_path)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FromFront(nn.Module):
    """A view out of a stem's maps: the one at its stride, or the coarsest strided further.

    ``channels``: of each map, by its stride.
    """

    def __init__(self, channels: Mapping[int, int], stride: int, width: int) -> None:
        super().__init__()
        at = min(stride, max(channels))
        self.tap = sorted(channels).index(at)
        layers: list[nn.Module] = [nn.Conv2d(channels[at], width, 1), ChannelNorm(width)]
        while at < stride:
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), ChannelNorm(width)]
            at *= 2
        self.layers = nn.Sequential(*layers)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.layers(features[self.tap])


def front(config: MMViTConfig) -> nn.Module:
    """What all views share before their embeddings: pictures -> maps, or the pictures again."""
    if config.stem == "lite2":
        return FrozenFront()
    if config.stem == "residual":
        return ResidualFront(config.channels, config.width, residual_stride(config))
    return nn.Identity()


def residual_stride(config: MMViTConfig) -> int:
    return min(config.stride, DEEPEST)


def embedding(config: MMViTConfig, view: int) -> nn.Module:
    """The overlapping patch embedding of one view: pictures (or stem maps) -> (B, width, h, w)."""
    stride = config.stride << view
    if config.stem == "lite2":
        return FromFront(FRONT_CHANNELS, stride, config.width)
    if config.stem == "patch":
        # MViT's 7-wide kernel at stride 4, carried on: 2 s - 1 leaves no pixel unseen.
        return nn.Conv2d(config.channels, config.width, 2 * stride - 1, stride, stride - 1)
    if config.stem == "residual":
        own = residual_stride(config)
        return FromFront({own: channels_at(own, config.width)}, stride, config.width)
    layers: list[nn.Module] = []
    inside, steps = config.channels, stride.bit_length() - 1
    for step in range(steps):
        outside = config.width if step == steps - 1 else max(16, config.width >> 1)
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), ChannelNorm(outside)]
        layers += [nn.GELU()] if step < steps - 1 else []
        inside = outside
    return nn.Sequential(*layers)

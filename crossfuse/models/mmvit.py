"""MMViT: multiscale multiview vision transformer (Liu et al. 2023, arXiv 2305.00104).

One picture x (B, C, H, W) becomes V views, token grids of different cell size. All views go through
a pyramid of stages in parallel; in each stage one cross-attention block lets them meet.

    view v      overlapping patch embedding, stride s_v = stride * 2^v  ->  grid h_v x w_v, width d;
                view 0 also carries the class token
    stage s     plain self blocks (view by view)
                -> cross block (one softmax over the keys of all views)
                -> scaled self block (query stride 2, width x 2), except in the last stage
    block       x' = P(x) + PoolingAttention(LN x),   y = P'(x') + MLP(LN x')
    head        LN -> linear, on the class token or on the mean of the views

With the paper's 16 blocks ([0, 0, 9, 1] plain ones) the last stage has no cross block, so under
a class-token head nothing of the other views reaches the output after the third stage. Blocks and
projections that cannot reach the output are not built. ``cross_in_last_stage`` adds the block and
``head="all_views"`` reads every view instead. Cell sizes, head counts and key strides are not
readable in the paper's public parts; the ones here are those of MViT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want
from crossfuse.errors import CrossfuseError
from crossfuse.models.frozen_front import FRONT_ORIGIN
from crossfuse.models.mmvit_blocks import Block, embedding, front, plan_blocks, view_cells
from crossfuse.models.pooling_attention import Layout, Stream, tokens_of

MAX_SIDE = 512  # pixels: beyond it the finest stage would need gigabytes for its maps
Fusion = Literal["joint", "sequential", "class_token", "none"]


@dataclass(frozen=True)
class MMViTConfig:
    """Sizes of an MMViT.

    ``image_size``: side of the square pictures it is made for (others work); ``stride``: of the
    finest view, view v has stride * 2^v; ``width``, ``heads``, ``key_stride``: of the first stage,
    each stage doubles the first two and halves the last down to 1; ``blocks``: plain self blocks
    of each stage; ``fusion``: "joint" = every cell may ask every view, "sequential" = view v asks
    itself and view v + 1, "class_token" = only the class token asks other views, "none" = no view
    asks another; ``stem``: "patch" = one convolution a view, "convolutions" = a stack of them,
    "residual" = projections of one map of a residual network that is trained with the rest (at the
    finest view's stride, 16 at most), "lite2" = projections of a frozen EfficientNet-Lite2's maps
    at strides 8, 16 and 32 (``stride`` must then be at least 8).
    """

    classes: int
    image_size: int
    channels: int = 3
    views: int = 2
    stride: int = 4
    width: int = 96
    heads: int = 1
    blocks: tuple[int, ...] = (0, 0, 9, 1)
    key_stride: int = 4
    mlp_ratio: float = 4.0
    fusion: Fusion = "joint"
    cross_in_last_stage: bool = False
    head: Literal["class_token", "all_views"] = "class_token"
    stem: Literal["patch", "convolutions", "residual", "lite2"] = "patch"
    drop_path: float = 0.0

    @classmethod
    def paper(cls) -> MMViTConfig:
        """Sixteen blocks at 224 px, the size evaluated in the paper; never trained here."""
        return cls(classes=1000, image_size=224, drop_path=0.1)

    @classmethod
    def small(cls, classes: int = 200, image_size: int = 128, views: int = 2) -> MMViTConfig:
        """Three stages on the maps of EfficientNet-Lite2, every view read by the head."""
        return cls(
            classes=classes,
            image_size=image_size,
            views=views,
            stride=16,
            width=44,
            heads=2,
            blocks=(0, 0, 1),
            key_stride=2,
            mlp_ratio=3.0,
            cross_in_last_stage=True,
            head="all_views",
            stem="lite2",
            drop_path=0.05,
        )

    @classmethod
    def from_scratch(cls, classes: int = 10, image_size: int = 160, views: int = 2) -> MMViTConfig:
        """Three stages on residual convolutions of its own: nothing in it was trained elsewhere."""
        return replace(
            cls.small(classes, image_size, views),
            width=32,
            blocks=(0, 0, 0),
            mlp_ratio=2.0,
            stem="residual",
        )

    @classmethod
    def tiny(cls) -> MMViTConfig:
        """For tests."""
        return cls(
            classes=5, image_size=32, width=16, heads=2, blocks=(0, 1), key_stride=2, mlp_ratio=2.0
        )


@dataclass(frozen=True)
class MMViTOutput:
    """``logits`` (B, classes); ``features`` (B, width of the last stage), what the head reads."""

    logits: Tensor
    features: Tensor
    maps: tuple[LayerMap, ...] = ()


class MMViT(nn.Module):
    """See the top of this module. ``Config`` is :class:`MMViTConfig`."""

    Config = MMViTConfig

    def __init__(self, config: MMViTConfig) -> None:
        super().__init__()
        self.config = config
        plans = plan_blocks(config)
        self.stem = front(config)
        self.embeddings = nn.ModuleDict({str(v): embedding(config, v) for v in plans[0].inputs})
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        most = max(1, len(plans) - 1)
        rates = [config.drop_path * index / most for index in range(len(plans))]
        self.blocks = nn.ModuleList(
            [Block(config, plan, rate) for plan, rate in zip(plans, rates, strict=True)]
        )
        end = plans[-1]
        self.norms = nn.ModuleDict({str(v): nn.LayerNorm(end.width_out) for v in end.outputs})
        self.head = nn.Linear(end.width_out, config.classes)
        for module in (*self.embeddings.modules(), *self.blocks.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.6 * module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for block in self.pyramid:
            # Branches begin next to nothing (not at zero: then nothing before them would learn),
            # so that the first steps teach stem and head; from random branches a short training on
            # a few thousand photographs hardly gets away.
            for last in (*(a.output for a in block.groups), *block.mlp_outputs):
                nn.init.trunc_normal_(last.weight, std=1e-4)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Tensor, *, want: Want | Mapping[str, Want] = NOTHING) -> MMViTOutput:
        """Classify pictures.

        Args:
            images: (B, channels, H, W); values -1 ... 1, RGB.
            want: what of every block's map to return, or a wish for each map by its name
                (:meth:`layouts` has the names); maps without a wish are not returned.
        """
        return self.from_stem(self.stem(images), (images.shape[2], images.shape[3]), want)

    def from_stem(
        self,
        features: Tensor | tuple[Tensor, ...],
        image: tuple[int, int],
        want: Want | Mapping[str, Want] = NOTHING,
    ) -> MMViTOutput:
        """:meth:`forward` past the stem: ``features`` are what ``self.stem`` makes of images."""
        streams: dict[int, Stream] = {}
        layouts = self.view_layouts(image)
        for name, module in self.embeddings.items():
            view = int(name)
            tokens = tokens_of(module(features))
            if view == 0:
                tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
            streams[view] = Stream(tokens, layouts[view])
        maps: list[LayerMap] = []
        for index, block in enumerate(self.blocks):
            streams, found = block(streams, index, want)
            maps += found
        pooled_features = self._pool(streams)
        return MMViTOutput(self.head(pooled_features), pooled_features, tuple(maps))

    def _pool(self, streams: dict[int, Stream]) -> Tensor:
        """What the head reads: the class token, or its mean with the mean cell of every view."""
        normed = {v: s.with_tokens(self.norms[str(v)](s.tokens)) for v, s in streams.items()}
        token = normed[0].class_token[:, 0]
        if self.config.head == "class_token":
            return token
        return torch.stack([token, *(stream.cells.mean(1) for stream in normed.values())]).mean(0)

    def view_layouts(self, image: tuple[int, int]) -> dict[int, Layout]:
        """Where the tokens of every view lie before the first block; image = (height, width).

        Raises:
            CrossfuseError: a picture smaller than one cell of the coarsest view, or too large.
        """
        config = self.config
        coarsest = config.stride << (config.views - 1)
        if min(image) < coarsest or max(image) > MAX_SIDE:
            raise CrossfuseError(
                "This model reads pictures of {coarsest} to {limit} pixels a side; this one is "
                "{height} x {width}. Resize it first.",
                coarsest=coarsest,
                limit=MAX_SIDE,
                height=image[1],
                width=image[0],
            )
        origin = FRONT_ORIGIN if config.stem == "lite2" else 0
        return {
            view: Layout(
                (view_cells(config, image[0], view), view_cells(config, image[1], view)),
                config.stride << view,
                origin,
                image,
                view == 0,
            )
            for view in (int(name) for name in self.embeddings)
        }

    @property
    def pyramid(self) -> tuple[Block, ...]:
        """The blocks in order."""
        return tuple(block for block in self.blocks if isinstance(block, Block))

    def stream_layouts(self, image: tuple[int, int]) -> list[dict[int, Layout]]:
        """Where the tokens of every view lie before each block, and after the last one."""
        found = [self.view_layouts(image)]
        for block in self.pyramid:
            found.append(block.after(found[-1]))
        return found

    def layouts(self, image: tuple[int, int]) -> dict[str, MapLayout]:
        """What the rows and columns of every map are, by its name, for (height, width) pixels."""
        streams = self.stream_layouts(image)
        entries = (
            MapLayout(
                stage=f"stage {block.plan.stage + 1}",
                layer=index,
                direction=block.direction(attention),
                queries={v: attention.query_layout(streams[index][v]) for v in attention.asking},
                keys={v: streams[index][v].pooled(attention.key_stride) for v in attention.asked},
            )
            for index, block in enumerate(self.pyramid)
            for attention in block.groups
        )
        return {entry.name: entry for entry in entries}

    @staticmethod
    def example_inputs(config: MMViTConfig, batch: int, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        size = (batch, config.channels, config.image_size, config.image_size)
        return {"images": torch.randn(size, generator=generator)}


@dataclass(frozen=True)
class MapLayout:
    """Rows and columns of one map: the layouts of the asking and of the asked views, in order."""

    stage: str
    layer: int
    direction: str
    queries: dict[int, Layout]
    keys: dict[int, Layout]

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.layer}/{self.direction}"

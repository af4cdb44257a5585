"""MIT: a 2D-3D interlaced transformer for point clouds labelled by scene tags only.

Yang, Chen, Chuang and Lin, "2D-3D Interlaced Transformer for Point Cloud Segmentation with
Scene-Level Supervision", ICCV 2023 (arXiv 2310.12817).

    3-D tokens   T3 = mean over a supervoxel of U-Net(voxels) + MLP(q)     (M, D), q mean position
    2-D tokens   T2 = Linear(image features) (+ view embedding)            (V, D), one a photograph
    class tokens C  = learnt, with a position embedding, shared             (K, D)
    encoders     X = [C ; T]:  X += SA(LN X),  X += MLP(LN X)               3 blocks per modality
    decoder      the stream a asks, the stream b answers, and the roles alternate (4 blocks):
                 a += SA(LN a)
                 A  = softmax(Q(LN a) K(LN b)^T / sqrt(d))   over b's own tokens, not its classes
                 a += W_O A V(LN b),   a += MLP(LN a)

Class logits are the mean over a class token's D numbers. The class activation map (CAM) is a linear
layer on tokens. Nothing here needs camera poses or depth.

Marked extensions, all off in :meth:`MITConfig.paper`: ``patches`` (each photograph also gives the
cells of its feature map as tokens, so that attention has a place in the picture), ``shape`` (size
and colour statistics of a supervoxel beside q), ``decoded_cam`` (a CAM on the decoded 3-D tokens,
so that the photographs can reach the point labels), ``looks`` (pictures drawn from the cloud are
looked at with the same frozen encoder as the photographs; where each of their pixels lies is known,
so that every supervoxel has a look of its own, and the photographs' CAM judges that too) and no
view embedding (``views=0``: the order of the photographs then carries no meaning, and any number of
them is welcome).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, attend, merge_heads, split_heads
from crossfuse.models.sparse_unet import SparseUNet, SparseUNetConfig, batch_grid

VOXEL_FEATURES = 7  # red, green, blue, height, |vertical normal|, flatness, linearity
SHAPE_FEATURES = VOXEL_FEATURES + 6


@dataclass(frozen=True)
class MITConfig:
    """``view_features``: width of the frozen image features. ``first_query``: who asks first
    ("3d" as in the paper's text, "2d" as in the published code). ``interlaced=False``: the 3-D
    stream asks in every block and the photographs never learn from it (for comparison).
    ``everywhere``: classes that every scan of the training set has. Tags cannot tell what they look
    like, so that their CAM logits are fixed at 0: a supervoxel is theirs when nothing else speaks
    louder. ``looks``: principal components of image features that are kept, in photographs and in
    the looks of supervoxels alike (0: no looks; features go in as they are). ``drawn=False``: no
    pictures are drawn (for comparison)."""

    classes: tuple[str, ...]
    backbone: SparseUNetConfig = field(
        default_factory=lambda: SparseUNetConfig.small(VOXEL_FEATURES)
    )
    view_features: int = 1280
    width: int = 96
    heads: int = 4
    encoder_depth: int = 3
    decoder_depth: int = 4
    encoder_ratio: float = 1.0
    decoder_ratio: float = 0.2
    dropout: float = 0.1
    drop_path: float = 0.1
    views: int = 0
    first_query: Literal["3d", "2d"] = "3d"
    interlaced: bool = True
    patches: bool = True
    shape: bool = True
    decoded_cam: bool = True
    everywhere: tuple[int, ...] = ()
    looks: int = 0
    drawn: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.backbone, dict):  # from a card's JSON
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in self.backbone.items()
            }
            object.__setattr__(self, "backbone", SparseUNetConfig(**values))

    @classmethod
    def small(cls, classes: tuple[str, ...] = (), **changes: object) -> MITConfig:
        """What is trained here: a CPU-sized backbone and the marked extensions."""
        names = tuple(classes) or tuple(f"class {i}" for i in range(20))
        return cls(names, **changes)  # type: ignore[arg-type]

    @classmethod
    def paper(cls, classes: tuple[str, ...] = ()) -> MITConfig:
        """The published sizes: MinkUNet18A, ResNet-50 features, 16 views, no extension."""
        names = tuple(classes) or tuple(f"class {i}" for i in range(20))
        return cls(
            names,
            SparseUNetConfig.minkunet18a(VOXEL_FEATURES),
            view_features=2048,
            views=16,
            patches=False,
            shape=False,
            decoded_cam=False,
        )


@dataclass(frozen=True)
class MITOutput:
    """K classes, M supervoxels, V photographs.

    ``class_3d, class_2d, class_fused`` (B, K) logits of class tokens; ``cam_3d`` (B, M, K) and
    ``cam_2d`` (B, V', K) logits on tokens before the transformer, V' = V photographs and then their
    patches; ``cam_parts``: what ``cam_3d`` is the sum of, shape and (with ``looks``) look;
    ``view_mask`` (B, V'); ``cam_decoded`` (B, M, K) or None;
    ``class_scores``: per decoder block (B, K, K) head-mean scaled scores between the class tokens
    of both streams, for the pairing loss; ``segment_mask`` (B, M); ``segments`` (B, M, backbone
    width) pooled backbone features; ``scatter`` (B,): mean squared distance of voxel features from
    them.
    """

    class_3d: Tensor
    class_2d: Tensor
    class_fused: Tensor
    cam_3d: Tensor
    cam_parts: tuple[Tensor, ...]
    cam_2d: Tensor
    cam_decoded: Tensor | None
    class_scores: tuple[Tensor, ...]
    segment_mask: Tensor
    view_mask: Tensor
    segments: Tensor
    scatter: Tensor
    maps: tuple[LayerMap, ...] = ()


class DropPath(nn.Module):
    """Leaves out a residual branch for whole samples while training (stochastic depth)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep) / keep


class Standardise(nn.Module):
    """(x - mean) / spread, held within -4..4. Position in the plane says nothing: it becomes 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.mean: Tensor
        self.spread: Tensor

    def forward(self, x: Tensor) -> Tensor:
        z = ((x - self.mean) / self.spread).clamp(-4, 4)
        return torch.cat([torch.zeros_like(z[..., :2]), z[..., 2:]], -1)


class Look(nn.Module):
    """Image features (..., F + 3) as a token: principal components, colour, and a small network.

    The last three numbers are the mean colour, -0.5..0.5: what a photograph and a cloud share.
    """

    def __init__(self, features: int, config: MITConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features - 3))
        self.register_buffer("basis", torch.zeros(features - 3, config.looks))
        self.mean: Tensor
        self.basis: Tensor
        self.mlp = nn.Sequential(
            nn.Dropout(2 * config.dropout),
            nn.Linear(config.looks + 3, 128),
            nn.GELU(),
            nn.Dropout(2 * config.dropout),
            nn.Linear(128, config.width),
            nn.GELU(),
        )

    def components(self, features: Tensor) -> Tensor:
        """(..., looks + 3): what the network looks at."""
        seen = (features[..., :-3] - self.mean) @ self.basis
        return torch.cat([seen, 2 * features[..., -3:]], -1)

    def forward(self, components: Tensor) -> Tensor:
        out: Tensor = self.mlp(components)
        return out


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, want: Want) -> tuple[Tensor, _Map]:
        query, key, value = (split_heads(t, self.heads) for t in self.to_qkv(x).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        got = attend(query, key, value, key_mask=mask, dropout=dropout, want=want)
        return self.to_out(merge_heads(got.output)), _Map(got.weights, value, got.output)


@dataclass(frozen=True)
class _Map:
    weights: Tensor | None
    value: Tensor
    context: Tensor


class EncoderBlock(nn.Module):
    """x += SA(LN x); x += MLP(LN x)."""

    def __init__(self, config: MITConfig, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, config.dropout)
        self.mlp = Mlp(width, int(config.encoder_ratio * width), config.dropout)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor, want: Want) -> tuple[Tensor, _Map]:
        update, seen = self.attention(self.norm_attention(x), mask, want)
        x = x + self.drop(update)
        return x + self.drop(self.mlp(self.norm_mlp(x))), seen


class DecoderBlock(nn.Module):
    """The asking stream reads itself, then the answering stream, but never its class tokens."""

    def __init__(self, config: MITConfig, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.heads, self.classes = config.heads, len(config.classes)
        self.norm_self, self.norm_query = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_key, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, 0.0)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.mlp = Mlp(width, int(config.decoder_ratio * width), 0.0)
        self.drop = DropPath(drop_path)

    def forward(
        self, asking: Tensor, answering: Tensor, ask_mask: Tensor, answer_mask: Tensor, want: Want
    ) -> tuple[Tensor, Tensor, _Map, _Map]:
        """(B, K + N_a, D), (B, K + N_b, D) -> updated asking stream, class scores, both maps."""
        k = self.classes
        update, own = self.attention(self.norm_self(asking), ask_mask, want)
        asking = asking + self.drop(update)
        query = split_heads(self.to_q(self.norm_query(asking)), self.heads)
        answers = self.norm_key(answering)
        key = split_heads(self.to_k(answers), self.heads)
        value = split_heads(self.to_v(answers[:, k:]), self.heads)
        got = attend(query, key[:, :, k:], value, key_mask=answer_mask[:, k:], want=want)
        scale = query.shape[-1] ** -0.5
        scores = (query[:, :, :k] @ key[:, :, :k].transpose(-2, -1) * scale).mean(1)
        asking = asking + self.drop(self.to_out(merge_heads(got.output)))
        asking = asking + self.drop(self.mlp(self.norm_mlp(asking)))
        return asking, scores, own, _Map(got.weights, value, got.output)


class MIT(nn.Module):
    """Points and photographs of one place in; class logits, CAMs and attention maps out."""

    Config = MITConfig

    def __init__(self, config: MITConfig) -> None:
        super().__init__()
        self.config = config
        width, classes = config.width, len(config.classes)
        self.backbone = SparseUNet(config.backbone)
        made = config.backbone.outputs
        self.lift = nn.Linear(made, width) if made != width else nn.Identity()
        extra = SHAPE_FEATURES if config.shape else 0
        self.place = nn.Sequential(nn.Linear(3 + extra, width), nn.ReLU(), nn.Linear(width, width))
        if config.shape:
            self.place = nn.Sequential(
                Standardise(3 + extra),
                nn.Linear(3 + extra, width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
            )
        self.view_in: nn.Module = nn.Linear(config.view_features, width)
        if config.looks:
            self.view_in = Look(config.view_features, config)
        self.view_position = nn.Parameter(torch.randn(max(config.views, 1), width) * 0.02)
        if not config.views:
            self.view_position.requires_grad_(False).zero_()
        self.class_tokens = nn.Parameter(torch.randn(classes, width) * 0.02)
        self.class_position = nn.Parameter(torch.randn(classes, width) * 0.02)
        if config.patches:
            self.patch_kind = nn.Parameter(torch.randn(width) * 0.02)
        depth, deep = config.encoder_depth, config.decoder_depth
        rates = [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.encoder_3d = nn.ModuleList(EncoderBlock(config, rate) for rate in rates)
        self.encoder_2d = nn.ModuleList(EncoderBlock(config, rate) for rate in rates)
        self.decoder = nn.ModuleList(DecoderBlock(config, config.drop_path) for _ in range(deep))
        self.cam_3d, self.cam_2d = nn.Linear(width, classes), nn.Linear(width, classes)
        if config.decoded_cam:
            # Added to the plain CAM; starts as nothing.
            last = nn.Linear(width, classes)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.cam_decoded = nn.Sequential(nn.LayerNorm(width), last)

    @staticmethod
    def example_inputs(config: MITConfig, batch: int, seed: int) -> dict[str, Tensor]:
        """Small random clouds and photographs, as keyword arguments of :meth:`forward`."""
        make = torch.Generator().manual_seed(seed)
        count, segments, views, patches = 60, 6, config.views or 3, 4
        cells = torch.stack(
            [
                torch.randperm(12**3, generator=make)[:count].unsqueeze(1)
                // torch.tensor([144, 12, 1])
                % 12
                for _ in range(batch)
            ]
        )
        mask = torch.ones(batch, count, dtype=torch.bool)
        mask[-1, -5:] = False
        inputs = {
            "cells": cells,
            "voxel_features": torch.rand(batch, count, config.backbone.inputs, generator=make),
            "positions": cells * 0.05,
            "voxel_mask": mask,
            "segment": torch.arange(count).expand(batch, count) % segments,
            "view_features": torch.randn(batch, views, config.view_features, generator=make),
            "view_mask": torch.ones(batch, views, dtype=torch.bool),
        }
        if config.patches:
            shape = (batch, views, patches, config.view_features)
            inputs["patch_features"] = torch.randn(shape, generator=make)
        if config.looks and config.drawn:
            looks = torch.randn(batch, segments, config.view_features, generator=make)
            inputs["segment_looks"] = looks
        return inputs

    def segment_inputs(
        self,
        cells: Tensor,
        voxel_features: Tensor,
        positions: Tensor,
        voxel_mask: Tensor,
        segment: Tensor,
    ) -> dict[str, Tensor]:
        """Run the backbone and pool: what :meth:`fuse` needs of the cloud, ready to be cached.

        cells (B, N, 3) int64 >= 0, voxel_features (B, N, F), positions (B, N, 3) metres,
        voxel_mask (B, N), segment (B, N) supervoxel index of each voxel. A supervoxel without
        voxels gets zeros and is masked.
        """
        batch = len(cells)
        count = int(segment.masked_fill(~voxel_mask, 0).max()) + 1
        grid, order = batch_grid(cells, voxel_mask)
        flat = voxel_features.flatten(0, 1).index_select(0, order).float()
        sample = torch.arange(batch, device=cells.device)[:, None]
        target = (sample * count + segment).flatten().index_select(0, order)
        features = self.backbone(flat, grid).float()
        size = features.new_zeros(batch * count)
        size = size.index_add(0, target, features.new_ones(len(order)))
        pooled = _mean(features, target, size)
        away = (features - pooled.index_select(0, target)).square().mean(1)
        per_sample = features.new_zeros(batch).index_add(0, target // count, away)
        scatter = per_sample / size.view(batch, count).sum(1).clamp(min=1)
        where = positions.flatten(0, 1).index_select(0, order).float()
        shape = _shape_features(flat, where, target, size)
        return {
            "segments": pooled.view(batch, count, -1),
            "places": torch.cat([_mean(where, target, size), shape], 1).view(batch, count, -1),
            "segment_mask": (size > 0).view(batch, count),
            "scatter": scatter,
        }

    def forward(
        self,
        cells: Tensor,
        voxel_features: Tensor,
        positions: Tensor,
        voxel_mask: Tensor,
        segment: Tensor,
        view_features: Tensor,
        view_mask: Tensor,
        patch_features: Tensor | None = None,
        segment_looks: Tensor | None = None,
        want: Want = NOTHING,
    ) -> MITOutput:
        """See :meth:`segment_inputs` and :meth:`fuse` for the shapes.

        With ``config.looks`` image features are whole here: the encoder's, then the mean colour.
        """
        cloud = self.segment_inputs(cells, voxel_features, positions, voxel_mask, segment)
        return self.fuse(
            **cloud,
            view_features=self.components(view_features),
            view_mask=view_mask,
            patch_features=None if patch_features is None else self.components(patch_features),
            segment_looks=None if segment_looks is None else self.components(segment_looks),
            want=want,
        )

    def components(self, features: Tensor) -> Tensor:
        """Image features (..., F) as :meth:`fuse` takes them: (..., looks + 3), or as they are.

        Zeros (nothing is known) stay zeros."""
        if not isinstance(self.view_in, Look):
            return features
        known = (features != 0).any(-1, keepdim=True)
        return self.view_in.components(features) * known

    def fuse(
        self,
        segments: Tensor,
        places: Tensor,
        segment_mask: Tensor,
        scatter: Tensor,
        view_features: Tensor,
        view_mask: Tensor,
        patch_features: Tensor | None = None,
        segment_looks: Tensor | None = None,
        want: Want = NOTHING,
    ) -> MITOutput:
        """The transformer on pooled features.

        segments (B, M, backbone), places (B, M, 3 + shape) as :meth:`segment_inputs` gives them;
        view_features (B, V, F), view_mask (B, V), patch_features (B, V, P, F), segment_looks
        (B, M, F) of the drawn pictures, zeros where none shows the supervoxel; image features as
        :meth:`components` gives them.
        """
        tokens_3d = self.segment_tokens(segments, places, segment_mask)
        tokens_2d, mask_2d = self._view_tokens(view_features, view_mask, patch_features)
        parts: tuple[Tensor, ...] = (self.plain_cam(tokens_3d),)
        if self.config.looks and self.config.drawn and segment_looks is not None:
            # Two witnesses that err apart, shape and look: their evidence adds up.
            look = self.view_in(segment_looks)
            seen = (segment_looks != 0).any(-1, keepdim=True) & segment_mask[..., None]
            parts = (*parts, self._referred(self.cam_2d(look)) * seen)
            tokens_3d = tokens_3d + look * seen
        cam_3d, cam_2d = torch.stack(parts).sum(0), self.cam_2d(tokens_2d)
        maps: list[LayerMap] = []
        a, mask_a = self._encode("3d", self.encoder_3d, tokens_3d, segment_mask, maps, want)
        b, mask_b = self._encode("2d", self.encoder_2d, tokens_2d, mask_2d, maps, want)
        k = len(self.config.classes)
        class_3d, class_2d = a[:, :k].mean(-1), b[:, :k].mean(-1)
        scores = []
        for index, block in enumerate(self.decoder):
            swap = self.config.interlaced and index % 2 == 1
            three_asks = (self.config.first_query == "3d") != swap
            if three_asks:
                a, score, own, cross = block(a, b, mask_a, mask_b, want)
                names = ("3d", "2d")
            else:
                b, score, own, cross = block(b, a, mask_b, mask_a, want)
                names = ("2d", "3d")
            scores.append(score)
            _keep(maps, "decoder_self", index, names[0], names[0], own, want)
            _keep(maps, "decoder", index, names[0], names[1], cross, want)
        decoded = None
        if self.config.decoded_cam:
            decoded = self._referred(cam_3d + self._differences(a[:, k:], segment_mask))
        return MITOutput(
            class_3d,
            class_2d,
            (a[:, :k] + b[:, :k]).mean(-1) / 2,
            cam_3d,
            parts,
            cam_2d,
            decoded,
            tuple(scores),
            segment_mask,
            mask_2d,
            segments,
            scatter,
            tuple(maps),
        )

    def _differences(self, decoded: Tensor, mask: Tensor) -> Tensor:
        """What decoded tokens (B, M, D) add to the CAM: differences within the scene, and a bias.

        What holds for the whole scene is left to the tags."""
        found = self.cam_decoded(decoded)
        real = mask[..., None].to(found.dtype)
        mean = (found * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return found - mean + self.cam_decoded[-1].bias

    def segment_tokens(self, segments: Tensor, places: Tensor, segment_mask: Tensor) -> Tensor:
        """T3 (B, M, D) of pooled features; zeros where a supervoxel is missing."""
        where = places if self.config.shape else places[..., :3]
        return (self.lift(segments) + self.place(where)) * segment_mask[..., None]

    def plain_cam(self, tokens_3d: Tensor) -> Tensor:
        """Class logits (B, M, K) of tokens before the transformer."""
        return self._referred(self.cam_3d(tokens_3d))

    def _referred(self, logits: Tensor) -> Tensor:
        if not self.config.everywhere:
            return logits
        fixed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        fixed[list(self.config.everywhere)] = True
        return logits.masked_fill(fixed, 0.0)

    def _view_tokens(
        self, view_features: Tensor, view_mask: Tensor, patch_features: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, V + V * P, D): photographs first, then the cells of each in turn."""
        batch, views, _ = view_features.shape
        index = torch.arange(views, device=view_features.device) % len(self.view_position)
        place = self.view_position[index]
        tokens = self.view_in(view_features) + place
        if not self.config.patches or patch_features is None:
            return tokens * view_mask[..., None], view_mask
        cells = self.view_in(patch_features) + place[:, None] + self.patch_kind
        many = patch_features.shape[2]
        tokens = torch.cat([tokens, cells.reshape(batch, views * many, -1)], 1)
        mask = torch.cat([view_mask, view_mask.repeat_interleave(many, 1)], 1)
        return tokens * mask[..., None], mask

    def _encode(
        self,
        side: str,
        blocks: nn.ModuleList,
        tokens: Tensor,
        mask: Tensor,
        maps: list[LayerMap],
        want: Want,
    ) -> tuple[Tensor, Tensor]:
        batch, k = len(tokens), len(self.config.classes)
        classes = (self.class_tokens + self.class_position).expand(batch, -1, -1)
        x = torch.cat([classes, tokens], 1)
        mask = torch.cat([mask.new_ones(batch, k), mask], 1)
        for index, block in enumerate(blocks):
            x, seen = block(x, mask, want)
            _keep(maps, "encoder", index, side, side, seen, want)
        return x, mask


def _keep(
    maps: list[LayerMap], stage: str, layer: int, query: str, key: str, seen: _Map, want: Want
) -> None:
    """Geometries: tokens_* = class tokens then segments or views; a cross map's keys leave the
    class tokens out: segments, or views (with their patches)."""
    if seen.weights is None:
        return
    answering = {"2d": "views", "3d": "segments"}[key] if stage == "decoder" else f"tokens_{key}"
    maps.append(
        LayerMap(
            stage,
            layer,
            f"{query}->{key}",
            f"tokens_{query}",
            answering,
            seen.weights,
            rows=want.rows,
            value=seen.value if want.check else None,
            context=seen.context if want.check else None,
        )
    )


def _mean(values: Tensor, target: Tensor, size: Tensor) -> Tensor:
    total = values.new_zeros(len(size), values.shape[1]).index_add(0, target, values)
    return total / size.clamp(min=1)[:, None]


def _shape_features(features: Tensor, where: Tensor, target: Tensor, size: Tensor) -> Tensor:
    """(segments, SHAPE_FEATURES) that a turn about the vertical leaves alone: mean voxel features,
    log size, spread along the vertical and the two horizontal axes, spread of colour and normal."""
    mean = _mean(features, target, size)
    away = features - mean[target]
    shade = _mean(away[:, :3].square().mean(1, keepdim=True), target, size).sqrt()
    tilt = _mean(away[:, 4:5].square(), target, size).sqrt()
    offset = where - _mean(where, target, size)[target]
    moments = _mean(
        torch.cat([offset.square(), (offset[:, 0] * offset[:, 1])[:, None]], 1), target, size
    )
    half = (moments[:, 0] + moments[:, 1]) / 2
    root = ((moments[:, 0] - moments[:, 1]).square() / 4 + moments[:, 3].square()).sqrt()
    spread = torch.stack([half + root, half - root, moments[:, 2]], 1).clamp(min=0).sqrt()
    many = (size.clamp(min=1).log() / 5)[:, None]
    return torch.cat([mean, many, 2 * spread, 2 * shade, 2 * tilt], 1)

"""The parts of MMCA: its sizes, states of one side, Transformer unit, sentence CNN, embeddings.

Equations and references stand in :mod:`crossfuse.models.mmca`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, attend, merge_heads, split_heads
from crossfuse.errors import CrossfuseError


@dataclass(frozen=True)
class MMCAConfig:
    """Sizes and choices. ``regions``/``words`` name the encoders the features come from.

    ``tuned`` names the weights of encoders that were trained together with the model
    (:mod:`crossfuse.encoders.tuned`); without it they are as published. ``bank``: how many
    photographs and sentences are kept to measure hubness by (:meth:`MMCA.hubness`).
    ``scene_size``: how many of the ``region_size`` numbers are the second encoder's;
    ``scene_share``: its weight in i0 . c0, 0...1.
    """

    region_size: int = 1448
    word_size: int = 768
    width: int = 256
    heads: int = 8
    feedforward: int = 1024
    image_layers: int = 1
    cross_layers: int = 1
    convolution: int = 128
    windows: tuple[int, ...] = (1, 2, 3)
    alpha: float = 1.0
    dropout: float = 0.1
    feature_dropout: float = 0.25
    cosine_scores: bool = True
    mixed_pooling: bool = True
    box_position: bool = True
    regions: str = "proposals"
    words: str = "minilm"
    tuned: str = ""
    bank: tuple[int, int] = (0, 0)
    scene_size: int = 0
    scene_share: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise CrossfuseError(
                "MMCA: width {width} cannot be split over {heads} heads.",
                width=self.width,
                heads=self.heads,
            )

    @classmethod
    def small(cls) -> MMCAConfig:
        """The size trained here: EfficientNet-Lite2 regions, MiniLM words (two layers of it)."""
        return cls()

    @classmethod
    def paper(cls) -> MMCAConfig:
        """Bottom-up features and BERT-base, in the sizes of SAEM, MMCA's parent model."""
        return cls(
            region_size=2048,
            heads=16,
            feedforward=2048,
            convolution=512,
            cosine_scores=False,
            mixed_pooling=False,
            box_position=False,
            feature_dropout=0.0,
            regions="bottom_up",
            words="bert-base-uncased",
        )

    @classmethod
    def tiny(cls) -> MMCAConfig:
        """For tests."""
        return cls(12, 10, 16, 2, 24, convolution=6)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MMCAConfig:
        tuples = {key: tuple(values[key]) for key in ("windows", "bank") if key in values}
        return cls(**{**values, **tuples})


@dataclass(frozen=True)
class ImageStates:
    """The image side, computed once for any number of sentences.

    ``tokens`` R_s (B, k, d), ``mask`` (B, k) True = a real region, ``embedding`` i0 (B, d).
    """

    tokens: Tensor
    mask: Tensor
    embedding: Tensor
    maps: tuple[LayerMap, ...] = ()

    def take(self, index: Tensor) -> ImageStates:
        return ImageStates(self.tokens[index], self.mask[index], self.embedding[index])


@dataclass(frozen=True)
class SentenceStates:
    """The sentence side: ``tokens`` E W_p (B, n, d), ``mask`` (B, n), ``embedding`` c0 (B, d)."""

    tokens: Tensor
    mask: Tensor
    embedding: Tensor

    def take(self, index: Tensor) -> SentenceStates:
        return SentenceStates(self.tokens[index], self.mask[index], self.embedding[index])


class TransformerUnit(nn.Module):
    """One post-norm Transformer layer: attention, then a feed-forward net, each with a residual."""

    def __init__(self, config: MMCAConfig) -> None:
        super().__init__()
        width, self.heads, self.dropout = config.width, config.heads, config.dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.scale = (
            nn.Parameter(torch.full((config.heads, 1, 1), 2.3)) if config.cosine_scores else None
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, width)

    def queries(self, tokens: Tensor) -> Tensor:
        """(B, N, d) -> (B, H, N, d / H); unit vectors with cosine scores."""
        query = split_heads(self.query(tokens), self.heads)
        return query if self.scale is None else F.normalize(query, dim=-1)

    def keys(self, tokens: Tensor) -> Tensor:
        key = split_heads(self.key(tokens), self.heads)
        return key if self.scale is None else F.normalize(key, dim=-1)

    def forward(
        self, tokens: Tensor, mask: Tensor, want: Want = NOTHING
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """tokens (B, N, d), mask (B, N) -> new tokens, map or None, value, context (per head)."""
        dropout = self.dropout if self.training else 0.0
        query, scale = self.queries(tokens), None
        if self.scale is not None:
            query, scale = query * self.scale.exp(), 1.0
        value = split_heads(self.value(tokens), self.heads)
        attended = attend(
            query, self.keys(tokens), value,
            key_mask=mask, scale=scale, dropout=dropout, want=want,
        )  # fmt: skip
        update = self.out(merge_heads(attended.output))
        tokens = self.norm1(tokens + F.dropout(update, dropout))
        update = self.contract(F.gelu(self.expand(tokens)))
        tokens = self.norm2(tokens + F.dropout(update, dropout))
        return tokens, attended.weights, value, attended.output


class SentenceCNN(nn.Module):
    """1-, 2- and 3-gram convolutions, ReLU, maximum over positions, a linear layer.

    Windows that touch a masked position are left out of the maximum. With ``mean``, the mean of
    the tokens goes into the linear layer too.
    """

    def __init__(self, size: int, config: MMCAConfig, mean: bool) -> None:
        super().__init__()
        self.channels = channels = config.convolution
        self.mean = mean
        self.convolutions = nn.ModuleList(
            nn.Linear(size * window, channels) for window in config.windows
        )
        self.windows = config.windows
        inputs = channels * len(config.windows) + (size if mean else 0)
        self.out = nn.Linear(inputs, config.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, n, size), (B, n) -> (B, d), not normalised."""
        pooled = []
        for window, layer in zip(self.windows, self.convolutions, strict=True):
            count = tokens.shape[1] - window + 1
            if count < 1:
                pooled.append(tokens.new_zeros((len(tokens), self.channels)))
                continue
            grams = torch.cat([tokens[:, i : i + count] for i in range(window)], dim=-1)
            whole = torch.stack([mask[:, i : i + count] for i in range(window)]).all(0)
            # After the ReLU zero is the least value, so a masked window cannot win the maximum.
            pooled.append((F.relu(layer(grams)) * whole[..., None]).amax(1))
        if self.mean:
            pooled.append(masked_mean(tokens, mask))
        return self.out(torch.cat(pooled, dim=-1))


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens: (B, N, d), (B, N) -> (B, d)."""
    weights = mask.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0)


class Separable(nn.Module):
    """Two embeddings whose product scores a pair: i0 of the regions and c0 of the words."""

    def __init__(self, config: MMCAConfig, region_size: int) -> None:
        super().__init__()
        width, self.feature_dropout = config.width, config.feature_dropout
        # Standardisation of the frozen features, measured on the training photographs.
        self.register_buffer("feature_mean", torch.zeros(region_size))
        self.register_buffer("feature_scale", torch.ones(region_size))
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.region_projection = nn.Linear(region_size, width)
        self.position = nn.Linear(5, width) if config.box_position else None
        self.region_norm = nn.LayerNorm(width)
        self.image_units = nn.ModuleList(
            TransformerUnit(config) for _ in range(config.image_layers)
        )
        self.mixture = nn.Parameter(torch.zeros(width)) if config.mixed_pooling else None
        self.sentence_cnn = SentenceCNN(config.word_size, config, mean=config.mixed_pooling)

    def images(
        self, regions: Tensor, boxes: Tensor | None, mask: Tensor, want: Want = NOTHING
    ) -> ImageStates:
        """(B, k, C), (B, k, 4), (B, k) -> R_s and i0, unit vectors."""
        tokens = (regions - self.feature_mean) * self.feature_scale
        tokens = self.region_projection(self.drop(tokens))
        if self.position is not None:
            if boxes is None:
                raise CrossfuseError("MMCA with box_position needs the boxes of the regions.")
            area = (boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True)
            tokens = tokens + self.position(torch.cat([boxes, area], dim=-1))
        tokens = self.region_norm(tokens)
        maps: list[LayerMap] = []
        for layer, unit in enumerate(self.image_units):
            tokens, weights, value, context = unit(tokens, mask, want)
            record(maps, want, "self", layer, "regions", "regions", weights, value, context)
        pooled = masked_mean(tokens, mask)
        if self.mixture is not None:
            most = tokens.masked_fill(~mask[..., None], -torch.inf).amax(1)
            most = most.masked_fill(~mask.any(1, keepdim=True), 0.0)
            pooled = torch.lerp(pooled, most.to(pooled), self.mixture.sigmoid().to(pooled))
        return ImageStates(tokens, mask, F.normalize(pooled, dim=-1), tuple(maps))

    def sentences(self, words: Tensor, mask: Tensor) -> Tensor:
        """(B, n, word_size), (B, n) -> c0 (B, d), unit vectors; ``words`` after :meth:`drop`."""
        return F.normalize(self.sentence_cnn(words, mask), dim=-1)

    def drop(self, features: Tensor) -> Tensor:
        """Dropout on the frozen features, in training."""
        return F.dropout(features, self.feature_dropout, self.training)


def record(
    maps: list[LayerMap],
    want: Want,
    stage: str,
    layer: int,
    query: str,
    key: str,
    weights: Tensor | None,
    value: Tensor,
    context: Tensor,
) -> None:
    if weights is not None:
        direction = f"{query}->{key}"
        extra = (value, context) if want.check else (None, None)
        maps.append(LayerMap(stage, layer, direction, query, key, weights, want.rows, *extra))

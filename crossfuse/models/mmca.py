"""MMCA: multi-modality cross attention for image-sentence matching.

X. Wei, T. Zhang, Y. Li, Y. Zhang and F. Wu, "Multi-Modality Cross Attention Network for Image and
Sentence Matching", CVPR 2020, pp. 10941-10950. No code was published; where the paper's text does
not fix a size, the parent model SAEM (Wu et al., ACM MM 2019) or a field of :class:`MMCAConfig`
does. With k regions, n word pieces, width d:

    R   = F W_r + b_r                            regions, k x d
    R_s = unit(R)                                self-attention unit (Transformer layer, post-norm)
    i0  = L2(pool over regions of R_s)
    c0  = L2(W_e [max_t ReLU(conv_l(E))]_l=1,2,3)     E: token states of a BERT, n x 384 or n x 768
    Y   = [R_s ; E W_p]                          stacked as one sequence, (k + n) x d
    A_h = softmax(Q_h K_h^T / sqrt(d_h))         one softmax over all k + n keys
    [R_c ; E_c] = unit(Y)                        cross-attention unit
    i1  = L2(mean over regions of R_c),  c1 = L2(CNN of E_c as for c0)
    S(I, T) = i0 . c0 + alpha  i1 . c1

The four blocks of A (region-region, region-word, word-region, word-word) are parts of one map:
a row splits a total of 1 over regions *and* words.

Four fields depart from the paper's form, and are off in :meth:`MMCAConfig.paper`:
``cosine_scores`` (scores are cosines of query and key times a learnt scale per head, Henry et al.,
EMNLP Findings 2020; :meth:`MMCA.alignment` trains exactly these), ``mixed_pooling`` (i0 pools by a
learnt mixture of mean and maximum, and c0 also sees the mean of E), ``box_position``, and
``scene_size``: the last numbers of each region are those of a second image encoder, which go only
into a second pair of embeddings i0', c0' (:class:`Separable` again, with weights of its own);
with share b of it, i0 is [sqrt(1 - b) i0; sqrt(b) i0'] and c0 likewise, so that i0 . c0 is the
weighted mean of both cosines and ranking remains one product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, attend, merge_heads, split_heads
from crossfuse.errors import CrossfuseError

BANK_SHARPNESS = 20.0


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


@dataclass(frozen=True)
class MMCAOutput:
    """Scores of B pairs and, where wanted, the maps.

    ``similarity`` = ``separable`` (i0 . c0) + alpha * ``crossed`` (i1 . c1), each (B,).
    ``region_shares`` (B, k): what each region adds to i1 . c1 with c1 held fixed; they sum to it.
    ``maps``: stage "self" (regions x regions, from the image alone) and stage "cross"
    ([regions; words] x [regions; words]).
    """

    similarity: Tensor
    separable: Tensor
    crossed: Tensor
    region_shares: Tensor
    maps: tuple[LayerMap, ...] = ()


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
            _record(maps, want, "self", layer, "regions", "regions", weights, value, context)
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


class MMCA(nn.Module):
    """The network. ``encode_images`` and ``encode_sentences`` are separable; ``cross`` is not."""

    Config = MMCAConfig

    def __init__(self, config: MMCAConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.separable = Separable(config, config.region_size - config.scene_size)
        self.scene = Separable(config, config.scene_size) if config.scene_size else None
        # i0 and c0 of photographs and sentences that were held out of training.
        both = width * (1 + (self.scene is not None))
        self.register_buffer("bank_images", torch.zeros(config.bank[0], both))
        self.register_buffer("bank_sentences", torch.zeros(config.bank[1], both))
        self.bank_images: Tensor
        self.bank_sentences: Tensor
        self.word_projection = nn.Linear(config.word_size, width)
        self.word_norm = nn.LayerNorm(width)
        self.cross_units = nn.ModuleList(
            TransformerUnit(config) for _ in range(config.cross_layers)
        )
        self.cross_cnn = SentenceCNN(width, config, mean=False)

    @classmethod
    def from_config(cls, config: MMCAConfig) -> MMCA:
        return cls(config)

    @staticmethod
    def example_inputs(config: MMCAConfig, batch: int, seed: int = 0) -> dict[str, Tensor]:
        """Random pairs with padded regions and words, for tests and warming up."""
        rng = torch.Generator().manual_seed(seed)
        regions, words = 7, 9
        corner = torch.rand(batch, regions, 2, generator=rng) * 0.6
        side = torch.rand(batch, regions, 2, generator=rng) * 0.3 + 0.1
        region_mask = torch.ones(batch, regions, dtype=torch.bool)
        word_mask = torch.ones(batch, words, dtype=torch.bool)
        region_mask[0, regions - 2 :] = False
        word_mask[-1, words - 3 :] = False
        return {
            "regions": torch.randn(batch, regions, config.region_size, generator=rng),
            "words": torch.randn(batch, words, config.word_size, generator=rng),
            "boxes": torch.cat([corner, corner + side], dim=-1),
            "region_mask": region_mask,
            "word_mask": word_mask,
        }

    def encode_images(
        self,
        regions: Tensor,
        boxes: Tensor | None = None,
        mask: Tensor | None = None,
        want: Want = NOTHING,
    ) -> ImageStates:
        """The self-attention unit over regions.

        Args:
            regions: (B, k, region_size) features; boxes: (B, k, 4) in 0...1 of the frame, needed
                with ``box_position``; mask: (B, k) bool, True = a real region (all, if None).
        """
        mask = _full_mask(regions) if mask is None else mask
        parts = regions.split(self._sizes, dim=-1)
        states = self.separable.images(parts[0], boxes, mask, want)
        if self.scene is None:
            return states
        scene = self.scene.images(parts[1], boxes, mask)
        return replace(states, embedding=self._joined(states.embedding, scene.embedding))

    def encode_sentences(self, words: Tensor, mask: Tensor | None = None) -> SentenceStates:
        """The sentence CNN. words: (B, n, word_size) token states; mask: (B, n) bool."""
        mask = _full_mask(words) if mask is None else mask
        words = self.separable.drop(words)
        embedding = self.separable.sentences(words, mask)
        if self.scene is not None:
            embedding = self._joined(embedding, self.scene.sentences(words, mask))
        return SentenceStates(self.word_norm(self.word_projection(words)), mask, embedding)

    @property
    def _sizes(self) -> list[int]:
        """Region features of the two encoders; the second may have none."""
        scene = self.config.scene_size
        return [self.config.region_size - scene, scene]

    def _joined(self, embedding: Tensor, scene: Tensor) -> Tensor:
        """Unit vectors (B, d), (B, d) -> (B, 2 d), whose products are the weighted mean of both."""
        share = self.config.scene_share
        return torch.cat([embedding * (1.0 - share) ** 0.5, scene * share**0.5], dim=-1)

    def cross(
        self, images: ImageStates, sentences: SentenceStates, want: Want = NOTHING
    ) -> MMCAOutput:
        """The cross-attention unit and both similarities of B pairs (row i with row i)."""
        k = images.tokens.shape[1]
        tokens = torch.cat([images.tokens, sentences.tokens.to(images.tokens)], dim=1)
        mask = torch.cat([images.mask, sentences.mask], dim=1)
        maps = list(images.maps)
        for layer, unit in enumerate(self.cross_units):
            tokens, weights, value, context = unit(tokens, mask, want)
            _record(maps, want, "cross", layer, "tokens", "tokens", weights, value, context)
        pooled = masked_mean(tokens[:, :k], images.mask).float()
        caption = self.cross_cnn(tokens[:, k:], sentences.mask).float()
        caption = F.normalize(caption, dim=-1)
        crossed = (F.normalize(pooled, dim=-1) * caption).sum(-1)
        real = images.mask.float()
        shares = torch.einsum("bkd,bd->bk", tokens[:, :k].float(), caption) * real
        count = real.sum(1).clamp(min=1.0) * pooled.norm(dim=-1).clamp(min=1e-12)
        separable = (images.embedding.float() * sentences.embedding.float()).sum(-1)
        similarity = separable + self.config.alpha * crossed
        return MMCAOutput(similarity, separable, crossed, shares / count[:, None], tuple(maps))

    def keep_bank(self, images: Tensor, sentences: Tensor) -> None:
        """Keep i0 (N, d) and c0 (M, d) of held-out pictures and sentences for :meth:`hubness`."""
        self.config = replace(self.config, bank=(len(images), len(sentences)))
        self.bank_images, self.bank_sentences = images.clone(), sentences.clone()

    def hubness(self, embeddings: Tensor, bank: Tensor) -> Tensor:
        """How near embeddings are to whatever is asked, (B, d) and (N, d) -> (B,).

        Some sentences are near to all photographs, and some photographs to all sentences; they
        come first for many queries to which they are no answer. Query-bank normalisation
        (Bogolin et al., CVPR 2022, inverted softmax) takes it off: a ranking by
        S - log mean exp(b i0 . c0) / b, the mean being over a bank of queries, b = 20 as there.
        Photographs are measured by ``bank_sentences``, sentences by ``bank_images``. Zero without
        a bank.
        """
        if not len(bank):
            return embeddings.new_zeros(len(embeddings))
        near = BANK_SHARPNESS * embeddings.float() @ bank.float().T
        return (near.logsumexp(1) - math.log(len(bank))) / BANK_SHARPNESS

    def alignment(self, images: ImageStates, sentences: SentenceStates) -> Tensor:
        """Head-mean score of word -> region in the first cross unit, for every pair of the batch.

        The first unit's queries and keys need one side only, so all B x C pairs cost two
        projections and one product. With cosine scores the values are in -1...1.

        Returns:
            (B sentences, n, C images, k); padded regions are -inf.
        """
        unit = cast(TransformerUnit, self.cross_units[0])
        query = merge_heads(unit.queries(sentences.tokens)) / unit.heads
        key = merge_heads(unit.keys(images.tokens))
        score = torch.einsum("bnd,ckd->bnck", query, key)
        if unit.scale is None:
            score = score * (unit.heads / query.shape[-1]) ** 0.5
        return score.masked_fill(~images.mask, -torch.inf)

    def forward(
        self,
        regions: Tensor,
        words: Tensor,
        boxes: Tensor | None = None,
        region_mask: Tensor | None = None,
        word_mask: Tensor | None = None,
        want: Want = NOTHING,
    ) -> MMCAOutput:
        """Scores of B image-sentence pairs; arguments as of the parts."""
        images = self.encode_images(regions, boxes, region_mask, want)
        return self.cross(images, self.encode_sentences(words, word_mask), want)


def without_cross_unit(config: MMCAConfig) -> MMCAConfig:
    """S = i0 . c0 alone: the cross unit exists but does not count."""
    return replace(config, alpha=0.0)


def _full_mask(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _record(
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

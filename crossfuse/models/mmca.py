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
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.attention import NOTHING, LayerMap, Want, merge_heads
from crossfuse.models.mmca_parts import (
    ImageStates,
    MMCAConfig,
    SentenceCNN,
    SentenceStates,
    Separable,
    TransformerUnit,
    masked_mean,
    record,
)

__all__ = [
    "MMCA",
    "ImageStates",
    "MMCAConfig",
    "MMCAOutput",
    "SentenceStates",
]

BANK_SHARPNESS = 20.0


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
            record(maps, want, "cross", layer, "tokens", "tokens", weights, value, context)
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


def _full_mask(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

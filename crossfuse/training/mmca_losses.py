"""The terms of MMCA's training: InfoNCE, word-region alignment, scores of the cross unit."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.models.mmca import MMCA, ImageStates, SentenceStates


class Temperatures(nn.Module):
    """Learnt inverse temperatures (log) of the contrastive terms; used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.separable = nn.Parameter(torch.tensor(math.log(20.0)))
        self.alignment = nn.Parameter(torch.tensor(math.log(20.0)))
        self.pair = nn.Parameter(torch.tensor(math.log(20.0)))

    def of(self, name: str) -> Tensor:
        return getattr(self, name).clamp(max=math.log(80.0)).exp()


def contrast(
    log_odds: Tensor, per_image: int, likeness: Tensor | None = None, soft: float = 0.0
) -> Tensor:
    """InfoNCE both ways. log_odds: (B, B * per_image), captions of one image side by side.

    Image -> caption: each of an image's captions against all captions of other images.

    ``likeness`` (B, B * per_image): how well each caption would do for each image, judged by text
    alone. With ``soft`` > 0 that share of the target is its softmax, so that a caption which could
    as well be of another photograph is not pushed away from it.
    """
    images = len(log_odds)
    log_odds = log_odds.float()
    rows = torch.arange(images, device=log_odds.device)
    target = rows.repeat_interleave(per_image)
    to_image = F.cross_entropy(log_odds.T, target)
    own = target[None] == rows[:, None]
    others = log_odds.masked_fill(own, -torch.inf).logsumexp(1)
    columns = torch.arange(images * per_image, device=log_odds.device).view(images, per_image)
    positive = log_odds.gather(1, columns)
    to_caption = (torch.logaddexp(others[:, None], positive) - positive).mean()
    hard = (to_image + to_caption) / 2
    if likeness is None or not soft:
        return hard
    softened = F.cross_entropy(log_odds.T, likeness.T.softmax(1))
    softened = softened + F.cross_entropy(log_odds, likeness.softmax(1))
    return (1.0 - soft) * hard + soft * softened / 2


def word_region_score(scores: Tensor, mask: Tensor) -> Tensor:
    """Mean over real words of the best region's score: (B, n, C, k), (B, n) -> (C, B)."""
    best = scores.amax(-1)
    weights = mask.to(best.dtype)[..., None]
    return ((best * weights).sum(1) / weights.sum(1).clamp(min=1)).T


def hard_negatives(similarity: Tensor, count: int, own: Tensor) -> Tensor:
    """For each row, ``count`` columns drawn from its 2 * count best columns that are not own.

    similarity: (B, B); own: (B, B) bool, True = a true pair. Returns (B, count).
    """
    best = similarity.masked_fill(own, -torch.inf).topk(2 * count, dim=1).indices
    draw = torch.rand(best.shape, device=best.device).argsort(1)[:, :count]
    return best.gather(1, draw)


def joint_loss(
    model: MMCA,
    images: ImageStates,
    sentences: SentenceStates,
    inverse_temperature: Tensor,
    negatives: int,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """Hinge with the hardest negative, and cross-entropy, over shortlisted candidates.

    Both are taken of S and of i1 . c1 alone: what i0 . c0 has learnt by heart of the training
    pairs must not silence the cross unit. Row i of ``images`` belongs to row i of ``sentences``.

    Returns:
        The loss and the share of rows whose true pair beats all its candidates by i1 . c1.
    """
    count, device = len(images.tokens), images.tokens.device
    here = torch.arange(count, device=device)
    with torch.no_grad():
        separable = images.embedding.float() @ sentences.embedding.float().T
        own = here[:, None] == here[None]
        captions = hard_negatives(separable, negatives, own)
        photos = hard_negatives(separable.T, negatives, own)
    rows = here.repeat_interleave(negatives)
    image_index = torch.cat([here, rows, photos.flatten()])
    sentence_index = torch.cat([here, captions.flatten(), rows])
    out = model.cross(images.take(image_index), sentences.take(sentence_index))
    pair, crossed = out.similarity.float(), out.crossed.float()
    loss, wins = pair.new_zeros(()), pair.new_zeros(())
    for scores, weight in ((pair, 0.5), (crossed, 1.0)):
        positive = scores[:count]
        for part in scores[count:].view(2, count, negatives):
            hinge = (margin - positive + part.amax(1)).clamp(min=0).mean()
            table = torch.cat([positive[:, None], part], 1) * inverse_temperature
            entropy = F.cross_entropy(table, torch.zeros_like(here))
            loss = loss + weight * (hinge + 0.5 * entropy)
            if scores is crossed:
                wins = wins + (table.argmax(1) == 0).float().mean().detach() / 2
    return loss, wins


def inner_words(sentences: SentenceStates) -> Tensor:
    """The mask without [CLS] (first) and [SEP] (last real position)."""
    mask = sentences.mask.clone()
    mask[:, 0] = False
    position = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(sentences.mask, position, -1).amax(1, keepdim=True)
    return mask & (position != last)

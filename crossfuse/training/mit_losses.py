"""Losses of MIT: what a set of tags can teach about points and photographs.

Of the paper (all with weight 1; MLSM = multi-label soft margin):

    L = MLSM(z3) + MLSM(z2) + MLSM(z_fused) + BCE(p3) + MLSM(cam2) + L_pair + MSE(voxel, supervoxel)

p3 = mean over supervoxels of softmax over classes of the 3-D CAM; since its entries sum to 1,
BCE(p3) cannot reach 0 for a scan with several tags. L_pair asks that the class token of one stream
is most like the same class's token of the other. Added here, for the CAM on decoded tokens
(:func:`candidate_loss`): every supervoxel is of *one of the tagged classes*, and every tagged class
is *somewhere*, which is all that tags say.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.models.mit import MITOutput
from crossfuse.models.mit_answers import pooled


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the items of (B, N, K) that mask (B, N) keeps: (B, K)."""
    weight = mask.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp(min=1)


def pair_loss(scores: tuple[Tensor, ...]) -> Tensor:
    """Cross-entropy of class-to-class scores (B, K, K) to the identity, both ways, over blocks."""
    losses = []
    for score in scores:
        target = torch.arange(score.shape[-1], device=score.device).expand(len(score), -1)
        rows = F.cross_entropy(score.flatten(0, 1), target.flatten())
        columns = F.cross_entropy(score.transpose(1, 2).flatten(0, 1), target.flatten())
        losses.append((rows + columns) / 2)
    return torch.stack(losses).mean()


def paper_losses(out: MITOutput, tags: Tensor) -> dict[str, Tensor]:
    """The published terms by name. ``tags`` (B, K) bool."""
    wanted = tags.to(out.class_3d.dtype)
    soft = F.multilabel_soft_margin_loss
    p3 = masked_mean(out.cam_3d.softmax(-1), out.segment_mask)
    terms = {
        "class_3d": soft(out.class_3d, wanted),
        "cam_3d": F.binary_cross_entropy(p3.clamp(1e-6, 1 - 1e-6), wanted),
        "scatter": out.scatter.mean(),
    }
    if out.class_scores:
        terms["class_2d"] = soft(out.class_2d, wanted)
        terms["class_fused"] = soft(out.class_fused, wanted)
        terms["cam_2d"] = soft(masked_mean(out.cam_2d, out.view_mask), wanted)
        terms["pair"] = pair_loss(out.class_scores)
    return terms


def candidate_loss(logits: Tensor, mask: Tensor, tags: Tensor, sharpen: float = 0.0) -> Tensor:
    """What tags say about supervoxels, given logits (B, M, K), mask (B, M) and tags (B, K) bool.

    The sum of three terms: -log of the probability that a supervoxel is of a tagged class;
    -log of each tagged class's probability on the few supervoxels it likes best; and, with
    weight ``sharpen``, the cross-entropy to the model's own answer restricted to the tags
    (the belief step of partial-label learning; Lv et al., ICML 2020, arXiv 2002.08053).
    """
    logp = logits.log_softmax(-1)
    outside = ~tags[:, None]
    among = logp.masked_fill(outside, -1e4).logsumexp(-1)
    weight = mask.to(logits.dtype)
    total = weight.sum().clamp(min=1)
    allowed = -(among * weight).sum() / total
    hidden = logp.exp().masked_fill(~mask[..., None], 0.0)
    best = hidden.topk(max(1, logits.shape[1] // 40), dim=1).values.mean(1)
    there = -(best.clamp(min=1e-6).log() * tags).sum() / tags.sum().clamp(min=1)
    loss = allowed + 0.5 * there
    if sharpen:
        belief = logp.detach().masked_fill(outside, -1e4).softmax(-1)
        own = -(belief * logp).sum(-1)
        loss = loss + sharpen * (own * weight).sum() / total
    return loss


def instance_loss(logits: Tensor, mask: Tensor, tags: Tensor, often: Tensor) -> Tensor:
    """Multiple-instance loss: a tag is explained by the items that its class likes most.

    Cross-entropy of the attention-pooled logits (B, K) to the tags, weighted so that scans with
    and without a class count alike: a logit is then evidence for the class, not its frequency.

    Args:
        logits: (B, N, K) of supervoxels or photographs; mask: (B, N); tags: (B, K) bool.
        often: (K,) share of scans that have each class; classes in all scans are left out.
    """
    wanted = tags.to(logits.dtype)
    share = often.clamp(0.015, 0.985)
    weight = torch.where(tags, 0.5 / share, 0.5 / (1 - share)) * (often < 1)
    return F.binary_cross_entropy_with_logits(pooled(logits, mask), wanted, weight=weight)


def supervised_loss(logits: Tensor, histogram: Tensor) -> Tensor:
    """Cross-entropy to the true share of each class in a supervoxel (for the upper bound only).

    logits (M, K); histogram (M, K) points of each class. Supervoxels without labels do not count.
    """
    many = histogram.sum(-1, keepdim=True)
    share = histogram / many.clamp(min=1)
    known = (many[:, 0] > 0).to(logits.dtype)
    loss = -(share * logits.log_softmax(-1)).sum(-1)
    return (loss * known).sum() / known.sum().clamp(min=1)

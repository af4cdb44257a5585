"""Losses of MIT: what a set of tags can teach about points and photographs.

Of the paper (all with weight 1; MLSM = multi-label soft margin):

    L = MLSM(z3) + MLSM(z2) + MLSM(z_fused) + BCE(p3) + MLSM(cam2) + L_pair + MSE(voxel, supervoxel)

p3 = mean over supervoxels of softmax over classes of the 3-D CAM; since its entries sum to 1,
BCE(p3) cannot reach 0 for a scan with several tags. L_pair asks that the class token of one stream
is most like the same class's token of the other. Here the CAMs are pooled by attention instead of
by the mean (:func:`instance_loss`): a tag is explained by the few supervoxels, photographs or cells
that speak for it most, not by all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.models.mit import MITOutput
from crossfuse.models.mit_answers import pooled

EVERYWHERE = 0.98  # tags of a class that more scans have say nothing about how it looks


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


def class_losses(out: MITOutput, tags: Tensor, photos: bool = True) -> Tensor:
    """The published terms on class tokens: their logits against the tags (B, K), and L_pair.

    ``photos=False`` leaves out what the photographs say; without a decoder nothing is fused.
    """
    wanted = tags.to(out.class_3d.dtype)
    soft = F.multilabel_soft_margin_loss
    total = soft(out.class_3d, wanted)
    if photos:
        total = total + soft(out.class_2d, wanted)
    if photos and out.class_scores:
        total = total + soft(out.class_fused, wanted) + pair_loss(out.class_scores)
    return total


def tag_loss(out: MITOutput, tags: Tensor, often: Tensor, photos: bool = True) -> Tensor:
    """All that a set of tags can teach: published terms and those added here.

    The published terms on the plain CAMs (mean pooling) give way to pooling by attention.

    Args:
        tags: (B, K) bool; often: (K,) share of scans that have each class.
    """
    total = class_losses(out, tags, photos) + out.scatter.mean()
    for cam in (*out.cam_parts, out.cam_decoded):
        if cam is not None:
            total = total + instance_loss(cam.float(), out.segment_mask, tags, often)
    if photos:
        total = total + instance_loss(out.cam_2d.float(), out.view_mask, tags, often)
    return total


def instance_loss(logits: Tensor, mask: Tensor, tags: Tensor, often: Tensor) -> Tensor:
    """Multiple-instance loss: a tag is explained by the items that its class likes most.

    Cross-entropy of the attention-pooled logits (B, K) to the tags, weighted so that scans with
    and without a class count alike: a logit is then evidence for the class, not its frequency.

    Args:
        logits: (B, N, K) of supervoxels or photographs; mask: (B, N); tags: (B, K) bool.
        often: (K,) share of scans that have each class; classes of (nearly) all scans are left out.
    """
    wanted = tags.to(logits.dtype)
    share = often.clamp(0.015, 0.985)
    weight = torch.where(tags, 0.5 / share, 0.5 / (1 - share)) * (often < EVERYWHERE)
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

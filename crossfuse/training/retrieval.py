"""Image-sentence retrieval: recall in both directions, full or by shortlist and re-ranking."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RANKS = (1, 5, 10)


def ranks_of_truth(similarity: np.ndarray, per_image: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best true caption of each image, and of the true image of each caption.

    similarity: (N, N * per_image), the captions of one image side by side. Rank 0 is best; a tie
    with a wrong candidate counts against the truth.
    """
    images, captions = similarity.shape
    own = np.arange(captions)[None] // per_image == np.arange(images)[:, None]
    best = np.where(own, similarity, -np.inf).max(1)
    image_ranks = ((similarity >= best[:, None]) & ~own).sum(1)
    true = similarity[np.arange(captions) // per_image, np.arange(captions)]
    caption_ranks = (similarity >= true[None]).sum(0) - 1
    return image_ranks, caption_ranks


def recalls(similarity: np.ndarray, per_image: int = 5) -> dict[str, float]:
    """R@1/5/10 in percent, image -> text ("i2t") and text -> image ("t2i"), their sum and mean."""
    to_text, to_image = ranks_of_truth(similarity, per_image)
    figures = {f"i2t_r{k}": 100.0 * float((to_text < k).mean()) for k in RANKS}
    figures |= {f"t2i_r{k}": 100.0 * float((to_image < k).mean()) for k in RANKS}
    total = sum(figures.values())
    return {**figures, "rsum": total, "mean_recall": total / 6}


def rerank(
    separable: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    shortlist: tuple[int, int],
    per_image: int = 5,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Score only the best candidates of each query, both directions, by ``score``.

    Args:
        separable: (N, C) similarity that is cheap for all pairs.
        score: (pairs of image indices, caption indices) -> (P,) full similarity.
        shortlist: captions kept for each image, images kept for each caption.

    Returns:
        Two (N, C) matrices, one for image -> text and one for text -> image, in which candidates
        outside the shortlist lie below all within it, in their separable order; and figures: the
        pairs scored, and how many queries have a true candidate in their shortlist (percent).
    """
    images, captions = separable.shape
    short_text = np.zeros(separable.shape, bool)
    short_image = np.zeros(separable.shape, bool)
    few = min(shortlist[0], captions)
    best = np.argpartition(-separable, few - 1, axis=1)[:, :few]
    np.put_along_axis(short_text, best, True, axis=1)
    few = min(shortlist[1], images)
    best = np.argpartition(-separable, few - 1, axis=0)[:few]
    np.put_along_axis(short_image, best, True, axis=0)
    rows, columns = np.nonzero(short_text | short_image)
    scored = np.full(separable.shape, -np.inf, np.float32)
    scored[rows, columns] = score(rows, columns)
    floor = float(scored[rows, columns].min()) - float(separable.max()) - 1.0
    to_text = np.where(short_text, scored, separable + floor)
    to_image = np.where(short_image, scored, separable + floor)
    own = np.arange(captions)[None] // per_image == np.arange(images)[:, None]
    figures = {
        "shortlist_captions": float(shortlist[0]),
        "shortlist_images": float(shortlist[1]),
        "pairs_scored": float(len(rows)),
        "pairs_of_all_percent": 100.0 * len(rows) / separable.size,
        "shortlist_recall_i2t": 100.0 * float((short_text & own).any(1).mean()),
        "shortlist_recall_t2i": 100.0 * float((short_image & own).any(0).mean()),
    }
    return to_text, to_image, figures


def two_way_recalls(
    to_text: np.ndarray, to_image: np.ndarray, per_image: int = 5
) -> dict[str, float]:
    """As :func:`recalls`, from one matrix for each direction."""
    figures = {k: v for k, v in recalls(to_text, per_image).items() if k.startswith("i2t")}
    figures |= {k: v for k, v in recalls(to_image, per_image).items() if k.startswith("t2i")}
    total = sum(figures.values())
    return {**figures, "rsum": total, "mean_recall": total / 6}

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
    margin: float = np.inf,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Score only the best candidates of each query, both directions, by ``score``.

    Where the score adds little to the separable similarity, a candidate far below the tenth best
    cannot come among the first ten: ``margin`` leaves out those that lie further below it.

    Args:
        separable: (N, C) similarity that is cheap for all pairs.
        score: (pairs of image indices, caption indices) -> (P,) full similarity.
        shortlist: most captions kept for each image, most images kept for each caption.

    Returns:
        Two (N, C) matrices, one for image -> text and one for text -> image, in which candidates
        outside the shortlist lie below all within it, in their separable order; and figures: the
        pairs scored, and how many queries have a true candidate in their shortlist (percent).
    """
    images, captions = separable.shape
    short_text = _shortlist(separable, min(shortlist[0], captions), margin)
    short_image = _shortlist(separable.T, min(shortlist[1], images), margin).T
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


def _shortlist(separable: np.ndarray, few: int, margin: float) -> np.ndarray:
    """Of each row its ``few`` best columns, less those too far below the tenth: (N, C) bool."""
    best = np.argpartition(-separable, few - 1, axis=1)[:, :few]
    scores = np.take_along_axis(separable, best, axis=1)
    last = min(RANKS[-1], few) - 1
    tenth = -np.partition(-scores, last, axis=1)[:, last, None]
    short = np.zeros(separable.shape, bool)
    np.put_along_axis(short, best, scores >= tenth - margin, axis=1)
    return short


def two_way_recalls(
    to_text: np.ndarray, to_image: np.ndarray, per_image: int = 5
) -> dict[str, float]:
    """As :func:`recalls`, from one matrix for each direction."""
    figures = {k: v for k, v in recalls(to_text, per_image).items() if k.startswith("i2t")}
    figures |= {k: v for k, v in recalls(to_image, per_image).items() if k.startswith("t2i")}
    total = sum(figures.values())
    return {**figures, "rsum": total, "mean_recall": total / 6}

"""Recall, re-ranking and grounding figures on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from crossfuse.training.grounding import Phrase, baselines, ground, paint, peak
from crossfuse.training.retrieval import recalls, rerank, two_way_recalls

TRUTH = np.kron(np.eye(6), np.ones((1, 5))).astype(np.float32)


def test_perfect_and_worst_similarity() -> None:
    assert recalls(TRUTH)["rsum"] == 600
    assert recalls(-TRUTH)["i2t_r1"] == recalls(-TRUTH)["t2i_r1"] == 0


def test_ties_count_against_the_truth() -> None:
    assert recalls(np.zeros((20, 100)))["rsum"] == 0
    assert recalls(TRUTH * 1e-6)["i2t_r1"] == 100


def test_reranking_everything_is_the_full_score() -> None:
    rng = np.random.default_rng(0)
    cheap, dear = rng.normal(size=(2, 6, 30)).astype(np.float32)
    to_text, to_image, figures = rerank(cheap, lambda i, c: dear[i, c], (30, 6))
    assert two_way_recalls(to_text, to_image) == recalls(dear)
    assert figures["pairs_of_all_percent"] == 100


def test_a_shortlist_bounds_the_recall() -> None:
    cheap = -TRUTH + np.random.default_rng(0).normal(size=TRUTH.shape).astype(np.float32) * 1e-3
    to_text, to_image, figures = rerank(cheap, lambda i, c: TRUTH[i, c], (10, 2))
    found = two_way_recalls(to_text, to_image)
    assert found["i2t_r1"] == figures["shortlist_recall_i2t"] == 0
    assert found["t2i_r1"] == figures["shortlist_recall_t2i"] == 0


def test_painting_peaks_where_boxes_meet() -> None:
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]])
    picture = paint(np.array([0.6, 0.4]), boxes)
    assert picture.max() == pytest.approx(1)
    assert picture[0, 0] == pytest.approx(0.6)
    x, y = peak(picture)
    assert 0.25 < x < 0.5
    assert 0.25 < y < 0.5


def test_grounding_and_its_baselines() -> None:
    regions = np.array([[0.0, 0.0, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]])
    small = Phrase(0, 0, np.array([1]), np.array([[0.6, 0.6, 0.9, 0.9]]))
    large = Phrase(0, 0, np.array([2]), np.array([[0.0, 0.0, 1.0, 1.0]]))
    found = ground([small, large], [np.array([0.1, 0.9]), np.array([0.5, 0.5])], [regions] * 2)
    figures = found.figures()
    assert figures["top_box_all"] == figures["painted_all"] == 100
    assert figures["found_all"] == 50
    assert figures["mass_small"] == pytest.approx(90, abs=6)
    bases = baselines([small, large], [regions] * 2)
    assert bases["centre_small"] == 0
    assert bases["centre_all"] == 50
    assert bases["largest_true_box_all"] == 100


def test_candidates_far_below_the_tenth_are_not_scored_and_change_nothing() -> None:
    rng = np.random.default_rng(1)
    cheap = rng.uniform(0, 1, (40, 200)).astype(np.float32)
    extra = rng.uniform(-0.02, 0.02, cheap.shape).astype(np.float32)
    score = cheap + extra
    *full, whole = rerank(cheap, lambda i, c: score[i, c], (50, 40))
    *few, figures = rerank(cheap, lambda i, c: score[i, c], (50, 40), margin=0.04)
    assert two_way_recalls(*few) == two_way_recalls(*full)
    assert figures["pairs_scored"] < 0.6 * whole["pairs_scored"]

"""The primer's wrong snippets are wrong in the way it says, and the right one is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfuse.models import snippets
from crossfuse.models.snippets import SNIPPETS, correct, evidence, verdicts

CAUGHT_BY = {
    "channel": "moves", "scale": "pytorch", "axis": "sums", "grid": "grid", "view": "moves",
    "swap": "shape",
}  # fmt: skip


def test_the_correct_one_passes_every_check() -> None:
    assert all(verdict.passed for verdict in verdicts(correct))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_each_mistake_is_caught(snippet: snippets.Snippet) -> None:
    failed = {verdict.check for verdict in verdicts(snippet.function) if not verdict.passed}
    assert CAUGHT_BY[snippet.name] in failed


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_each_mistake_runs_and_changes_the_picture(snippet: snippets.Snippet) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(16, 6, 8), torch.randn(16, 6, 8)
    colours = torch.rand(3, 6, 8)
    if snippet.portrait:
        key, colours = key.transpose(1, 2), colours.transpose(1, 2)
    right = evidence(correct, query, key, colours, 11, snippet.heads)
    wrong = evidence(snippet.function, query, key, colours, 11, snippet.heads)
    assert right.painted.shape == (6, 8, 3)
    assert right.row_sum == pytest.approx(1, abs=1e-5)
    assert wrong.look.shape == right.look.shape
    assert wrong.painted.shape != right.painted.shape or not torch.allclose(
        wrong.painted, right.painted, atol=1e-3
    )
    assert 1 <= wrong.reach <= 48


def test_prepared_scores_are_cosines_over_the_temperature() -> None:
    torch.manual_seed(0)
    query, key = snippets.prepared(torch.randn(9, 3, 4), torch.randn(9, 2, 5), 2, 0.25)
    assert query.shape == (8, 3, 4)
    norms = query.unflatten(0, (2, 4)).norm(dim=1) * key.unflatten(0, (2, 4)).norm(dim=1)[0, 0, 0]
    torch.testing.assert_close(norms / 4**0.5, torch.full_like(norms, 4.0))


@pytest.mark.parametrize("shape", [(30, 80, 3), (80, 30, 3), (1, 1, 3)])
@pytest.mark.parametrize("portrait", [False, True])
def test_crops_and_colours(shape: tuple[int, int, int], portrait: bool) -> None:
    pixels = np.full(shape, 51, dtype=np.uint8)
    cut = snippets.four_by_three(pixels, portrait)
    assert min(cut.shape) >= 1
    torch.testing.assert_close(
        snippets.cell_colours(cut, 3, 4), torch.full((3, 3, 4), 0.2), atol=1e-6, rtol=0
    )


def test_the_code_shown_is_the_code_that_runs() -> None:
    shown = snippets.source(snippets.axis)
    assert "softmax(dim=1)" in shown
    assert "type: ignore" not in shown
    assert shown.startswith("def attention(q, k, v, heads=1):")


def test_checks_report_what_stopped_them() -> None:
    stopped = [verdict for verdict in verdicts(snippets.channel) if verdict.complaint]
    assert stopped

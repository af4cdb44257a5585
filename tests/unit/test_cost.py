"""The live measurement of the primer gives plausible, exact figures."""

from __future__ import annotations

import pytest

from crossfuse import cost


def test_rows_agree_with_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    small, large = cost.measure("cpu", (4, 12))
    assert (small.tokens, large.tokens) == (16, 144)
    for row in (small, large):
        assert row.naive_seconds > 0
        assert row.rows_seconds > 0
        assert row.largest_difference < 1e-5
    assert large.naive_bytes == 4 * 8 * 144 * 144
    assert large.rows_bytes == 4 * 8 * 64 * 144


def test_bytes_of_a_map() -> None:
    assert cost.map_bytes(56 * 56) == pytest.approx(300 * 2**20, rel=0.01)
    assert cost.map_bytes(16, 64) == cost.map_bytes(16)

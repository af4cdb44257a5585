"""The primer's example by hand: right numbers, and formulas that say them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfuse.attention import Want, attend
from crossfuse.errors import CrossfuseError
from crossfuse.models.worked_example import WorkedExample, picture, run, strip, swatch
from crossfuse.viz import formulas as tex


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_steps_agree_with_the_kernel(heads: int, temperature: float) -> None:
    rng = np.random.default_rng(heads)
    example = WorkedExample(
        *(rng.normal(size=shape) for shape in [(4, 4), (6, 4), (4, 4), (4, 4), (4, 4)]),
        heads=heads,
        temperature=temperature,
        hidden=(1, 4),
    )
    steps = run(example)
    mask = torch.tensor([[True, False, True, True, False, True]])
    attended = attend(
        *(torch.from_numpy(array)[None] for array in (steps.query, steps.key, steps.value)),
        key_mask=mask,
        scale=1 / steps.divisor,
        want=Want.everything(),
    )
    assert attended.weights is not None
    np.testing.assert_allclose(steps.weights, attended.weights[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(steps.head_outputs, attended.output[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(steps.weights.sum(-1), 1.0)
    assert (steps.weights[:, :, [1, 4]] == 0).all()


def test_a_word_without_features_spreads_evenly() -> None:
    np.testing.assert_allclose(run(WorkedExample()).weights[0, 0], 1 / 6)


def test_the_scale_is_of_one_head() -> None:
    assert run(WorkedExample(heads=1)).divisor == 2.0
    assert run(WorkedExample(heads=4)).divisor == 1.0
    assert run(WorkedExample(scaled=False, temperature=0.5)).divisor == 0.5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 3}, "heads"),
        ({"temperature": 0.0}, "temperature"),
        ({"hidden": tuple(range(6))}, "hidden"),
        ({"words": np.full((4, 4), np.nan)}, "not a number"),
        ({"cells": np.zeros((6, 3))}, "columns"),
    ],
)
def test_bad_examples_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(CrossfuseError, match=sentence):
        WorkedExample(**changes)


def test_pictures_have_the_shapes_they_say() -> None:
    example = WorkedExample()
    assert picture(example.cells, 30).shape == (60, 90, 3)
    assert swatch(np.array([np.nan, 9, -9, 0.5]), 12).dtype == np.uint8
    assert strip(example.cells, np.eye(6)[0], example.cells[0], 16).shape[2] == 4


def test_formulas_are_filled_with_the_numbers() -> None:
    steps = run(WorkedExample())
    query, key = steps.query[0, 2], steps.key[0, 2]
    line = tex.score(query, key, tex.divisor(4, 1.0, True), 3.75, "x")
    assert "0.50" in line
    assert r"\sqrt{4}" in line
    assert line.endswith("= 3.75")
    logits = np.array([0.0, -np.inf, 1.0])
    assert tex.softmax(logits, 1, 0.0, "x").count("e^") == 2
    assert tex.number(-0.001) == "0.00"
    assert tex.number(-np.inf) == r"-\infty"
    assert tex.factor(-1.0) == "(-1.00)"
    assert tex.divisor(4, 0.5, False) == "0.50"
    assert tex.divisor(2, 0.5, True) == r"0.50\,\sqrt{2}"
    assert tex.word(r"a_b\c") == r"\text{a b c}"
    for text in (
        line,
        tex.projection("Q", "X", np.eye(2), np.eye(2), np.eye(2), row=1),
        tex.weighted_sum(steps.weights[0, 2], steps.value[0], steps.output[2], "x"),
        tex.attention(4, 6, 2, r"\sqrt{2}", "keys"),
    ):
        assert text.count("{") == text.count("}")

r"""Formulas of attention filled with the numbers at hand, as LaTeX for KaTeX.

Colours follow one code throughout: query orange, key blue, value green, weight violet; middle
tones that read on light and on dark paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

QUERY, KEY, VALUE, WEIGHT = "#d9730d", "#2f86d0", "#23976b", "#9162d6"


def number(value: float, digits: int = 2) -> str:
    """A number at fixed digits, without a negative zero; infinities as signs."""
    if np.isinf(value):
        return r"-\infty" if value < 0 else r"\infty"
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown


def factor(value: float) -> str:
    """A number as a factor of a product: negative ones in brackets."""
    shown = number(value)
    return f"({shown})" if shown.startswith("-") else shown


def colour(body: str, tone: str) -> str:
    """Set a piece of LaTeX in a colour."""
    return rf"\textcolor{{{tone}}}{{{body}}}"


def matrix(
    array: np.ndarray,
    *,
    row: int | None = None,
    tone: str = QUERY,
    digits: int = 2,
) -> str:
    """A matrix (rows, columns), one row of it set in a colour."""
    lines = []
    for index, line in enumerate(np.atleast_2d(array)):
        cells = [number(value, digits) for value in line]
        if index == row:
            cells = [colour(rf"\mathbf{{{cell}}}", tone) for cell in cells]
        lines.append(" & ".join(cells))
    return r"\begin{bmatrix}" + r" \\ ".join(lines) + r"\end{bmatrix}"


def projection(
    name: str, source: str, inputs: np.ndarray, weight: np.ndarray, result: np.ndarray,
    *, row: int | None = None, tone: str = QUERY,
) -> str:  # fmt: skip
    """``Q = X W_Q`` with all three matrices written out."""
    left = rf"{colour(name, tone)} = {source}\,W_{{{name}}} = "
    return (
        left
        + matrix(inputs, row=row, tone=tone, digits=1)
        + matrix(weight, digits=1)
        + " = "
        + matrix(result, row=row, tone=tone)
    )


def score(query: np.ndarray, key: np.ndarray, divisor: str, value: float, label: str) -> str:
    """One logit: the dot product of a query and a key, term by term, over its divisor."""
    terms = " + ".join(
        rf"{colour(factor(q), QUERY)} \cdot {colour(factor(k), KEY)}"
        for q, k in zip(query, key, strict=True)
    )
    total = number(float(query @ key))
    return (
        rf"s_{{{label}}} = \frac{{{colour('q', QUERY)} \cdot {colour('k', KEY)}}}{{{divisor}}}"
        rf" = \frac{{{terms}}}{{{divisor}}} = \frac{{{total}}}{{{divisor}}} = {number(value)}"
    )


def divisor(head_width: int, temperature: float, scaled: bool) -> str:
    r"""What scores are divided by, filled in: ``\sqrt{4}``, ``0.50\,\sqrt{4}`` or ``0.50``."""
    root = rf"\sqrt{{{head_width}}}"
    if not scaled:
        return number(temperature)
    return root if temperature == 1 else rf"{number(temperature)}\,{root}"


def softmax(logits: np.ndarray, item: int, value: float, label: str) -> str:
    """One weight: the exponential of its logit over the sum of the row's exponentials."""
    below = " + ".join("0" if np.isneginf(entry) else rf"e^{{{number(entry)}}}" for entry in logits)
    above = "0" if np.isneginf(logits[item]) else rf"e^{{{number(logits[item])}}}"
    result = rf"\mathbf{{{number(value, 3)}}}"
    return (
        rf"{colour('a', WEIGHT)}_{{{label}}} = \frac{{{above}}}{{{below}}} = "
        rf"{colour(result, WEIGHT)}"
    )


def weighted_sum(weights: np.ndarray, values: np.ndarray, output: np.ndarray, label: str) -> str:
    """One output row: each value row times its weight, added up."""
    terms = [
        rf"{colour(number(a), WEIGHT)}\,{vector(v, VALUE)}"
        for a, v in zip(weights, values, strict=True)
    ]
    lines = [" + ".join(terms[start : start + 2]) for start in range(0, len(terms), 2)]
    total = r" \\ &\quad + ".join(lines)
    return (
        rf"\begin{{aligned}} o_{{{label}}} = \sum_j {colour('a', WEIGHT)}_j\,{colour('v', VALUE)}_j"
        rf" &= {total} \\ &= {vector(output)} \end{{aligned}}"
    )


def vector(values: Sequence[float] | np.ndarray, tone: str | None = None) -> str:
    """A row vector in square brackets."""
    body = r",\,".join(number(value) for value in values)
    body = rf"[{body}]"
    return colour(body, tone) if tone else body


def word(label: str) -> str:
    """A label inside a formula: letters of any language, nothing that TeX would act on."""
    kept = "".join(" " if sign in r"\{}$#%&_^~" else sign for sign in label)
    return rf"\text{{{kept}}}"


def attention(queries: int, keys: int, width: int, below: str, over: str) -> str:
    """The whole formula of one head, the sizes of every matrix above or below it.

    ``below`` is what :func:`divisor` gives, ``over`` says along what the softmax runs.
    """

    def sized(stack: str, rows: int, columns: int, body: str) -> str:
        return rf"\{stack}{{{rows} \times {columns}}}{{{body}}}"

    transposed = colour("K", KEY) + r"^{\top}"
    above = sized("overset", queries, width, colour("Q", QUERY)) + r"\;"
    above += sized("overset", width, keys, transposed)
    return (
        sized("underset", queries, width, "O")
        + rf" = \operatorname{{softmax}}_{{\text{{{over}}}}}"
        + rf"\!\left(\frac{{{above}}}{{{below}}}\right)"
        + sized("underset", keys, width, colour("V", VALUE))
    )

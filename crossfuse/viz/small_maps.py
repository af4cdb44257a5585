"""Small maps and scores as tables one can read: every number stands in its tinted cell or bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from crossfuse.viz.formulas import KEY, QUERY, WEIGHT, number


def heat_table(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    caption: str,
    tone: str = WEIGHT,
    mark: tuple[int, int] | None = None,
    digits: int = 2,
    unit_range: bool = False,
) -> str:
    """A matrix (rows, columns) as an HTML table, one row and one cell of it framed.

    Cells are tinted with ``tone``, never darker than text can be read on, in both themes. Infinite
    entries (masked scores) stay untinted. ``unit_range`` fixes the tints to 0..1, so that two
    tables can be compared; otherwise they span the finite values. ``caption`` is for screen
    readers.
    """
    red, green, blue = (int(tone[place : place + 2], 16) for place in (1, 3, 5))
    finite = values[np.isfinite(values)]
    low, high = (0.0, 1.0) if unit_range else (float(finite.min()), float(finite.max()))

    def cell(row: int, column: int) -> str:
        value = float(values[row, column])
        share = (value - low) / (high - low) if np.isfinite(value) and high > low else 0.0
        style = f"background:rgba({red},{green},{blue},{0.04 + 0.62 * share:.3f})"
        if mark is not None and row == mark[0]:
            frame = f"inset 0 2px {QUERY},inset 0 -2px {QUERY}"
            if column == mark[1]:
                frame = f"inset 0 0 0 3px {KEY}"
            style += f";box-shadow:{frame}"
        shown = number(value, digits).replace(r"-\infty", "−∞").replace("-", "−")
        return f'<td style="{style}">{shown}</td>'

    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(cell(row, column) for column in range(len(columns)))
        + "</tr>"
        for row, name in enumerate(rows)
    )
    return (
        f'<div class="crossfuse-map"><table aria-label="{escape(caption)}">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bar_table(
    names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    *,
    head: str,
    caption: str,
    digits: int = 3,
    marked: int | None = None,
) -> str:
    """Scores (N,) of N names as an HTML table; those of the first column also as bars from zero.

    ``head`` is the heading of the names, ``caption`` for screen readers; ``marked`` sets one
    line in bold.
    """
    bars, *others = columns.values()
    low, high = min(0.0, float(bars.min())), max(0.0, float(bars.max()))
    size = (high - low) or 1.0

    def said(value: float) -> str:
        return f"{value:.{digits}f}".replace("-", "−")

    def bar(value: float) -> str:
        left, width = (min(value, 0.0) - low) / size, abs(value) / size
        style = f"left:{100 * left:.1f}%;width:{100 * width:.1f}%"
        return f'<td class="bar"><div><span style="{style}"></span></div>{said(value)}</td>'

    def line(row: int) -> str:
        mark = ' class="marked"' if row == marked else ""
        more = "".join(f"<td>{said(float(column[row]))}</td>" for column in others)
        name = f'<th scope="row">{escape(names[row])}</th>'
        return f"<tr{mark}>{name}{bar(float(bars[row]))}{more}</tr>"

    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in (head, *columns))
    lines = "".join(line(row) for row in range(len(names)))
    return (
        f'<div class="crossfuse-bars"><table aria-label="{escape(caption)}">'
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )

"""Small maps as tables one can read: every number written into its tinted cell."""

from __future__ import annotations

from collections.abc import Sequence
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

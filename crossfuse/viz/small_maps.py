"""Small maps as tables one can read: every number written into its coloured cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossfuse.viz.formulas import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def heat_table(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    mark: tuple[int, int] | None = None,
    digits: int = 2,
    unit_range: bool = False,
    cell_height: int = 46,
) -> Figure:
    """A matrix (rows, columns) as a Plotly heat map with its numbers, one row and cell outlined.

    Infinite entries (masked scores) stay empty but for their sign. ``unit_range`` fixes the
    colours to 0..1, so that two maps can be compared; otherwise they span the finite values.
    """
    from plotly import graph_objects as go

    shown = np.where(np.isfinite(values), values, np.nan)
    words = [[number(value, digits).replace(r"-\infty", "−∞") for value in line] for line in values]
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            text=words,
            texttemplate="%{text}",
            hovertemplate="%{customdata}: %{text}<extra></extra>",
            customdata=[[f"{row} → {column}" for column in columns] for row in rows],
            zmin=0.0 if unit_range else None,
            zmax=1.0 if unit_range else None,
            xgap=3,
            ygap=3,
            showscale=False,
        )
    )
    if mark is not None:
        row, column = mark
        outline = {"type": "rect", "fillcolor": "rgba(0,0,0,0)", "layer": "above"}
        figure.add_shape(
            **outline, x0=-0.5, x1=len(columns) - 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": "#d9730d", "width": 2},
        )  # fmt: skip
        figure.add_shape(
            **outline, x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": "#9162d6", "width": 3},
        )  # fmt: skip
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
    figure.update_xaxes(
        tickvals=list(range(len(columns))), ticktext=list(columns), side="top", **axis
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=list(rows), autorange="reversed", **axis
    )
    figure.update_layout(
        height=cell_height * len(rows) + 44,
        margin={"l": 4, "r": 4, "t": 34, "b": 4},
        plot_bgcolor="rgba(0,0,0,0)",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure

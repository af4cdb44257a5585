"""Small maps as tables one can read: every number written into its coloured cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossfuse.viz.formulas import KEY, QUERY, WEIGHT, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def heat_table(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    tone: str = WEIGHT,
    mark: tuple[int, int] | None = None,
    digits: int = 2,
    unit_range: bool = False,
    cell_height: int = 46,
) -> Figure:
    """A matrix (rows, columns) as a Plotly heat map with its numbers, one row and cell outlined.

    Cells are tinted with ``tone``, never darker than text can be read on, in both themes. Infinite
    entries (masked scores) stay empty but for their sign. ``unit_range`` fixes the colours to
    0..1, so that two maps can be compared; otherwise they span the finite values.
    """
    from plotly import graph_objects as go

    red, green, blue = (int(tone[place : place + 2], 16) for place in (1, 3, 5))
    figure = go.Figure(
        go.Heatmap(
            z=np.where(np.isfinite(values), values, np.nan),
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            hovertemplate="%{customdata}: %{z}<extra></extra>",
            customdata=[[f"{row} → {column}" for column in columns] for row in rows],
            zmin=0.0 if unit_range else None,
            zmax=1.0 if unit_range else None,
            colorscale=[
                (0.0, f"rgba({red},{green},{blue},0.04)"),
                (1.0, f"rgba({red},{green},{blue},0.66)"),
            ],
            xgap=3,
            ygap=3,
            showscale=False,
        )
    )
    for (row, column), value in np.ndenumerate(values):
        shown = number(float(value), digits).replace(r"-\infty", "−∞").replace("-", "−")
        figure.add_annotation(x=column, y=row, text=shown, showarrow=False, font={"size": 14})
    if mark is not None:
        row, column = mark
        outline = {"type": "rect", "fillcolor": "rgba(0,0,0,0)", "layer": "above"}
        figure.add_shape(
            **outline, x0=-0.5, x1=len(columns) - 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": QUERY, "width": 2},
        )  # fmt: skip
        figure.add_shape(
            **outline, x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": KEY, "width": 3},
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

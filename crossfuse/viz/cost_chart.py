"""Charts of what a map costs as the grid grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def growth_chart(
    tokens: Sequence[int],
    series: Sequence[tuple[str, Sequence[float], str]],
    *,
    x_title: str,
    y_title: str,
    height: int = 330,
) -> Figure:
    """Lines on two logarithmic axes: a straight line is a power law, its slope the power.

    ``series``: (name, one value a token count, colour).
    """
    from plotly import graph_objects as go

    figure = go.Figure()
    for name, values, colour in series:
        figure.add_scatter(
            x=list(tokens), y=list(values), name=name, mode="lines+markers",
            line={"color": colour, "width": 3}, marker={"size": 9},
            hovertemplate="%{x}: %{y:.3s}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", title=x_title, tickvals=list(tokens), ticktext=list(tokens))
    figure.update_yaxes(type="log", title=y_title, exponentformat="SI", dtick=1)
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        plot_bgcolor="rgba(0,0,0,0)",
        paper_bgcolor="rgba(0,0,0,0)",
    )
    return figure

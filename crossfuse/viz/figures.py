"""Plotly charts with one look, for what stands round the linked views.

Colours of text and paper are left to the page's theme; marks use tones that read on light and on
dark paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossfuse.viz.colours import plotly_scale

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FONTS = "Source Sans, PingFang SC, Microsoft YaHei, Noto Sans CJK SC, sans-serif"
GRID = "rgba(128,128,128,0.22)"
SERIES = ("#13877d", "#c8641a", "#3a78bd", "#8a5fd0", "#a8861a", "#b8437b", "#5c8a3a", "#7a808c")


def house(figure: Figure, *, height: int = 320, legend: bool = True) -> Figure:
    """Give a figure the common look: quiet grid, tight margins, no boxes; returns it."""
    axis = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": GRID,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 10},
    }
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 24, "b": 8},
        font={"family": FONTS, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=list(SERIES),
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
        hoverlabel={"font": {"family": FONTS, "size": 13}},
        bargap=0.35,
        modebar={"remove": ["lasso2d", "select2d", "autoScale2d"]},
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def lines(
    x: Sequence[float] | np.ndarray,
    series: Mapping[str, Sequence[float] | np.ndarray],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
    height: int = 320,
) -> Figure:
    """Lines with markers, one a named series."""
    from plotly import graph_objects as go

    figure = go.Figure(
        [
            go.Scatter(x=np.asarray(x), y=np.asarray(y), name=name, mode="lines+markers")
            for name, y in series.items()
        ]
    )
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear")
    figure.update_yaxes(title=y_title, type="log" if log_y else "linear")
    return house(figure, height=height, legend=len(series) > 1)


def heat(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str,
    theme: str = "light",
    signed: bool | None = None,
    height: int = 360,
) -> Figure:
    """A matrix (rows, columns) as a heat map, first row on top.

    ``signed`` (by default: whether a value is negative) takes the diverging map, centred on 0.
    """
    from plotly import graph_objects as go

    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    signed = bool((finite < 0).any()) if signed is None else signed
    limit = float(np.abs(finite).max()) if finite.size else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            zmin=-limit if signed else 0.0,
            zmax=limit,
            colorscale=plotly_scale("diverging" if signed else "sequential", theme),
            customdata=[[f"{row} → {column}" for column in columns] for row in rows],
            hovertemplate="%{customdata}: %{z:.4g}<extra></extra>",
            colorbar={"title": {"text": unit, "side": "right"}, "thickness": 10, "outlinewidth": 0},
        )
    )
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns), showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=list(rows), autorange="reversed", showgrid=False
    )
    return house(figure, height=height, legend=False)

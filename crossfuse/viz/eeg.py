"""EEG results as tables, annotations and charts (no Streamlit)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfuse.viz.figures import SERIES, house

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from crossfuse.trace import Trace


def weights_csv(trace: Trace) -> bytes:
    """Every weight of every map as one table: stage, window or layer, direction, head, row item,
    column item, weight."""
    stream = io.StringIO()
    table = csv.writer(stream)
    table.writerow(("stage", "layer", "direction", "kind", "head", "row", "column", "weight"))
    for entry in trace.maps:
        rows = trace.geometries[entry.query].labels
        columns = trace.geometries[entry.key].labels
        items = range(len(rows)) if entry.rows is None else entry.rows
        for head, name in enumerate(entry.heads):
            for place, item in enumerate(items):
                values = entry.weights[head, place]
                table.writerows(
                    (
                        entry.stage,
                        entry.layer,
                        entry.direction,
                        entry.kind,
                        name,
                        rows[item],
                        column,
                        f"{value:.6g}",
                    )
                    for column, value in zip(columns, values, strict=True)
                )
    return stream.getvalue().encode()


def annotations_text(
    times: np.ndarray, probability: np.ndarray, classes: tuple[str, str] = ("rest", "task")
) -> bytes:
    """The predictions as a file for ``mne.read_annotations``: onset and duration in seconds from
    the first sample, neighbouring windows of one class joined.

    It is MNE's text format: in its CSV a number is an onset in milliseconds since 1970.
    """
    lines = ["# MNE-Annotations", "# onset, duration, description"]
    chosen = (np.asarray(probability) > 0.5).astype(int)
    edges = np.flatnonzero(np.diff(chosen)) + 1
    for part in np.split(np.arange(len(chosen)), edges):
        onset, end = float(times[part[0], 0]), float(times[part[-1], 1])
        mean = float(np.mean(np.asarray(probability)[part]))
        text = f"{classes[chosen[part[0]]]} p={mean:.2f}"
        lines.append(f"{onset:.3f}, {end - onset:.3f}, {text}")
    return ("\n".join(lines) + "\n").encode()


def fusion_figure(
    panels: Mapping[str, np.ndarray], names: tuple[str, ...], times: np.ndarray, limit: float
) -> Figure:
    """DE, PSD and the fused feature side by side: (channels, windows) each, one colour scale."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from crossfuse.viz.colours import plotly_scale

    figure = make_subplots(1, len(panels), subplot_titles=list(panels), shared_yaxes=True)
    for column, values in enumerate(panels.values(), start=1):
        figure.add_trace(
            go.Heatmap(
                z=values,
                x=times.mean(axis=1),
                y=list(names),
                zmin=-limit,
                zmax=limit,
                colorscale=plotly_scale("diverging"),
                showscale=column == len(panels),
                hovertemplate="%{y}, %{x:.1f} s: %{z:.2f}<extra></extra>",
            ),
            1,
            column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(ticksuffix=" s")
    return house(figure, height=max(260, 14 * len(names) + 90), legend=False)


def protocol_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A saved ``crossfuse evaluate mca_eeg`` as rows: name, protocol, value, spread, trials, ..."""
    rows = []
    for protocol, part in (("subject", "methods"), ("paper", "random_windows_LEAKING")):
        for name, found in evaluation.get(part, {}).items():
            mean, spread = found["mean"], found["spread"]
            rows.append(
                {
                    "name": name,
                    "protocol": protocol,
                    "value": mean["window_balanced_accuracy"],
                    "spread": spread["window_balanced_accuracy"],
                    "trials": mean.get("trial_balanced_accuracy"),
                    "trials_spread": spread.get("trial_balanced_accuracy"),
                    "seeds": len(found["seeds"]),
                }
            )
    return rows


def protocols_figure(rows: list[dict[str, Any]], legend: Mapping[str, str]) -> Figure:
    """Balanced accuracy of windows by method; one bar a protocol, whiskers over seeds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (protocol, label) in enumerate(legend.items()):
        part = [row for row in rows if row["protocol"] == protocol]
        figure.add_trace(
            go.Bar(
                name=label,
                x=[row["label"] for row in part],
                y=[row["value"] for row in part],
                error_y={"type": "data", "array": [row["spread"] for row in part], "thickness": 1},
                marker_color=SERIES[1 - number] if number < 2 else SERIES[number],
                text=[f"{row['value']:.2f}" for row in part],
                textposition="inside",
                insidetextanchor="end",
            )
        )
    figure.add_hline(y=0.5, line_dash="dot", line_width=1, opacity=0.6)
    figure.update_yaxes(range=[0.4, 1.0], tickformat=".2f")
    figure.update_layout(barmode="group")
    return house(figure, height=320)

"""Chapter 4: what the map costs in time and memory, measured while the reader watches."""

from __future__ import annotations

import threading

import streamlit as st

from crossfuse import cost
from crossfuse.ui.text import t
from crossfuse.viz.cost_chart import growth_chart
from crossfuse.viz.formulas import QUERY

OURS = "#1f9e92"
HELD = "_cost_rows"


@st.cache_resource(show_spinner=False)
def _one_at_a_time() -> threading.Lock:
    """Two measurements at once would measure each other."""
    return threading.Lock()


def draw() -> None:
    """Explanation, the formula with sizes, the button, the charts and the table."""
    st.markdown(t("primer.cost_intro"))
    side = st.slider(
        t("primer.cost_side"), 7, 112, 56, 7, key="side", bind="query-params",
        help=t("primer.cost_side_help"),
    )  # fmt: skip
    tokens = side * side
    whole, rows = cost.map_bytes(tokens), cost.map_bytes(tokens, cost.ROWS)
    st.latex(
        rf"\underbrace{{{cost.HEADS}}}_{{\text{{{t('primer.cost_heads')}}}}} \times "
        rf"\underbrace{{{side}^2 \cdot {side}^2}}_{{N_q \times N_k}} \times "
        rf"\underbrace{{4}}_{{\text{{{t('primer.cost_bytes')}}}}} = \text{{{size(whole)}}}"
    )
    left, middle, right = st.columns(3)
    left.metric(t("primer.cost_whole"), size(whole), border=True)
    middle.metric(t("primer.cost_rows", rows=cost.ROWS), size(rows), border=True)
    right.metric(t("primer.cost_ratio"), f"{whole / rows:,.0f} ×", border=True)

    st.subheader(t("primer.cost_measure"), anchor="measure")
    st.markdown(t("primer.cost_measure_text", heads=cost.HEADS, width=cost.WIDTH, rows=cost.ROWS))
    if st.button(t("primer.cost_run"), type="primary", icon=":material/timer:", key="_measure"):
        _measure()
    measured: list[cost.Cost] = st.session_state.get(HELD, [])
    if measured:
        _show(measured)
    else:
        st.caption(t("primer.cost_none"))


def _measure() -> None:
    from crossfuse.device import best_device

    lock = _one_at_a_time()
    if not lock.acquire(blocking=False):
        st.info(t("primer.cost_busy"))
        return
    bar = st.progress(0.0, text=t("primer.cost_running", side=cost.SIDES[0]))
    rows: list[cost.Cost] = []
    try:
        total = sum(side**4 for side in cost.SIDES)
        for row in cost.measure(best_device()):
            rows.append(row)
            done = sum(entry.tokens**2 for entry in rows) / total
            following = cost.SIDES[min(len(rows), len(cost.SIDES) - 1)]
            bar.progress(done, text=t("primer.cost_running", side=following))
        st.session_state[HELD] = rows
    finally:
        lock.release()
        bar.empty()


def _show(rows: list[cost.Cost]) -> None:
    tokens = [row.tokens for row in rows]
    names = (t("primer.cost_naive"), t("primer.cost_ours", rows=cost.ROWS))
    left, right = st.columns(2, gap="large")
    for column, title, values in (
        (left, "cost_seconds", [(r.naive_seconds, r.rows_seconds) for r in rows]),
        (right, "cost_memory", [(r.naive_bytes, r.rows_bytes) for r in rows]),
    ):
        naive, ours = zip(*values, strict=True)
        column.plotly_chart(
            growth_chart(
                tokens,
                [(names[0], naive, QUERY), (names[1], ours, OURS)],
                x_title=t("primer.cost_tokens"),
                y_title=t(f"primer.{title}"),
            ),
            key=f"_{title}",
            config={"displayModeBar": False},
            alt=t(f"primer.{title}"),
        )
    last = rows[-1]
    difference = max(row.largest_difference for row in rows)
    st.markdown(
        t(
            "primer.cost_verdict",
            side=last.side,
            time=f"{last.naive_seconds / last.rows_seconds:.1f}",
            memory=f"{last.naive_bytes / last.rows_bytes:.0f}",
            error=f"{difference:.0e}" if difference else "0",
        )
    )
    st.dataframe(
        {
            t("primer.cost_grid"): [f"{row.side} × {row.side}" for row in rows],
            f"{names[0]}, ms": [round(1000 * row.naive_seconds, 2) for row in rows],
            f"{names[1]}, ms": [round(1000 * row.rows_seconds, 2) for row in rows],
            f"{names[0]}, MiB": [round(row.naive_bytes / 2**20, 2) for row in rows],
            f"{names[1]}, MiB": [round(row.rows_bytes / 2**20, 2) for row in rows],
        },
        hide_index=True,
        key="_cost_table",
    )


def size(count: int) -> str:
    """Bytes as a number with a binary unit."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}" if value < 1000 else f"{value:.0f} {units[0]}"

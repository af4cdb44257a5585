""" "Why 99 %?": the same network under two protocols, from the saved evaluation."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import streamlit as st

from crossfuse.ui.text import t
from crossfuse.viz import eeg as charts
from crossfuse.weights import WEIGHTS

PROTOCOLS = ("subject", "paper")


@lru_cache(maxsize=1)
def saved() -> dict[str, Any] | None:
    """The figures that ``crossfuse evaluate mca_eeg --save`` wrote, or None."""
    path = WEIGHTS / "mca_eeg" / "evaluation.json"
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def why() -> None:
    """Bars of both protocols, the explanation, the table, and the command."""
    st.subheader(t("eeg.why"), anchor="why")
    st.markdown(t("eeg.why_says"))
    document = saved()
    if document is None:
        return
    rows = [{**row, "label": t(f"eeg.row_{row['name']}")} for row in charts.protocol_rows(document)]
    legend = {name: t(f"eeg.protocol_{name}") for name in PROTOCOLS}
    st.plotly_chart(charts.protocols_figure(rows, legend), key="eeg_why", alt=t("eeg.why"))
    people, folds = len(document["people"]), int(document["folds"])
    st.caption(t("eeg.why_split", people=str(people), folds=str(folds)))
    with st.expander(t("eeg.table"), icon=":material/table:"):
        st.dataframe(_table(rows, legend), hide_index=True, key="_eeg_table")
    st.caption(t("eeg.why_command"))
    st.code(document["command"], language="bash")


def _table(rows: list[dict[str, Any]], legend: dict[str, str]) -> dict[str, list[Any]]:
    return {
        t("eeg.table_method"): [row["label"] for row in rows],
        t("eeg.table_protocol"): [legend[row["protocol"]] for row in rows],
        t("eeg.table_windows"): [_figure(row["value"], row["spread"], row) for row in rows],
        t("eeg.table_trials"): [_figure(row["trials"], row["trials_spread"], row) for row in rows],
        t("eeg.table_seeds"): [row["seeds"] for row in rows],
    }


def _figure(value: float | None, spread: float | None, row: dict[str, Any]) -> str:
    if value is None:
        return "–"
    return f"{value:.3f} ± {spread:.3f}" if row["seeds"] > 1 else f"{value:.3f}"

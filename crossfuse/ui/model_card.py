"""A model card on the page: what the weights are, and every figure they come with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from crossfuse.ui.shell import escape_markdown
from crossfuse.ui.text import t

TOLD = ("model", "config", "sha256", "parameters", "bytes", "metrics", "command")


def show_card(name: str, card: Mapping[str, Any]) -> None:
    """Show one card: size and checksum, what training adds, metrics, the command, the raw JSON."""
    st.markdown(f"**{escape_markdown(name)}**")
    facts = [t("about.parameters", count=f"{card.get('parameters', 0):,}")]
    if "bytes" in card:
        facts.append(f"{card['bytes'] / 1e6:.1f} MB")
    facts.append(f"SHA-256 {str(card.get('sha256', ''))[:12]}…")
    st.caption(" · ".join(facts))
    for key, value in card.items():
        if key not in TOLD and isinstance(value, str | int | float):
            st.markdown(f"{escape_markdown(key)}: {escape_markdown(str(value))}")
    metrics = card.get("metrics")
    if isinstance(metrics, Mapping):
        flat = flatten(metrics)
        columns = {t("about.metric"): list(flat), t("about.value"): list(flat.values())}
        st.dataframe(columns, hide_index=True, width="content", key=f"_metrics_{name}")
    if "command" in card:
        st.code(str(card["command"]), language="bash")
    with st.popover(t("about.whole_card"), icon=":material/data_object:"):
        st.json(dict(card), expanded=1)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested figures as ``{"a.b": "0.123"}``; lists become one line."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            flat[f"{prefix}{key}"] = f"{value:.4g}"
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat

"""Below the relevance: whom each channel asks, under which scale, over time, and what comes out."""

from __future__ import annotations

from typing import cast

import numpy as np
import streamlit as st

from crossfuse.engine.messages import Result
from crossfuse.geometry import TimeFrequency
from crossfuse.ui.eeg import views
from crossfuse.ui.state import choose
from crossfuse.ui.text import t
from crossfuse.viz import eeg as charts

SECTIONS = ("channels", "scaling", "time", "before_after")


def draw(result: Result, window: int, channel: int | None) -> None:
    """One of the sections, for the window and the channel in hand."""
    st.subheader(t("eeg.fusion"), anchor="fusion")
    section = choose(
        t("eeg.fusion"),
        SECTIONS,
        key="eeg_section",
        format_func=lambda name: t(f"eeg.section_{name}"),
        label_visibility="collapsed",
    )
    {
        "channels": _channels,
        "scaling": _scaling,
        "time": _time,
        "before_after": _before_after,
    }[section](result, window, channel)


def _span(result: Result, window: int) -> dict[str, str]:
    start, stop = result.outputs["times"][window]
    return {"start": f"{start:g}", "stop": f"{stop:g}"}


def _channels(result: Result, window: int, channel: int | None) -> None:
    assert result.trace is not None
    if result.trace.meta["scope"] == "trial":
        st.markdown(t("eeg.fusion_trial"))
    else:
        held, _ = views.nearest(result, "fusion", window)
        st.markdown(t("eeg.fusion_says", **_span(result, held)))
    views.fusion_view(result, window, channel)


def _scaling(result: Result, window: int, channel: int | None) -> None:
    held, _ = views.nearest(result, "scaling", window)
    facts = result.outputs["saturation_by_scale"]
    st.markdown(
        t(
            "eeg.scaling_says",
            **_span(result, held),
            even=f"{result.outputs['saturation'][2]:.3f}",
            decibels=f"{facts['none'][0]:.2f}",
            ours=f"{facts['baseline'][0]:.2f}",
        )
    )
    views.scaling_view(result, window, channel)
    st.caption(t("eeg.scaling_switch"))


def _time(result: Result, window: int, _: int | None) -> None:
    st.badge(t("eeg.extension"), icon=":material/science:", color="orange")
    st.markdown(t("eeg.time_says"))
    views.time_view(result, window)


def _before_after(result: Result, _: int, __: int | None) -> None:
    assert result.trace is not None
    cells = cast(TimeFrequency, result.trace.geometries["cells"])
    band = choose(t("eeg.band"), list(cells.bands), key="eeg_show_band")
    at = cells.bands.index(band)
    shown = {t(f"eeg.panel_{name}"): result.outputs[name][:, at] for name in ("de", "psd", "fused")}
    limit = float(np.percentile(np.abs(np.stack(list(shown.values()))), 99)) or 1.0
    names = result.trace.geometries["channels"].labels
    st.plotly_chart(
        charts.fusion_figure(shown, names, result.outputs["times"], limit),
        key="eeg_before_after",
        alt=t("eeg.section_before_after"),
    )
    st.caption(t("eeg.before_after_says"))

"""The EEG page: a recording, what its score rests on, who asks whom, and why others report 99 %."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.engine.messages import Result
from crossfuse.ui.eeg import channels, evaluation, first_view, sections, views
from crossfuse.ui.eeg.inputs import ask
from crossfuse.ui.shell import downloads, notes, page_header, run_job
from crossfuse.ui.state import choose
from crossfuse.ui.text import t
from crossfuse.viz import eeg as charts


def draw() -> None:
    """The whole page."""
    page_header("eeg")
    request = ask()
    if request is not None:
        result = first_view.load() if first_view.fits(request) else run_job(request)
        if result is not None and result.trace is not None:
            summary(result)
            analysis(result, request.digest)
            channels.draw(result, request.digest, views.peak(result)[1])
            take_away(result)
            notes(result.notes)
    st.divider()
    evaluation.why()


def summary(result: Result) -> None:
    """The score in words, with what it does not say."""
    if "probability" not in result.outputs:
        return
    probability = result.outputs["probability"]
    span = result.outputs["baseline"]
    judged = np.ones(len(probability), bool)
    if span is not None:
        judged = result.outputs["times"][:, 0] >= span[1]
    part = probability[judged] if judged.any() else probability
    top, entropy, even = result.outputs["saturation"]
    columns = st.columns(3)
    columns[0].metric(
        t("eeg.metric_windows"),
        f"{100 * float((part > 0.5).mean()):.0f} %",
        help=t("eeg.metric_windows_help"),
    )
    columns[1].metric(
        t("eeg.metric_mean"), f"{float(part.mean()):.2f}", help=t("eeg.metric_mean_help")
    )
    columns[2].metric(
        t("eeg.metric_saturation"),
        f"{top:.2f}",
        help=t("eeg.metric_saturation_help", even=f"{even:.3f}", entropy=f"{entropy:.2f}"),
    )
    st.caption(f":material/info: {t('eeg.care')}")


@st.fragment
def analysis(result: Result, digest: str) -> None:
    """The linked views; a pin runs this part alone."""
    window, channel = relevance(result, digest)
    sections.draw(result, window, channel)


def relevance(result: Result, digest: str) -> tuple[int, int | None]:
    """The linked view of cells and head; returns the window in hand and the pinned sensor."""
    st.subheader(t("eeg.relevance"), anchor="relevance")
    names = views.methods(result)
    method = names[0]
    if len(names) > 1:
        method = choose(
            t("eeg.method"),
            list(names),
            key="eeg_method",
            format_func=lambda name: t(f"eeg.method_{name}"),
            help=t("eeg.method_help"),
        )
    st.caption(t(f"eeg.method_{method}_says"))
    pin = views.relevance_view(result, method)
    against_truth(result)
    # The window in hand belongs to one answer: another recording starts at its own peak.
    held, window = st.session_state.get("_eeg_window", ("", 0))
    if held != digest:
        window = views.peak(result)[1]
    channel = None
    windows = result.outputs["de"].shape[2]
    if pin is not None and pin.geometry == "cells":
        window = pin.item % windows
    elif pin is not None and pin.item < len(result.outputs["de"]):
        channel = pin.item
    st.session_state["_eeg_window"] = (digest, window)
    return window, channel


def against_truth(result: Result) -> None:
    """For the simulated recording: where relevance is highest, and what was planted there."""
    truth = views.planted(result)
    if truth is None or "probability" not in result.outputs:
        return
    seconds = float(result.outputs["times"][-1, 1])
    found = views.strongest(result)
    inside = truth.start - 3 <= found.start and found.stop <= truth.stop + 3
    hit = inside and found.band in truth.bands
    st.markdown(
        (":material/check_circle: " if hit else ":material/error: ")
        + t(
            "eeg.truth_hit" if hit else "eeg.truth_miss",
            band=found.band,
            start=f"{found.start:g}",
            stop=f"{found.stop:g}",
            channel=found.channel,
            share=f"{100 * found.share:.0f}",
            time=f"{100 * (truth.stop - truth.start) / seconds:.0f}",
        )
    )


def take_away(result: Result) -> None:
    """The trace, every weight as a table, and the predictions as annotations."""
    trace = result.trace
    assert trace is not None
    files = {
        t("eeg.take_trace"): ("eeg-trace.npz", "application/octet-stream", trace.to_bytes),
        t("eeg.take_csv"): ("eeg-weights.csv", "text/csv", lambda: charts.weights_csv(trace)),
    }
    if "probability" in result.outputs:
        out = result.outputs
        files[t("eeg.take_annotations")] = (
            "eeg-predictions.txt",
            "text/plain",
            lambda: charts.annotations_text(out["times"], out["probability"]),
        )
    downloads(files, key="eeg")

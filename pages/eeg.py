"""EEG: mutual cross-attention of two features, its classifier, and what both rest on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import streamlit as st

from crossfuse.engine.messages import Request, Result
from crossfuse.ui import eeg_view
from crossfuse.ui.shell import (
    downloads,
    notes,
    page_header,
    run_job,
    run_page,
    upload_files,
    user_id,
)
from crossfuse.ui.state import choose
from crossfuse.ui.text import t
from crossfuse.ui.traces import envelope, traces
from crossfuse.viz import eeg as charts
from crossfuse.weights import WEIGHTS

TYPES = [
    "edf",
    "bdf",
    "gdf",
    "fif",
    "set",
    "fdt",
    "vhdr",
    "eeg",
    "vmrk",
    "csv",
    "tsv",
    "txt",
    "npz",
    "dat",
    "mat",
    "zip",
]
LIMIT_MB = 400


def ask() -> Request | None:
    """What to analyse, from the widgets; None while an upload is awaited."""
    inputs: dict[str, Any] = {}
    source = choose(
        t("eeg.source"),
        ["simulated", "upload"],
        key="eeg_source",
        format_func=lambda name: t(f"eeg.source_{name}"),
    )
    if source == "simulated":
        inputs["sample"] = "simulated"
        st.caption(t("eeg.simulated_says"))
    else:
        left, right = st.columns(2)
        with left:
            files = upload_files(
                t("eeg.upload"),
                key="eeg",
                types=TYPES,
                limit_mb=LIMIT_MB,
                several=True,
                help=t("eeg.upload_help"),
            )
        with right:
            rest = upload_files(
                t("eeg.upload_rest"),
                key="eeg_rest",
                types=TYPES,
                limit_mb=LIMIT_MB,
                several=True,
                help=t("eeg.upload_rest_help"),
            )
        if not files:
            st.info(t("eeg.upload_first"), icon=":material/upload_file:")
            return None
        for name, given in (("", files), ("baseline_", rest)):
            inputs[f"{name}names"] = tuple(item.name for item in given)
            inputs[f"{name}contents"] = tuple(item.data for item in given)
    with st.expander(t("eeg.settings"), icon=":material/tune:"):
        options = settings(source)
    return Request("mca_eeg", inputs, options, user=user_id(), page="eeg")


def settings(source: str) -> dict[str, Any]:
    """Reading, cleaning and normalising; everything can be taken back."""
    options: dict[str, Any] = {}
    keep = {"persist_state": "session"}
    first, second, third = st.columns(3)
    with first:
        st.markdown(f"**{t('eeg.cleaning')}**")
        band = st.toggle(t("eeg.band_pass"), key="eeg_band_on", **keep)
        if band:
            options["band"] = st.slider(
                t("eeg.band_edges"), 0.5, 60.0, (1.0, 45.0), 0.5, key="eeg_band", **keep
            )
        notch = choose(
            t("eeg.notch"),
            ["off", "50", "60"],
            key="eeg_notch",
            format_func=lambda name: t("eeg.off") if name == "off" else f"{name} Hz",
        )
        if notch != "off":
            options["notch"] = float(notch)
        reference = choose(
            t("eeg.reference"),
            ["as recorded", "average", "mastoids", "Cz"],
            key="eeg_reference",
            format_func=lambda name: t(f"eeg.reference_{name.lower().replace(' ', '_')}"),
            style="select",
        )
        options["reference"] = reference
    with second:
        st.markdown(f"**{t('eeg.baseline')}**")
        if st.toggle(
            t("eeg.baseline_choose"), key="eeg_base_on", help=t("eeg.baseline_help"), **keep
        ):
            start = st.number_input(t("eeg.from"), 0.0, 1e5, 0.0, 1.0, key="eeg_base_from", **keep)
            stop = st.number_input(t("eeg.to"), 6.0, 1e5, 60.0, 1.0, key="eeg_base_to", **keep)
            options["baseline"] = (float(start), float(stop))
        options["normalise"] = choose(
            t("eeg.normalise"),
            ["baseline", "subtract", "recording", "none"],
            key="eeg_normalise",
            format_func=lambda name: t(f"eeg.normalise_{name}"),
            style="select",
            help=t("eeg.normalise_help"),
        )
        options["scope"] = choose(
            t("eeg.scope"),
            ["window", "trial"],
            key="eeg_scope",
            format_func=lambda name: t(f"eeg.scope_{name}"),
            help=t("eeg.scope_help"),
        )
    with third:
        st.markdown(f"**{t('eeg.channels')}**")
        options["channels"] = choose(
            t("eeg.channels_which"),
            ["classifier", "all"],
            key="eeg_channels",
            format_func=lambda name: t(f"eeg.channels_{name}"),
        )
        bad = st.text_input(t("eeg.bad"), key="eeg_bad", help=t("eeg.bad_help"), **keep)
        options["bad"] = tuple(part for part in bad.replace(",", " ").split() if part)
        options["interpolate"] = st.toggle(t("eeg.interpolate"), value=True, key="eeg_mend", **keep)
        if source == "upload":
            rate = st.number_input(t("eeg.rate"), 0.0, 1e5, 0.0, 1.0, key="eeg_rate", **keep)
            if rate > 0:
                options["rate"] = float(rate)
            unit = choose(
                t("eeg.unit"),
                ["file", "µV", "mV", "V"],
                key="eeg_unit",
                format_func=lambda name: t("eeg.unit_file") if name == "file" else name,
            )
            if unit != "file":
                options["unit"] = unit
            trial = st.number_input(t("eeg.trial"), 0, 10_000, 0, 1, key="eeg_trial", **keep)
            options["trial"] = int(trial)
    return options


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
    columns = st.columns(3)
    columns[0].metric(
        t("eeg.metric_windows"),
        f"{100 * float((part > 0.5).mean()):.0f} %",
        help=t("eeg.metric_windows_help"),
    )
    columns[1].metric(
        t("eeg.metric_mean"), f"{float(part.mean()):.2f}", help=t("eeg.metric_mean_help")
    )
    top, entropy, even = result.outputs["saturation"]
    columns[2].metric(
        t("eeg.metric_saturation"),
        f"{top:.2f}",
        help=t("eeg.metric_saturation_help", even=f"{even:.3f}", entropy=f"{entropy:.2f}"),
    )
    st.caption(f":material/info: {t('eeg.care')}")


def relevance(result: Result, digest: str) -> tuple[int, int | None]:
    """The linked view of cells and head; returns the window in hand and the pinned sensor."""
    st.subheader(t("eeg.relevance"), anchor="relevance")
    names = eeg_view.methods(result)
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
    pin = eeg_view.relevance_view(result, method)
    # The window in hand belongs to one answer: another recording starts at its own peak.
    held, window = st.session_state.get("_eeg_window", ("", 0))
    if held != digest:
        window = eeg_view.peak(result)[1]
    channel = None
    windows = result.outputs["de"].shape[2]
    if pin is not None and pin.geometry == "cells":
        window = pin.item % windows
    elif pin is not None and pin.item < len(result.outputs["de"]):
        channel = pin.item
    st.session_state["_eeg_window"] = (digest, window)
    return window, channel


def fusion(result: Result, window: int, channel: int | None) -> None:
    st.subheader(t("eeg.fusion"), anchor="fusion")
    start, stop = result.outputs["times"][window]
    st.markdown(t("eeg.fusion_says", start=f"{start:g}", stop=f"{stop:g}"))
    eeg_view.fusion_view(result, window, channel)
    with st.expander(t("eeg.before_after"), icon=":material/compare:"):
        assert result.trace is not None
        cells: Any = result.trace.geometries["cells"]
        band = choose(t("eeg.band"), list(cells.bands), key="eeg_show_band")
        at = cells.bands.index(band)
        shown = {
            t(f"eeg.panel_{name}"): result.outputs[name][:, at] for name in ("de", "psd", "fused")
        }
        limit = float(np.percentile(np.abs(np.stack(list(shown.values()))), 99)) or 1.0
        st.plotly_chart(
            charts.fusion_figure(
                shown, result.trace.geometries["channels"].labels, result.outputs["times"], limit
            ),
            key="eeg_before_after",
            alt=t("eeg.before_after"),
        )
        st.caption(t("eeg.before_after_says"))


@st.cache_data(max_entries=4, show_spinner=False)
def overview(_signal: np.ndarray, digest: str) -> np.ndarray:
    return envelope(_signal)


@st.fragment
def raw(result: Result, digest: str, window: int) -> None:
    st.subheader(t("eeg.raw"), anchor="raw")
    out = result.outputs
    assert result.trace is not None
    marks = zip(
        out["annotation_onsets"], out["annotation_durations"], out["annotation_texts"], strict=True
    )
    traces(
        "eeg_traces",
        out["signal"],
        out["signal_factors"],
        out["rate"],
        result.trace.geometries["channels"].labels,
        overview=overview(out["signal"], digest),
        digest=digest,
        line=out.get("probability"),
        mark=tuple(out["times"][window]),
        annotations=tuple((float(a), float(b), str(c)) for a, b, c in marks),
    )
    st.caption(t("eeg.raw_says"))


def why() -> None:
    """The same network under two protocols, from the saved evaluation."""
    st.subheader(t("eeg.why"), anchor="why")
    st.markdown(t("eeg.why_says"))
    path = WEIGHTS / "mca_eeg" / "evaluation.json"
    if not path.exists():
        return
    document = json.loads(path.read_text(encoding="utf-8"))
    rows = charts.protocol_rows(document)
    rows = [{**row, "label": t(f"eeg.row_{row['name']}")} for row in rows]
    legend = {name: t(f"eeg.protocol_{name}") for name in ("subject", "paper")}
    st.plotly_chart(charts.protocols_figure(rows, legend), key="eeg_why", alt=t("eeg.why"))
    table = {
        t("eeg.table_method"): [row["label"] for row in rows],
        t("eeg.table_protocol"): [legend[row["protocol"]] for row in rows],
        t("eeg.table_windows"): [f"{row['value']:.3f} ± {row['spread']:.3f}" for row in rows],
        t("eeg.table_trials"): [
            "–" if row.get("trials") is None else f"{row['trials']:.3f}" for row in rows
        ],
        t("eeg.table_seeds"): [row["seeds"] for row in rows],
    }
    with st.expander(t("eeg.table"), icon=":material/table:"):
        st.dataframe(table, hide_index=True, key="_eeg_table")
    st.caption(t("eeg.why_command"))
    st.code(document["command"], language="bash")


def take_away(result: Result) -> None:
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


def page() -> None:
    page_header("eeg")
    request = ask()
    if request is not None:
        result = run_job(request)
        if result is not None and result.trace is not None:
            summary(result)
            window, channel = relevance(result, request.digest)
            fusion(result, window, channel)
            raw(result, request.digest, window)
            take_away(result)
            notes(result.notes)
    st.divider()
    why()


run_page(page)

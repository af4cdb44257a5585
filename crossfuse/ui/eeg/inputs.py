"""What the EEG page asks for: a recording, and how it is to be read, cleaned and scaled."""

from __future__ import annotations

from typing import Any

import streamlit as st

from crossfuse.engine.messages import Request, content_digest
from crossfuse.ui.shell import Upload, upload_files
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

TYPES = (
    *("edf", "bdf", "gdf", "fif", "set", "fdt", "vhdr", "eeg", "vmrk"),
    *("csv", "tsv", "txt", "npz", "dat", "mat", "zip"),
)
LIMIT_MB = 400
KEEP: dict[str, Any] = {"persist_state": "session"}


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
        held = "simulated"
        st.caption(t("eeg.simulated_says"))
    else:
        left, right = st.columns(2)
        with left:
            files = _upload("eeg", t("eeg.upload"), t("eeg.upload_help"))
        with right:
            rest = _upload("eeg_rest", t("eeg.upload_rest"), t("eeg.upload_rest_help"))
        if not files:
            st.info(t("eeg.upload_first"), icon=":material/upload_file:")
            return None
        for name, given in (("", files), ("baseline_", rest)):
            inputs[f"{name}names"] = tuple(item.name for item in given)
            inputs[f"{name}contents"] = tuple(item.data for item in given)
        held = content_digest([item.digest for item in files])
    with st.expander(t("eeg.settings"), icon=":material/tune:"):
        options = settings(source)
    options["bad"] = marked_bad(held)
    return Request("mca_eeg", inputs, options, page="eeg")


def _upload(key: str, label: str, help: str) -> tuple[Upload, ...]:
    return upload_files(label, key=key, types=TYPES, limit_mb=LIMIT_MB, several=True, help=help)


# --- channels marked bad ---------------------------------------------------------------------
# Marks belong to one recording: another file starts without any.


def marked_bad(recording: str | None = None) -> tuple[str, ...]:
    """Channels the reader has marked bad; ``recording`` names the one that is looked at now."""
    marks = st.session_state.setdefault("_eeg_marks", {"recording": None, "names": ()})
    if recording is not None and marks["recording"] != recording:
        marks.update(recording=recording, names=())
    names: tuple[str, ...] = marks["names"]
    return names


def mark_bad(names: tuple[str, ...]) -> None:
    """Mark exactly these channels bad; the next run of the page mends or leaves them out."""
    marked_bad()
    st.session_state["_eeg_marks"]["names"] = names


# --- reading, cleaning, scaling --------------------------------------------------------------


def settings(source: str) -> dict[str, Any]:
    """Reading, cleaning and normalising; everything can be taken back."""
    options: dict[str, Any] = {}
    first, second, third = st.columns(3)
    with first:
        st.markdown(f"**{t('eeg.cleaning')}**")
        _cleaning(options)
    with second:
        st.markdown(f"**{t('eeg.baseline')}**")
        _baseline(options)
    with third:
        st.markdown(f"**{t('eeg.channels')}**")
        _channels(options)
        if source == "upload":
            _reading(options)
    return options


def _cleaning(options: dict[str, Any]) -> None:
    if st.toggle(t("eeg.band_pass"), key="eeg_band_on", **KEEP):
        options["band"] = st.slider(
            t("eeg.band_edges"), 0.5, 60.0, (1.0, 45.0), 0.5, key="eeg_band", **KEEP
        )
    notch = choose(
        t("eeg.notch"),
        ["off", "50", "60"],
        key="eeg_notch",
        format_func=lambda name: t("eeg.off") if name == "off" else f"{name} Hz",
    )
    if notch != "off":
        options["notch"] = float(notch)
    options["reference"] = choose(
        t("eeg.reference"),
        ["as recorded", "average", "mastoids", "Cz"],
        key="eeg_reference",
        format_func=lambda name: t(f"eeg.reference_{name.lower().replace(' ', '_')}"),
        style="select",
    )


def _baseline(options: dict[str, Any]) -> None:
    if st.toggle(t("eeg.baseline_choose"), key="eeg_base_on", help=t("eeg.baseline_help"), **KEEP):
        start = st.number_input(t("eeg.from"), 0.0, 1e5, 0.0, 1.0, key="eeg_base_from", **KEEP)
        stop = st.number_input(t("eeg.to"), 6.0, 1e5, 60.0, 1.0, key="eeg_base_to", **KEEP)
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


def _channels(options: dict[str, Any]) -> None:
    options["channels"] = choose(
        t("eeg.channels_which"),
        ["classifier", "all"],
        key="eeg_channels",
        format_func=lambda name: t(f"eeg.channels_{name}"),
    )
    options["interpolate"] = st.toggle(t("eeg.interpolate"), value=True, key="eeg_mend", **KEEP)


def _reading(options: dict[str, Any]) -> None:
    rate = st.number_input(t("eeg.rate"), 0.0, 1e5, 0.0, 1.0, key="eeg_rate", **KEEP)
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
    trial = st.number_input(t("eeg.trial"), 0, 10_000, 0, 1, key="eeg_trial", **KEEP)
    options["trial"] = int(trial)

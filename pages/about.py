"""About: what the maps say and do not say, models and their cards, sources, licences, versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import streamlit as st

from crossfuse import __version__, registry, weights
from crossfuse.data.images import sample_photos
from crossfuse.ui.model_card import show_card
from crossfuse.ui.shell import page_header
from crossfuse.ui.text import t

PACKAGES = ("torch", "streamlit", "plotly", "numpy", "mne", "open3d-cpu")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return t("about.not_installed")


page_header("about")

st.header(t("about.limits"), anchor="limits")
st.markdown(t("about.limits_text"))

st.header(t("about.models"), anchor="models")
st.markdown(t("about.models_text"))
for entry in registry.MODELS.values():
    present = [name for name in entry.weights if name in weights.names()]
    with st.expander(entry.title, icon=":material/schema:"):
        st.caption(entry.paper)
        for name in present:
            show_card(name, weights.card(name))
        if not present:
            st.markdown(t("about.no_weights"))

st.header(t("about.methods"), anchor="methods")
st.markdown(t("about.methods_text"))

st.header(t("about.pictures"), anchor="pictures")
st.markdown(t("about.pictures_text"))
st.dataframe(
    {
        t("about.picture"): [sample.title for sample in sample_photos().values()],
        t("about.credit"): [sample.credit for sample in sample_photos().values()],
        t("about.licence"): [sample.licence for sample in sample_photos().values()],
        t("about.source"): [sample.source for sample in sample_photos().values()],
    },
    column_config={t("about.source"): st.column_config.LinkColumn()},
    hide_index=True,
    key="_pictures",
)

st.header(t("about.licences"), anchor="licences")
st.markdown(t("about.licences_text"))

st.header(t("about.versions"), anchor="versions")
st.dataframe(
    {
        t("about.package"): ["crossfuse", "Python", *PACKAGES],
        t("about.version"): [
            __version__,
            platform.python_version(),
            *(installed(package) for package in PACKAGES),
        ],
    },
    hide_index=True,
    width="content",
    key="_versions",
)

"""The MMViT page: choose a picture, see the prediction, ask cells, and look further below."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from crossfuse import registry, weights
from crossfuse.engine.messages import Request, Result
from crossfuse.ui.mmvit import decision, pyramid, sound, two_pictures
from crossfuse.ui.mmvit.picture import choose_picture, seen_photo, short
from crossfuse.ui.shell import escape_markdown, notes, page_header, run_job
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

SECTIONS = ("decision", "pyramid", "heads", "between", "stable", "pair", "sound", "evidence")


def draw() -> None:
    """The whole page."""
    page_header("mmvit")
    picture = choose_picture("mmvit_picture")
    if picture is None:
        return
    options = choose_options()
    result = run_job(Request("mmvit", picture[0], options, page="mmvit"))
    if result is None:
        return
    photo = seen_photo(picture[1], options)
    left, right = st.columns([0.27, 0.73], gap="large")
    with left:
        prediction(result)
        notes(result.notes)
    with right:
        pyramid.draw(result, photo)
    hidden = () if "mmvit_sound" in weights.names() else ("sound",)
    section = choose(
        t("mmvit.section"),
        [name for name in SECTIONS if name not in hidden],
        key="mmvit_section",
        format_func=lambda name: t(f"mmvit.section_{name}"),
        label_visibility="collapsed",
    )
    st.markdown(t(f"mmvit.about_{section}"))
    if section == "decision":
        decision.draw(result, photo)
    elif section == "pyramid":
        pyramid.whole(result, photo)
    elif section == "heads":
        pyramid.heads(result, photo)
    elif section == "between":
        pyramid.between(result)
    elif section == "stable":
        decision.stability(picture[0], options, photo, result)
    elif section == "pair":
        two_pictures.draw(result, photo, options)
    elif section == "sound":
        sound.draw()
    else:
        evidence(str(options["weights"]))


def choose_options() -> dict[str, Any]:
    """Weights, pixels, crop and changes of the picture."""
    names = [n for n in registry.entry("mmvit").weights if n in weights.names()]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        chosen = choose(
            t("mmvit.weights"),
            names,
            key="mmvit_weights",
            format_func=lambda n: t(f"mmvit.weights_{n.removeprefix('mmvit_')}"),
            help=t("mmvit.weights_help"),
        )
        trained = int(weights.card(chosen)["config"]["image_size"])
        side = choose(
            t("mmvit.side"),
            [str(trained * step // 4) for step in (4, 6, 8)],
            key="mmvit_side",
            format_func=lambda n: f"{n} px",
            help=t("mmvit.side_help", side=trained),
        )
        crop = choose(
            t("mmvit.crop"),
            ["centre", "whole"],
            key="mmvit_crop",
            format_func=lambda n: t(f"mmvit.crop_{n}"),
        )
        zoom = st.slider(
            t("mmvit.zoom"), 40, 100, 100, 10, format="%d %%", key="mmvit_zoom",
            bind="query-params", persist_state="session", width=180,
        )  # fmt: skip
        flip = st.toggle(
            t("mmvit.flip"), key="mmvit_flip", bind="query-params", persist_state="session"
        )
    return {
        "weights": chosen, "side": int(side), "crop": crop, "zoom": zoom / 100, "flip": flip
    }  # fmt: skip


def prediction(result: Result) -> None:
    """The best five classes with calibrated probabilities, or that it is none of them."""
    outputs = result.outputs
    best = short(outputs["classes"][0])
    if outputs["none_of_these"]:
        st.markdown(f"### {t('mmvit.none')}")
        st.caption(
            t(
                "mmvit.none_why",
                best=escape_markdown(best),
                rank=f"{100 * outputs['typicality']:.0f}",
                threshold=f"{100 * outputs['threshold']:.0f}",
            )
        )
    else:
        st.markdown(f"### {escape_markdown(best)}")
    for name, share in zip(outputs["classes"], outputs["probabilities"], strict=True):
        st.progress(share, text=f"{escape_markdown(short(name))} · {100 * share:.1f} %")
    st.caption(t("mmvit.calibrated"), help=t("mmvit.calibrated_help"))


def evidence(name: str) -> None:
    """The card of the weights: what they are, and what was measured."""
    card = weights.card(name)
    st.markdown(escape_markdown(card["recipe"]))
    st.markdown(escape_markdown(f"{card['data']}. {card['licence']}"))
    metrics = card["metrics"]
    shown = {
        "top1": f"{100 * metrics['top1']:.1f} %",
        "top5": f"{100 * metrics['top5']:.1f} %",
        "ece": f"{100 * metrics['held_out_ece']:.1f} %",
    }
    with st.container(horizontal=True, gap="large"):
        for key, value in shown.items():
            st.metric(
                t(f"mmvit.metric_{key}"), value, help=t(f"mmvit.metric_{key}_help"), width="content"
            )
        st.metric(
            t("mmvit.metric_parameters"),
            f"{card['trained_parameters'] / 1e6:.2f} M",
            width="content",
        )
    for table in card.get("ablations", []):
        st.markdown(f"**{escape_markdown(table['title'])}**")
        st.dataframe(table["rows"], hide_index=True, width="content")
        st.caption(escape_markdown(table["note"]))
    st.code(card["command"], language="bash")
    st.download_button(
        t("mmvit.card"), json.dumps(card, indent=2, ensure_ascii=False), f"{name}.json",
        "application/json", type="tertiary", icon=":material/download:", on_click="ignore",
    )  # fmt: skip

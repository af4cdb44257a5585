"""The same model on a sound: its picture is a log-mel spectrogram."""

from __future__ import annotations

import io

import numpy as np
import streamlit as st

from crossfuse import weights
from crossfuse.data.audio import RATE
from crossfuse.data.images import Photo
from crossfuse.data.made_sounds import SOUNDS
from crossfuse.engine.messages import Request
from crossfuse.ui.mmvit import pyramid
from crossfuse.ui.shell import notes, run_job, upload_files
from crossfuse.ui.state import choose
from crossfuse.ui.text import t
from crossfuse.viz.colours import palette

OWN = "own"


def draw() -> None:
    """Choose a sound, hear it, and ask the cells of its spectrogram."""
    kinds = [kind.replace(" ", "_") for kind in SOUNDS]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = choose(
            t("mmvit.sound"),
            [*kinds, OWN],
            key="mmvit_sound",
            style="pills",
            format_func=lambda k: t("mmvit.own") if k == OWN else t(f"mmvit.sound_{k}"),
        )
        if kind != OWN:
            seed = st.number_input(
                t("mmvit.seed"), 0, 9999, 0, key="mmvit_seed", width=140,
                help=t("mmvit.seed_help"), bind="query-params", persist_state="session",
            )  # fmt: skip
        else:
            start = st.number_input(
                t("mmvit.start"), 0.0, 86_400.0, 0.0, 1.0, key="mmvit_start", width=140,
                help=t("mmvit.start_help"),
            )  # fmt: skip
    inputs: dict[str, object]
    options: dict[str, object] = {}
    if kind != OWN:
        inputs = {"kind": kind.replace("_", " "), "seed": int(seed)}
    else:
        files = upload_files(
            t("mmvit.sound_upload"), key="mmvit_wav", types=("wav", "flac", "ogg"), limit_mb=200
        )
        if not files:
            st.info(t("mmvit.sound_hint"))
            return
        inputs, options = {"sound": files[0].data}, {"start": float(start)}
    result = run_job(Request("mmvit_sound", inputs, options, page="mmvit/sound"))
    if result is None:
        return
    outputs = result.outputs
    left, right = st.columns([0.27, 0.73], gap="large")
    with left:
        names = dict(zip(SOUNDS, kinds, strict=True))
        best = t(f"mmvit.sound_{names[outputs['classes'][0]]}")
        st.markdown(f"### {t('mmvit.none') if outputs['none_of_these'] else best}")
        st.audio(as_wav(outputs["samples"]), format="audio/wav")
        if outputs["none_of_these"]:
            rank, threshold = (f"{100 * outputs[k]:.0f}" for k in ("typicality", "threshold"))
            st.caption(t("mmvit.sound_none_why", best=best, rank=rank, threshold=threshold))
        for name, share in zip(outputs["classes"], outputs["probabilities"], strict=True):
            label = t(f"mmvit.sound_{names[name]}")
            st.progress(share, text=f"{label} · {100 * share:.1f} %")
        notes(result.notes)
    with right:
        picture = coloured(outputs["spectrogram"])
        pyramid.draw(result, Photo(picture, (64, 64), (), ""), key="mmvit_sound_pyramid")
    evidence()


def evidence() -> None:
    """What was measured, in a sentence, and the command that measures it again."""
    card = weights.card("mmvit_sound")
    found = card["metrics"]
    shares = {
        "top1": found["top1"],
        "baseline": found["baseline_top1"],
        "ece": found["held_out_ece"],
        "outside": found["rejected_outside"],
        "inside": found["rejected_inside"],
    }
    st.caption(t("mmvit.sound_evidence", **{k: f"{100 * v:.1f}" for k, v in shares.items()}))
    st.code(card["command"], language="bash")


def coloured(spectrogram: np.ndarray) -> np.ndarray:
    """(64, 64) in -1 ... 1 -> (256, 256, 3) uint8, loud = dark."""
    colours = palette()
    steps = ((spectrogram + 1) / 2 * (len(colours) - 1)).round().astype(int)
    return np.kron(colours[steps], np.ones((4, 4, 1), dtype=np.uint8))


def as_wav(samples: np.ndarray) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()

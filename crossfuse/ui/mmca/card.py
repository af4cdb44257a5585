"""The model card section: where the model fails on the samples, limits, figures, licence."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from crossfuse import weights
from crossfuse.data.images import sample_photos
from crossfuse.data.sample_sentences import DISTRACTORS, SENTENCES, SWAPS
from crossfuse.engine.messages import Request, Result
from crossfuse.ui.mmca.inputs import sample_bytes
from crossfuse.ui.model_card import show_card
from crossfuse.ui.shell import escape_markdown, run_job
from crossfuse.ui.text import t


@dataclass(frozen=True)
class Failure:
    """A false sentence that scores at least as high as the true one of a photograph."""

    photo: str
    true: str
    score: float
    false: str
    false_score: float


def draw() -> None:
    """Failures on the sample photographs, worked out now; then the cards of both weights."""
    st.markdown(t("mmca.failures"))
    pairs = 0
    failures: list[Failure] = []
    for name in (name for name in SENTENCES if name in sample_photos()):
        true, false = SENTENCES[name][0], false_sentences(name)
        request = Request(
            "mmca",
            {"photo": sample_bytes(name), "text": true, "others": false},
            {"regions": "proposals"},
            page=f"mmca/failures/{name}",
        )
        result = run_job(request)
        if result is None:
            return
        pairs += len(false)
        failures += failures_of(name, result)
    _show(failures, pairs)
    document = weights.card("mmca")
    for line in document.get("limits", ()):
        st.markdown(f"- {escape_markdown(str(line))}")
    show_card("mmca", document)
    show_card("regions", weights.card("regions"))


def false_sentences(name: str) -> tuple[str, ...]:
    """What is not on a sample photograph: one word exchanged, a wrong scene, other pictures."""
    old, new = SWAPS[name]
    return (SENTENCES[name][0].replace(old, new), SENTENCES[name][2], *DISTRACTORS)


def failures_of(name: str, result: Result) -> list[Failure]:
    """The false sentences that win or tie, the worst first."""
    scores, sentences = result.outputs["similarity"], result.outputs["sentences"]
    won = sorted(
        (i for i in range(1, len(scores)) if scores[i] >= scores[0]), key=lambda i: -scores[i]
    )
    return [
        Failure(name, sentences[0], float(scores[0]), sentences[i], float(scores[i])) for i in won
    ]


def _show(failures: list[Failure], pairs: int) -> None:
    st.markdown(t("mmca.failures_count", failed=len(failures), pairs=pairs))
    for failure in failures:
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.image(sample_bytes(failure.photo), width=96)
            st.markdown(
                t(
                    "mmca.failure",
                    false=escape_markdown(failure.false),
                    false_score=f"{failure.false_score:.3f}",
                    true=escape_markdown(failure.true),
                    score=f"{failure.score:.3f}",
                )
            )

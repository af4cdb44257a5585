"""The sentence against others: distractors, and the same sentence with one word exchanged."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.data.sample_sentences import DISTRACTORS
from crossfuse.engine.messages import Result
from crossfuse.ui.shell import escape_markdown
from crossfuse.ui.text import t
from crossfuse.viz.figures import bars


def others(sentence: str, changed: str | None) -> tuple[str, ...]:
    """The sentences to compare with; a changed sentence comes first."""
    first = () if changed is None else (changed,)
    return (*first, *(text for text in DISTRACTORS if text not in (sentence, changed)))


def draw(result: Result, changed: str | None) -> None:
    """What the exchange of a word does, then all sentences as bars."""
    outputs = result.outputs
    if changed is not None:
        difference = float(outputs["similarity"][1] - outputs["similarity"][0])
        key = "mmca.change_worse" if difference < 0 else "mmca.change_better"
        st.markdown(
            t(key, sentence=escape_markdown(changed), difference=f"{difference:+.3f}"),
        )
    order = np.argsort(-outputs["similarity"], kind="stable")
    sentences = [str(outputs["sentences"][i]) for i in order]
    labels = [
        (f"<b>{_short(s)}</b>" if i == 0 else _short(s))
        for i, s in zip(order, sentences, strict=True)
    ]
    figure = bars(labels, outputs["similarity"][order], unit="S", height=60 + 30 * len(sentences))
    st.plotly_chart(figure, key="mmca_sentences", config={"displayModeBar": False})
    with st.expander(t("mmca.numbers")):
        st.dataframe(
            {
                t("mmca.sentence"): sentences,
                "S": outputs["similarity"][order],
                "i₀·c₀": outputs["separable"][order],
                "i₁·c₁": outputs["crossed"][order],
            },
            hide_index=True,
        )


def _short(text: str, most: int = 64) -> str:
    """A sentence for an axis: no markup of its own, at most ``most`` letters."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text if len(text) <= most else text[: most - 1] + "…"

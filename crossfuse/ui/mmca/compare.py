"""The sentence against others: distractors, and the same sentence with one word exchanged."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.data.sample_sentences import DISTRACTORS
from crossfuse.engine.messages import Result
from crossfuse.ui.shell import escape_markdown
from crossfuse.ui.text import t
from crossfuse.viz.small_maps import bar_table


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
    columns = {"S": "similarity", "i₀·c₀": "separable", "i₁·c₁": "crossed"}
    st.html(
        bar_table(
            sentences,
            {title: outputs[name][order] for title, name in columns.items()},
            head=t("mmca.sentence"),
            caption=t("mmca.section_sentences"),
            marked=int(np.argmin(order)),
        )
    )

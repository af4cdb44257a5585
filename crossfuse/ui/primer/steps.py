"""Chapter 1: cross-attention by hand, on numbers that the reader edits."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Regions, Words
from crossfuse.models import worked_example as worked
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import (
    MatrixPanel,
    RegionsPanel,
    Selection,
    WordsPanel,
    linked_view,
)
from crossfuse.ui.primer import tables
from crossfuse.ui.shell import show_error
from crossfuse.ui.state import choose, choose_several
from crossfuse.ui.text import t
from crossfuse.viz import formulas as tex
from crossfuse.viz.small_maps import heat_table

SCORES = "#7f8b9c"  # neither query nor key: both made them
TABLES = ("x", "y", "wq", "wk", "wv")
PRESETS: dict[str, dict[str, Any]] = {
    "plain": {"heads": "1", "tau": 1.0, "scaled": True, "hide": []},
    "sharp": {"tau": 0.2},
    "flat": {"tau": 5.0},
    "hide": {"hide": ["ball"]},
    "split": {"heads": "2"},
}


def draw() -> None:
    """The whole chapter, from top to bottom."""
    st.markdown(t("primer.steps_intro"))
    stage, controls = st.columns([3, 2], gap="large")
    with controls:
        settings = _controls()
    st.subheader(t("primer.step_in"), anchor="numbers")
    st.markdown(t("primer.step_in_text"))
    arrays = _tables()
    try:
        example = worked.WorkedExample(**arrays, **settings)
    except CrossfuseError as error:
        show_error(error)
        return
    steps = worked.run(example)
    with stage:
        _picture(example, steps)
    word = worked.WORDS.index(st.session_state["word"])
    cell = worked.CELLS.index(st.session_state["cell"])
    head = _project(example, steps, word, cell)
    _score(example, steps, word, cell, head)
    _normalise(example, steps, word, cell, head)
    _gather(example, steps, word, head)
    _heads(example, steps, word)
    _whole(example)


def word_names() -> list[str]:
    return [t(f"primer.word_{name}") for name in worked.WORDS]


def cell_names() -> list[str]:
    return [t(f"primer.cell_{name}") for name in worked.CELLS]


# ---------------------------------------------------------------- what the reader sets


def _apply(preset: str) -> None:
    for key, value in PRESETS[preset].items():
        st.session_state[key] = value
    if preset == "plain":
        for key in TABLES:
            tables.reset(key)


def _controls() -> dict[str, Any]:
    choose(
        t("primer.follow_word"),
        worked.WORDS,
        key="word",
        default="ball",
        format_func=lambda name: t(f"primer.word_{name}"),
        style="pills",
    )
    choose(
        t("primer.follow_cell"),
        worked.CELLS,
        key="cell",
        default="sun",
        format_func=lambda name: t(f"primer.cell_{name}"),
        style="pills",
    )
    temperature = st.slider(
        t("primer.temperature"),
        0.1,
        5.0,
        1.0,
        0.1,
        key="tau",
        bind="query-params",
        help=t("primer.temperature_help"),
    )
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        heads = choose(t("primer.heads"), ["1", "2", "4"], key="heads", help=t("primer.heads_help"))
    with right:
        scaled = st.toggle(
            t("primer.scaled"),
            True,
            key="scaled",
            bind="query-params",
            help=t("primer.scaled_help"),
        )
    hidden = choose_several(
        t("primer.hide"),
        worked.CELLS,
        key="hide",
        format_func=lambda name: t(f"primer.cell_{name}"),
        help=t("primer.hide_help"),
    )
    st.caption(t("primer.try"))
    with st.container(horizontal=True, gap="small"):
        for preset in PRESETS:
            st.button(
                t(f"primer.preset_{preset}"), key=f"_preset_{preset}", on_click=_apply,
                args=(preset,),
            )  # fmt: skip
    return {
        "heads": int(heads),
        "temperature": temperature,
        "scaled": scaled,
        "hidden": tuple(worked.CELLS.index(name) for name in hidden),
    }


def _tables() -> dict[str, Any]:
    plain = worked.WorkedExample()
    features = [t(f"primer.feature_{name}") for name in worked.FEATURES]
    arrays: dict[str, np.ndarray] = {}

    def table(key: str, name: str, default: np.ndarray, rows: list[str]) -> None:
        with st.container(width="content"):
            st.markdown(t(f"primer.table_{key}"))
            arrays[name] = tables.editable(
                key, default, rows=rows, columns=features, limit=worked.LIMIT,
                label=t(f"primer.table_{key}"),
            )  # fmt: skip

    with st.container(horizontal=True, gap="large"):
        table("x", "words", plain.words, word_names())
        table("y", "cells", plain.cells, cell_names())
    with (
        st.expander(t("primer.projections"), icon=":material/tune:"),
        st.container(horizontal=True, gap="large"),
    ):
        table("wq", "to_query", plain.to_query, features)
        table("wk", "to_key", plain.to_key, features)
        table("wv", "to_value", plain.to_value, features)
    return arrays


# ---------------------------------------------------------------- the steps


def _take_pin() -> None:
    """A pin in the linked view chooses the word or the cell that the steps follow."""
    pin = (st.session_state.get("by_hand") or {}).get("pin")
    if not pin:
        return
    if pin["geometry"] == "words":
        st.session_state["word"] = worked.WORDS[pin["item"]]
        if pin.get("partner") is not None:
            st.session_state["cell"] = worked.CELLS[pin["partner"]]
    else:
        st.session_state["cell"] = worked.CELLS[pin["item"]]


def _picture(example: worked.WorkedExample, steps: worked.Steps) -> None:
    image = worked.picture(example.cells)
    height, width, _ = image.shape
    geometries = {
        "words": Words(tuple(word_names())),
        "cells": Regions(worked.boxes(), (width, height), tuple(cell_names())),
    }
    heads = tuple(t("primer.head_name", index=index + 1) for index in range(example.heads))
    linked_view(
        "by_hand",
        [
            WordsPanel("words", title=t("primer.panel_words")),
            RegionsPanel("cells", title=t("primer.panel_cells"), image=image),
            MatrixPanel(title=t("primer.panel_map")),
        ],
        [AttentionMap("example", 0, "words→cells", "words", "cells", steps.weights, heads=heads)],
        geometries,
        layout=[[0], [1, 2]],
        height=300,
        selection=Selection("words", worked.WORDS.index(st.session_state["word"])),
        settings={"opacity": 0.4},
        on_select=_take_pin,
    )


def _step(name: str) -> Any:
    """Heading and explanation of a step at the left; its numbers go to the right."""
    st.divider()
    left, right = st.columns([2, 5], gap="large")
    left.subheader(t(f"primer.step_{name}"), anchor=name)
    left.markdown(t(f"primer.step_{name}_text"))
    return right


def _project(example: worked.WorkedExample, steps: worked.Steps, word: int, cell: int) -> int:
    def flat(array: np.ndarray) -> np.ndarray:
        return array.transpose(1, 0, 2).reshape(array.shape[1], -1)

    with _step("project"):
        st.latex(
            tex.projection("Q", "X", example.words, example.to_query, flat(steps.query), row=word)
        )
        st.latex(
            tex.projection(
                "K", "Y", example.cells, example.to_key, flat(steps.key), row=cell, tone=tex.KEY
            )
        )
        st.latex(
            tex.projection(
                "V", "Y", example.cells, example.to_value, flat(steps.value), row=cell,
                tone=tex.VALUE,
            )
        )  # fmt: skip
        if example.heads == 1:
            return 0
        head = choose(
            t("primer.follow_head"),
            [str(index + 1) for index in range(example.heads)],
            key="head",
        )
        st.caption(t("primer.follow_head_note", width=steps.query.shape[-1]))
        return int(head) - 1


def _label(word: int, cell: int) -> str:
    return rf"{tex.word(word_names()[word])},\,{tex.word(cell_names()[cell])}"


def _score(
    example: worked.WorkedExample, steps: worked.Steps, word: int, cell: int, head: int
) -> None:
    with _step("score"):
        below = tex.divisor(steps.query.shape[-1], example.temperature, example.scaled)
        value = steps.scores[head, word, cell] / steps.divisor
        st.latex(
            tex.score(
                steps.query[head, word], steps.key[head, cell], below, value, _label(word, cell)
            )
        )
        st.html(
            heat_table(
                steps.logits[head],
                word_names(),
                cell_names(),
                tone=SCORES,
                mark=(word, cell),
                caption=t("primer.scores_alt"),
            )
        )
        st.caption(t("primer.scores_caption"))
        if cell in example.hidden:
            st.info(
                t("primer.hidden_note", cell=cell_names()[cell]), icon=":material/visibility_off:"
            )


def _normalise(
    example: worked.WorkedExample, steps: worked.Steps, word: int, cell: int, head: int
) -> None:
    with _step("softmax"):
        weights = steps.weights[head]
        st.latex(
            tex.softmax(steps.logits[head, word], cell, weights[word, cell], _label(word, cell))
        )
        st.html(
            heat_table(
                weights,
                word_names(),
                cell_names(),
                mark=(word, cell),
                digits=3,
                unit_range=True,
                caption=t("primer.weights_alt"),
            )
        )
        total = " + ".join(tex.number(value, 3) for value in weights[word])
        st.latex(rf"{total} = {tex.number(float(weights[word].sum()), 3)}")
        st.caption(t("primer.weights_caption", word=word_names()[word]))


def _gather(example: worked.WorkedExample, steps: worked.Steps, word: int, head: int) -> None:
    with _step("gather"):
        st.latex(
            tex.weighted_sum(
                steps.weights[head, word],
                steps.value[head],
                steps.head_outputs[head, word],
                tex.word(word_names()[word]),
            )
        )
        mean = steps.weights[:, word].mean(axis=0)
        st.image(
            worked.strip(example.cells, mean, steps.output[word]),
            alt=t("primer.strip_alt", word=word_names()[word]),
            width=620,
        )
        st.caption(t("primer.strip_caption", word=word_names()[word]))


def _heads(example: worked.WorkedExample, steps: worked.Steps, word: int) -> None:
    with _step("heads"):
        if example.heads == 1:
            st.markdown(t("primer.heads_one"))
            return
        names = [t("primer.head_name", index=index + 1) for index in range(example.heads)]
        st.html(
            heat_table(
                steps.weights[:, word],
                names,
                cell_names(),
                digits=3,
                unit_range=True,
                caption=t("primer.heads_alt"),
            )
        )
        pieces = r" \;\Vert\; ".join(
            tex.vector(output, tex.VALUE) for output in steps.head_outputs[:, word]
        )
        st.latex(
            rf"o_{{{tex.word(word_names()[word])}}} = {pieces} = {tex.vector(steps.output[word])}"
        )


def _whole(example: worked.WorkedExample) -> None:
    with _step("whole"):
        width = example.words.shape[1] // example.heads
        queries, keys = len(example.words), len(example.cells)
        below = tex.divisor(width, example.temperature, example.scaled)
        st.latex(tex.attention(queries, keys, width, below, t("primer.over_keys")))
        st.markdown(t("primer.whole_note", queries=queries, keys=keys, heads=example.heads))

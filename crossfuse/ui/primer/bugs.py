"""Chapter 3: spot the bug. Published mistakes beside the right module, on the same photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from crossfuse.engine import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.ui.primer.photographs import choose_photo
from crossfuse.ui.shell import run_job, show_error, user_id
from crossfuse.ui.state import choose
from crossfuse.ui.text import t
from crossfuse.viz.blocks import colour_blocks, mark_cell, weight_blocks

if TYPE_CHECKING:
    from crossfuse.models.snippets import Evidence, Snippet

NAMES = ("channel", "scale", "axis", "grid", "view", "swap")
SHOWN = ("view", "axis", "channel", "swap", "scale", "grid")  # not in the order of the answers
STRIDE, SIDE, TEMPERATURE = 16, 320, 0.07
ASKER = (0.45, 0.27)  # of width and height: the face of the default photograph


def draw() -> None:
    """Intro, choice of a snippet, its picture, its code, the question, the answer."""
    st.markdown(t("primer.bugs_intro"))
    solved: set[str] = st.session_state.setdefault("_bugs_found", set())
    left, right = st.columns([5, 2], vertical_alignment="bottom")
    with left:
        name = choose(
            t("primer.chapter_bugs"),
            SHOWN,
            key="bug",
            format_func=lambda option: (
                t("primer.bugs_number", number=SHOWN.index(option) + 1)
                + (" ✓" if option in solved else "")
            ),
            label_visibility="collapsed",
        )
    right.markdown(
        f":material/emoji_events: {t('primer.bugs_score', found=len(solved), total=len(NAMES))}"
    )
    found = _features(portrait=name == "grid")
    if found is None:
        return

    from crossfuse.models import snippets  # needs torch, which the engine has loaded by now

    snippet = next(entry for entry in snippets.SNIPPETS if entry.name == name)
    wrong, right_one = _evidence(found, snippet)
    _pictures(found, wrong, right_one)
    code, question = st.columns([3, 2], gap="large")
    with code:
        st.markdown(f"**{t('primer.bugs_code_wrong')}**")
        st.code(snippets.source(snippet.function), language="python")
    with question:
        revealed = _ask(name, solved)
    if revealed:
        _explain(snippet, wrong, right_one)


def _features(portrait: bool) -> Result | None:
    """Features of both photographs, cut to 4:3 (the asked one to 3:4 where that is the point)."""
    from crossfuse.models.snippets import four_by_three

    first, second, _ = st.columns([2, 2, 3], gap="medium")
    with first:
        asker = choose_photo("bug_a", t("primer.photo_asks"), "astronaut")
    with second:
        asked = choose_photo("bug_b", t("primer.photo_asked"), "flower")
    try:
        a, b = four_by_three(asker.pixels()), four_by_three(asked.pixels(), portrait)
    except CrossfuseError as error:
        show_error(error)
        return None
    options = {"strides": (STRIDE,), "longest_side": SIDE, "features": True}
    request = Request("feature_map", {"a": a, "b": b}, options, user_id(), "primer/bugs")
    return run_job(request, slot="primer_bugs")


def _evidence(found: Result, snippet: Snippet) -> tuple[Evidence, Evidence]:
    """What the snippet and the right function make of the photographs."""
    import torch

    from crossfuse.models import snippets

    x, y = (torch.tensor(found.outputs[f"features_{side}{STRIDE}"]) for side in "ab")
    query, key = snippets.prepared(x, y, snippet.heads, TEMPERATURE)
    colours = snippets.cell_colours(found.outputs["photo_b"], *y.shape[1:])
    cell = _cell(*x.shape[1:])
    with torch.inference_mode():
        wrong, right = (
            snippets.evidence(function, query, key, colours, cell, snippet.heads)
            for function in (snippet.function, snippets.correct)
        )
    return wrong, right


def _cell(rows: int, columns: int) -> int:
    return int(ASKER[1] * rows) * columns + int(ASKER[0] * columns)


def _pictures(found: Result, wrong: Evidence, right: Evidence) -> None:
    rows, columns = right.painted.shape[:2]
    first = mark_cell(found.outputs["photo_a"], _cell(rows, columns), rows, columns)
    pictures = [
        (first, "bugs_asker"),
        (colour_blocks(right.painted.numpy()), "bugs_right"),
        (colour_blocks(wrong.painted.numpy()), "bugs_wrong"),
        (np.asarray(found.outputs["photo_b"]), "bugs_asked"),
        (weight_blocks(right.look.numpy()), "bugs_look_right"),
        (weight_blocks(wrong.look.numpy()), "bugs_look_wrong"),
    ]
    for line in (pictures[:3], pictures[3:]):
        for column, (picture, key) in zip(
            st.columns(3, gap="small", wrap=False), line, strict=True
        ):
            column.image(picture, width="stretch", caption=t(f"primer.{key}"))


def _ask(name: str, solved: set[str]) -> bool:
    """The question; True once it is answered rightly or given up."""
    given: dict[str, str] = st.session_state.setdefault("_bugs_answers", {})
    given_up: set[str] = st.session_state.setdefault("_bugs_given_up", set())

    def judge() -> None:  # before the run that draws the score
        if st.session_state.get(f"_answer_{name}") == name and name not in given_up:
            solved.add(name)

    answer = st.radio(
        t("primer.bugs_question"),
        NAMES,
        index=NAMES.index(given[name]) if name in given else None,
        format_func=lambda option: t(f"primer.bug_{option}"),
        key=f"_answer_{name}",
        on_change=judge,
    )
    if answer is not None:
        given[name] = answer
    if answer == name:
        st.success(t("primer.bugs_correct"), icon=":material/check_circle:")
        return True
    if answer is not None:
        st.warning(t("primer.bugs_incorrect"), icon=":material/search:")
    if name not in given_up:
        st.button(
            t("primer.bugs_reveal"), key=f"_reveal_{name}", type="tertiary",
            icon=":material/visibility:", on_click=given_up.add, args=(name,),
        )  # fmt: skip
    return name in given_up


def _explain(snippet: Snippet, wrong: Evidence, right: Evidence) -> None:
    from crossfuse.models import snippets

    st.subheader(t(f"primer.bug_{snippet.name}"), anchor="answer")
    st.markdown(t(f"primer.why_{snippet.name}"))
    st.markdown(
        t(
            "primer.bugs_numbers",
            sum=f"{wrong.row_sum:.2f}",
            reach=f"{wrong.reach:.0f}",
            right=f"{right.reach:.0f}",
        )
    )
    code, checks = st.columns([3, 2], gap="large")
    with code:
        st.markdown(f"**{t('primer.bugs_code_right')}**")
        st.code(snippets.source(snippets.correct), language="python")
    with checks:
        st.markdown(f"**{t('primer.bugs_checks')}**")
        for verdict in snippets.verdicts(snippet.function):
            mark = ":green[:material/check:]" if verdict.passed else ":red[:material/close:]"
            st.markdown(f"{mark} {t(f'primer.bugs_check_{verdict.check}')}")
            if verdict.complaint:
                st.caption(f"`{verdict.complaint[:110]}`")

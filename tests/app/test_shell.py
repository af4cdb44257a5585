"""What every page shares: names made safe, errors shown as they are, choices in the link."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from crossfuse.geometry import Words
from crossfuse.trace import AttentionMap, Trace
from crossfuse.ui.shell import display_name, escape_markdown, weights_csv


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/evil.txt", "evil.txt"),
        ("C:\\photos\\cat.png", "cat.png"),
        ("a\x00b\u202egnp.exe", "abgnp.exe"),
        ("x" * 90 + ".png", "x" * 40 + "…" + "x" * 14 + ".png"),
    ],
)
def test_file_names_are_cut_to_what_may_be_shown(name: str, shown: str) -> None:
    assert display_name(name) == shown


def test_markdown_of_a_user_stays_letters() -> None:
    assert escape_markdown("[a](b) $x$ :red[y]") == "\\[a\\]\\(b\\) \\$x\\$ \\:red\\[y\\]"


def test_the_table_of_weights_is_inert_and_complete() -> None:
    geometries = {"q": Words(("=1+1", "b")), "k": Words(("x", "y", "z"))}
    entry = AttentionMap("s", 0, "q->k", "q", "k", np.eye(3, dtype=np.float32)[None, :1], rows=[1])
    first = AttentionMap("s", 1, "q->k", "q", "k", np.full((2, 2, 3), 1 / 3, dtype=np.float32))
    table = weights_csv(Trace("m", geometries, (entry, first))).decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(table)))
    assert len(rows) == 1 + 3 + 6
    assert rows[1][1:] == ["1", "0", "b", "x", "1"]
    assert rows[4][3] == "'=1+1"


def test_one_error_may_be_shown_twice() -> None:
    def body() -> None:
        from crossfuse.errors import CrossfuseError
        from crossfuse.ui.shell import show_error

        for _ in range(2):
            show_error(CrossfuseError("The file **x** is empty."))

    app = AppTest.from_function(body).run()
    assert not app.exception
    assert [element.value for element in app.text] == ["The file **x** is empty."] * 2


def page_of_choices() -> None:
    import streamlit as st

    from crossfuse.ui.state import choose, choose_several

    one = choose("One", ["a", "b", "c"], key="one", format_func=str.upper, default="b")
    some = choose_several("Some", ["x", "y"], key="some")
    st.text(f"{one} {'.'.join(some)}")


@pytest.mark.parametrize(
    ("link", "seen"),
    [
        ({}, "b"),
        ({"one": "c", "some": "y.x"}, "c x.y"),
        ({"one": "nonsense", "some": "y.<b>"}, "b y"),
    ],
)
def test_choices_come_from_the_link_and_go_into_it(link: dict[str, str], seen: str) -> None:
    app = AppTest.from_function(page_of_choices)
    for key, value in link.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    assert app.text[0].value == seen
    app.session_state["one"] = "a"
    app.run()
    assert app.query_params["one"] == "a"
    app.session_state["one"] = "b"  # the default is left out
    app.run()
    assert "one" not in app.query_params


def two_pages() -> None:
    import streamlit as st

    from crossfuse.ui.state import choose, keep_link, link_taken

    page = st.session_state["page"]
    keep_link(page)
    if st.session_state.get("left_early"):
        st.stop()
    if page == "mmca":
        choose("Letter", ["a", "b"], key="letter")
        st.slider("Number", 0, 9, 3, key="number", bind="query-params")
    link_taken(page)


def visit(app: AppTest, page: str, *, left_early: bool = False, **query: str) -> AppTest:
    app.query_params.clear()
    for key, value in query.items():
        app.query_params[key] = value
    app.session_state["page"], app.session_state["left_early"] = page, left_early
    return app.run()


def test_a_link_waits_for_the_widgets_of_its_page() -> None:
    app = AppTest.from_function(two_pages)
    visit(app, "mmca", left_early=True, letter="b", number="7")
    visit(app, "home")
    visit(app, "mmca")
    assert not app.exception
    assert app.session_state["letter"] == "b"
    assert app.slider(key="number").value == 7
    visit(app, "home")
    app.session_state["letter"] = "a"  # the reader's later choice
    visit(app, "mmca")
    assert app.session_state["letter"] == "a"


def test_a_link_that_was_taken_in_does_not_come_back() -> None:
    app = AppTest.from_function(two_pages)
    visit(app, "mmca", letter="b")
    app.session_state["letter"] = "a"
    visit(app, "mmca")
    assert app.session_state["letter"] == "a"
    visit(app, "home")
    visit(app, "mmca")
    assert app.session_state["letter"] == "a"

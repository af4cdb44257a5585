"""Every page in both languages: runs, shows its heading, and keeps the language."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from crossfuse.ui import home_examples, home_recipes
from crossfuse.ui.navigation import PAGES
from crossfuse.ui.text import LANGUAGES, text

ROOT = Path(__file__).resolve().parents[2]


def open_page(name: str, language: str = "en", **choices: str) -> AppTest:
    """A page of the app in a language, ``choices`` given in the URL."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.query_params["lang"] = language
    for key, value in choices.items():
        app.query_params[key] = value
    app.run()
    if name != "home":
        app.switch_page(str(ROOT / f"pages/{name}.py")).run()
    return app


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [entry.name for entry in PAGES])
def test_page_runs(name: str, language: str) -> None:
    app = open_page(name, language)
    assert not app.exception
    assert app.title[0].value == text(f"{name}.heading", language)


def test_unknown_language_falls_back() -> None:
    app = open_page("home", "xx")
    assert not app.exception
    assert app.title[0].value == text("home.heading", "en")


def test_the_navigation_speaks_the_language_of_the_link() -> None:
    def body() -> None:
        import streamlit as st

        from crossfuse.ui.text import current_language

        st.text(current_language())

    app = AppTest.from_function(body)
    app.query_params["lang"] = "zh"
    assert app.run().text[0].value == "zh"
    app.session_state["lang"] = "en"
    assert app.run().text[0].value == "en"


@pytest.mark.parametrize("name", sorted(home_recipes.RECIPES))
def test_examples_of_the_home_page_are_sound(name: str) -> None:
    trace, images = home_examples._stored(name)
    assert set(images) <= set(trace.geometries)
    for entry in trace:
        if entry.kind == "attention":
            sums = entry.weights.astype("float32").sum(axis=-1)
            assert abs(sums - 1).max() < 2e-3

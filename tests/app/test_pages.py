"""Every page in both languages: runs, shows its heading, and keeps the language."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

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

"""The MMCA page through Streamlit's test driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    return app.switch_page(str(ROOT / "pages/mmca.py")).run()


@pytest.fixture(scope="module")
def app() -> AppTest:
    return open_page()


def test_there_is_a_live_example_at_first_sight(app: AppTest) -> None:
    assert not app.exception
    assert [metric.label for metric in app.metric][:3] == ["Match S", "i0 · c0", "i1 · c1"]
    assert app.text_input(key="text").value.startswith("A smiling woman")


def test_a_changed_word_is_told() -> None:
    app = open_page(photo="chelsea")
    assert not app.exception
    told = [m.value for m in app.markdown if "in S for" in m.value]
    assert len(told) == 1
    assert "dog" in told[0]


def test_an_empty_sentence_is_a_sentence_of_ours(app: AppTest) -> None:
    app.text_input(key="text").set_value("   ").run()
    assert not app.exception
    assert any("empty" in text.value for text in app.text)


@pytest.mark.parametrize("section", ["heads", "gallery", "regions", "card"])
def test_every_section_opens(section: str) -> None:
    app = open_page(mmca_section=section, photo="coffee", regions="multiscale", lang="zh")
    assert not app.exception


def test_markup_in_a_sentence_is_text() -> None:
    app = open_page(text="<script>alert(1)</script> a **cat** $x$")
    assert not app.exception

"""The MMViT page: a prediction at first sight, every section, both languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from crossfuse.ui.text import text

ROOT = Path(__file__).resolve().parents[2]


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    app.query_params["lang"] = query.pop("lang", "en")
    app.run()
    for name, value in query.items():
        app.query_params[name] = value
    return app.switch_page(str(ROOT / "pages/mmvit.py")).run()


def said(app: AppTest) -> str:
    return " ".join(entry.value for entry in (*app.markdown, *app.caption))


def test_the_cat_is_named_at_first_sight() -> None:
    app = open_page()
    assert not app.exception
    assert "cat" in next(entry.value for entry in app.markdown if entry.value.startswith("###"))
    assert text("mmvit.about_decision", "en") in said(app)


@pytest.mark.parametrize(
    "section", ["pyramid", "heads", "between", "stable", "pair", "sound", "evidence"]
)
def test_every_section_runs(section: str) -> None:
    app = open_page(mmvit_section=section, lang="zh")
    assert not app.exception
    assert text(f"mmvit.about_{section}", "zh") in said(app)


def test_a_made_sound_is_named() -> None:
    app = open_page(mmvit_section="sound", mmvit_sound="rising_chirp", mmvit_seed="3")
    assert not app.exception
    assert "### rising chirp" in said(app)


def test_a_mirrored_part_of_another_picture_runs() -> None:
    app = open_page(mmvit_picture="coffee", mmvit_crop="whole", mmvit_flip="true")
    assert not app.exception
    assert "espresso" in said(app)

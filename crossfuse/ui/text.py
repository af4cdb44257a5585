"""Interface and textbook text in two languages.

Every word on screen comes from ``assets/texts/<language>/<page>.md``. A file is a list of
``## key`` headings; the body below a heading is the text of ``<page>.<key>``. Placeholders are
written ``{{name}}``, so that the single braces of LaTeX stay as they are. What stands above the
first key is a remark to translators.

Errors and notes of the core (:mod:`crossfuse.notices`) are written in English where they arise.
``assets/texts/notices/<language>.md`` translates them: the heading is the English template with
its ``{fills}``, the body below it the translation.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from crossfuse.notices import Notice

LANGUAGES = {"en": "English", "zh": "中文"}
TEXTS = Path(__file__).resolve().parents[2] / "assets" / "texts"

_HEADING = re.compile(r"^## +([a-z0-9_]+) *$", re.MULTILINE)
_NOTICE = re.compile(r"^## +(\S.*?) *$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{\{ *([a-z0-9_]+) *\}\}")


def placeholders(body: str) -> frozenset[str]:
    """Names of the ``{{name}}`` placeholders in a text."""
    return frozenset(_PLACEHOLDER.findall(body))


def parse(source: str, heading: re.Pattern[str] = _HEADING) -> dict[str, str]:
    """Split one text file into ``{key: body}``.

    Raises:
        ValueError: if a key occurs twice or has no text.
    """
    parts = heading.split(source)
    entries: dict[str, str] = {}
    for key, body in zip(parts[1::2], parts[2::2], strict=True):
        if key in entries:
            raise ValueError(f"text key '{key}' occurs twice")
        if not body.strip():
            raise ValueError(f"text key '{key}' has no text")
        entries[key] = body.strip()
    return entries


@lru_cache(maxsize=64)
def _parsed(path: Path, modified: int, heading: re.Pattern[str] = _HEADING) -> dict[str, str]:
    return parse(path.read_text(encoding="utf-8"), heading)


def page_texts(page: str, language: str) -> dict[str, str]:
    """All texts of one page in one language, read again when the file has changed."""
    path = TEXTS / language / f"{page}.md"
    return _parsed(path, path.stat().st_mtime_ns)


def notice_catalogue(language: str) -> dict[str, str]:
    """{English template: template in that language} of errors and notes; empty for English."""
    path = TEXTS / "notices" / f"{language}.md"
    return {} if language == "en" else _parsed(path, path.stat().st_mtime_ns, _NOTICE)


def text(key: str, language: str, /, **fills: object) -> str:
    """The text ``"page.key"`` in a language, its placeholders filled.

    Raises:
        KeyError: if the key does not exist or ``fills`` are not exactly the placeholders.
    """
    page, _, name = key.partition(".")
    body = page_texts(page, language)[name]
    wanted = placeholders(body)
    if wanted != fills.keys():
        raise KeyError(f"text '{key}' has placeholders {sorted(wanted)}, got {sorted(fills)}")
    return _PLACEHOLDER.sub(lambda match: str(fills[match[1]]), body) if wanted else body


def current_language() -> str:
    """Language of the running session: the reader's choice, the link's, or the browser's."""
    import streamlit as st

    chosen = st.session_state.get("lang") or st.query_params.get("lang")
    return chosen if chosen in LANGUAGES else browser_language()


def browser_language() -> str:
    """Chinese for readers whose browser asks for Chinese, else English."""
    import streamlit as st

    return "zh" if (st.context.locale or "").lower().startswith("zh") else "en"


def t(key: str, /, **fills: object) -> str:
    """``text`` in the language of the running session."""
    return text(key, current_language(), **fills)


def notice_words(notice: str) -> str:
    """An error's or note's sentence in the language of the running session, where there is one."""
    if not isinstance(notice, Notice):
        return notice
    return notice.translated(notice_catalogue(current_language()))

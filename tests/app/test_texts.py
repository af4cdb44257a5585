"""Every text exists in both languages, with the same placeholders, and is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from crossfuse.ui.text import (
    LANGUAGES,
    TEXTS,
    notice_catalogue,
    page_texts,
    parse,
    placeholders,
    text,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"))]
SOURCES += sorted((ROOT / "crossfuse" / "ui").rglob("*.py"))
PAGES = sorted(path.stem for path in (TEXTS / "en").glob("*.md"))


CORE = sorted((ROOT / "crossfuse").rglob("*.py"))
# Names that a template fills in: "{size:.1f}" is size. Doubled braces are braces.
FILL = re.compile(r"(?<!\{)\{(\w+)(?:![rsa])?(?::[^{}]*)?\}(?!\})")


def all_keys() -> dict[str, str]:
    return {f"{page}.{key}": body for page in PAGES for key, body in page_texts(page, "en").items()}


def calls_of_t() -> list[tuple[str, re.Pattern[str], set[str] | None]]:
    """(place, pattern of the key, names of the fills or None if not decidable)."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("t", "page_texts") or not node.args:
                continue
            key, place = node.args[0], f"{path.name}:{node.lineno}"
            if node.func.id == "page_texts":  # a component takes all texts of a page
                if isinstance(key, ast.Constant):
                    found.append((place, re.compile(re.escape(key.value) + r"\..+"), None))
                continue
            names = {word.arg for word in node.keywords}
            fills = None if None in names else {name for name in names if name}
            if isinstance(key, ast.Constant):
                found.append((place, re.compile(re.escape(key.value)), fills))
            elif isinstance(key, ast.JoinedStr):
                parts = [
                    re.escape(part.value) if isinstance(part, ast.Constant) else ".+"
                    for part in key.values
                ]
                found.append((place, re.compile("".join(parts)), fills))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_languages_hold_the_same_keys_and_placeholders(page: str) -> None:
    english = page_texts(page, "en")
    for language in LANGUAGES:
        other = page_texts(page, language)
        assert other.keys() == english.keys()
        for key, body in english.items():
            assert placeholders(other[key]) == placeholders(body), f"{page}.{key} in {language}"


def test_no_language_has_a_page_of_its_own() -> None:
    for language in LANGUAGES:
        assert sorted(path.stem for path in (TEXTS / language).glob("*.md")) == PAGES


def test_every_key_asked_for_exists_with_its_placeholders() -> None:
    keys = all_keys()
    for place, pattern, fills in calls_of_t():
        hits = [key for key in keys if pattern.fullmatch(key)]
        assert hits, f"{place} asks for {pattern.pattern}, which no text file holds"
        if fills is not None and len(hits) == 1:
            assert fills == placeholders(keys[hits[0]]), f"{place}: fills of {hits[0]}"


def test_no_key_is_unused() -> None:
    patterns = [pattern for _, pattern, _ in calls_of_t()]
    words = " ".join(path.read_text(encoding="utf-8") for path in SOURCES)
    unused = [
        key
        for key in all_keys()
        if not key.startswith("linked_view.")  # asked for in JavaScript: test_linked_view_parts.py
        and not any(p.fullmatch(key) for p in patterns)
        and f'"{key}"' not in words
    ]
    assert not unused


def test_chinese_is_chinese() -> None:
    for page in PAGES:
        for key, body in page_texts(page, "zh").items():
            prose = re.sub(r"\$[^$]*\$|`[^`]*`|https?://\S+|\{\{.*?\}\}", "", body)
            if re.search("[A-Za-z]{3,} [a-z]{3,} [a-z]{3,} [a-z]{3,} [a-z]{3,}", prose):
                assert re.search("[\u4e00-\u9fff]", prose), f"{page}.{key} is not translated"


def test_fills_leave_latex_alone() -> None:
    body = parse("remark\n\n## sum\n$\\frac{1}{n} = {{value}}$\n")["sum"]
    assert placeholders(body) == {"value"}
    assert body.startswith("$\\frac{1}{n}")


@pytest.mark.parametrize("source", ["## a\nx\n## a\ny", "## a\n\n## b\nx"])
def test_broken_files_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="text key 'a'"):
        parse(source)


def test_wrong_fills_are_refused() -> None:
    with pytest.raises(KeyError, match="placeholders"):
        text("shell.too_large", "en", name="x")
    with pytest.raises(KeyError):
        text("shell.no_such_text", "en")


# ------------------------------------------------------------------- errors and notes of the core


# What readers and pipelines say to people in front of a page. The other parts (training, the
# command line, the checks of geometries and traces) speak to those who program.
SPOKEN = ("data", "encoders", "engine", "models", "pipelines", "ui")
UNSPOKEN = ("captions.py", "eegmat.py", "image_folders.py", "catalogue.py")  # readers of training


def spoken(place: str) -> bool:
    path = Path(place.partition(":")[0])
    return path.parts[1] in SPOKEN and path.name not in UNSPOKEN


def notices() -> list[tuple[str, str, set[str]]]:
    """(place, English template, names of the fills) of every error and note in the core."""
    found = []
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("CrossfuseError", "Notice") or not node.args:
                continue
            template = node.args[0]
            if isinstance(template, ast.Constant):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                names = {word.arg for word in node.keywords if word.arg}
                found.append((place, template.value, names))
    return found


def test_notices_are_templates_and_not_filled_beforehand() -> None:
    filled = []
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            made = isinstance(node.args[0], ast.JoinedStr)
            if node.func.id in ("CrossfuseError", "Notice") and made and spoken(place):
                filled.append(place)
    assert not filled, f"an f-string cannot be translated; give a template and fills: {filled}"


def test_notices_are_filled_with_what_they_name() -> None:
    for place, template, fills in notices():
        if fills:
            assert set(FILL.findall(template)) == fills, place


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_translated_notices_exist_and_have_the_same_fills(language: str) -> None:
    templates = {template for _, template, _ in notices()}
    for template, translation in notice_catalogue(language).items():
        assert template in templates, f"no error or note reads: {template}"
        assert set(FILL.findall(translation)) == set(FILL.findall(template)), template


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_what_pages_may_say_is_translated(language: str) -> None:
    catalogue = notice_catalogue(language)
    missing = [
        f"{place}: {template}"
        for place, template, _ in notices()
        if spoken(place) and template not in catalogue
    ]
    assert not missing, "\n".join(missing)

"""Sentences that remember their template, and errors made of them."""

from __future__ import annotations

import copy
import pickle

import pytest

from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

GERMAN = {
    "The file {name!r} has {size:.1f} MB.": "Die Datei {name!r} hat {size:.0f} MB.",
    "{file}: {reason}": "{file} – {reason}",
    "It is empty.": "Sie ist leer.",
}


def test_a_notice_is_its_english_text() -> None:
    notice = Notice("The file {name!r} has {size:.1f} MB.", name="a{0}.png", size=1.25)
    assert notice == "The file 'a{0}.png' has 1.2 MB."
    assert notice.translated(GERMAN) == "Die Datei 'a{0}.png' hat 1 MB."
    assert notice.translated({}) == notice


def test_braces_without_fills_are_left_alone() -> None:
    assert Notice("a {b} c") == "a {b} c"
    assert Notice("a {b} c").translated(GERMAN) == "a {b} c"


def test_notices_and_errors_inside_are_translated_too() -> None:
    inner = CrossfuseError("It is empty.")
    for reason in (inner, inner.notice):
        outer = CrossfuseError("{file}: {reason}", file="It is empty.", reason=reason)
        assert str(outer) == "It is empty.: It is empty."
        # What a reader has typed is not text of ours, even where it reads the same.
        assert outer.notice.translated(GERMAN) == "It is empty. – Sie ist leer."


def test_an_untranslated_sentence_inside_stays_english() -> None:
    outer = Notice("{file}: {reason}", file="x", reason=Notice("Odd by {n}.", n=1))
    assert outer.translated(GERMAN) == "x – Odd by 1."


@pytest.mark.parametrize("again", [copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_can_still_be_translated(again) -> None:
    notice = Notice("The file {name!r} has {size:.1f} MB.", name="a", size=2)
    for one in (again(notice), again(CrossfuseError(notice)).notice):
        assert one == notice
        assert one.translated(GERMAN) == "Die Datei 'a' hat 2 MB."


def test_plain_strings_make_errors_too() -> None:
    assert str(CrossfuseError("100 {x} %")) == "100 {x} %"
    assert isinstance(CrossfuseError("x"), ValueError)

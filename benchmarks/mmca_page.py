"""The MMCA page as a reader waits for it: files dropped to the view on the screen, in a Chromium.

    crossfuse bench mmca_page --json

A server that has answered once takes ``--runs`` photographs of 1280 x 960, each new to it, each in
a session of its own: ``photo`` is the time from giving the file to the browser to the frame that
shows the linked view with the photograph in it. Then the sentence changes by one word: ``word`` is
the time from Enter to the frame that shows the view with that word. ``empty`` is the same gesture
on a page that only echoes a text field: what Streamlit and the browser take by themselves, in the
same run. Medians of seconds; the page itself notes when its frame is on the screen.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.first_paint import ARGUMENTS, CHROMIUM, ROOT, VIEWS, server, shown_after
from crossfuse.data.images import sample_photo

SENTENCE = "A cup of coffee on a saucer stands on a wooden table."
WORDS = ("tea", "beer", "milk", "juice", "water", "wine", "soup", "cocoa")
ECHO = """import streamlit as st
st.title("echo")
st.text(st.text_input("Sentence"))
"""
PHOTO_SHOWN = VIEWS % "views.some((view) => view.querySelector('canvas[data-photo=drawn]'))"
WORD_SHOWN = VIEWS % (
    "views.some((view) => [...view.querySelectorAll('[role=option]')]"
    ".some((chip) => chip.textContent === '%s'))"
)
ECHOED = """() => [...document.querySelectorAll('[data-testid=stText]')]
    .some((text) => text.textContent === '%s')"""
OWN = f"/mmca?lang=en&photo=own&text={SENTENCE}"
LONG = 120_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {case, seconds, worst, runs}."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        echo = Path(folder) / "echo.py"
        echo.write_text(ECHO)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        with server(ROOT / "app.py", ROOT) as (url, _):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            photo_to_view(page, url + OWN, 0)  # loads the weights
            photos, words = [], []
            for turn in range(1, arguments.runs + 1):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                photos.append(photo_to_view(page, url + OWN, turn))
                words.append(_word(page, WORDS[turn % len(WORDS)]))
                page.close()
        with server(echo, Path(folder)) as (url, _):
            page = browser.new_page()
            page.goto(url)
            page.get_by_label("Sentence").wait_for()
            empty = [_echo(page, word) for word in WORDS[: arguments.runs + 1]][1:]
        browser.close()
    return summary({"photo": photos, "word": words, "empty": empty})


def summary(cases: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The rows {case, seconds, worst, runs}: medians of what each case took."""
    return [
        {
            "case": case,
            "seconds": round(statistics.median(taken), 3),
            "worst": round(max(taken), 3),
            "runs": len(taken),
        }
        for case, taken in cases.items()
    ]


def photo_to_view(page: Page, address: str, turn: int) -> float:
    """Open a page for own photographs, give it one; seconds to the frame that shows its view."""
    page.goto(address)
    chooser = page.locator("input[type=file]").first
    chooser.wait_for(state="attached", timeout=LONG)
    page.wait_for_timeout(1500)
    file = {"name": f"{turn}.jpg", "mimeType": "image/jpeg", "buffer": picture(turn)}
    return shown_after(page, PHOTO_SHOWN, lambda: chooser.set_input_files([file]))


def _word(page: Page, word: str) -> float:
    """Change a word of the sentence; seconds to the frame that shows the view with it."""
    page.wait_for_timeout(2500)  # the rest of the page
    field = page.get_by_label("Sentence (English)")
    field.fill(SENTENCE.replace("coffee", word))
    return shown_after(page, WORD_SHOWN % word, lambda: field.press("Enter"))


def _echo(page: Page, word: str) -> float:
    field = page.get_by_label("Sentence")
    field.fill(f"{word} {word}")
    return shown_after(page, ECHOED % f"{word} {word}", lambda: field.press("Enter"))


def picture(turn: int) -> bytes:
    """A photograph of 1280 x 960, another content each turn."""
    pixels = np.roll(sample_photo("coffee").pixels, 40 * turn, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((1280, 960)).save(buffer, "JPEG")
    return buffer.getvalue()

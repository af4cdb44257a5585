"""The MMCA page as a reader waits for it: files dropped to the view on the screen, in a Chromium.

    crossfuse bench mmca_page --json

A server that has answered once takes ``--runs`` photographs of 1280 x 960, each new to it, each in
a session of its own: ``photo`` is the time from giving the file to the browser to the frame that
shows the linked view with the photograph in it. Then the sentence changes by one word: ``word`` is
the time from Enter to the frame that shows the view with that word. ``empty`` is the same gesture
on a page that only echoes a text field: what Streamlit and the browser take by themselves, in the
same run. Medians of seconds; the page itself notes when its frame is on the screen. ``..._cpu``:
processor seconds of server and browser meanwhile, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from benchmarks.first_paint import (
    ARGUMENTS,
    CHROMIUM,
    ROOT,
    VIEWS,
    cpu_seconds,
    server,
    shown_after,
)
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
        cases: dict[str, list[float]] = {}

        def take(case: str, pid: int, gesture: Callable[[], float]) -> None:
            before = cpu_seconds(pid)
            cases.setdefault(case, []).append(gesture())
            cases.setdefault(f"{case}_cpu", []).append(cpu_seconds(pid) - before)

        with server(ROOT / "app.py", ROOT) as (url, pid):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            photo_to_view(page, url + OWN, 0)  # loads the weights
            for turn in range(1, arguments.runs + 1):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                chooser = _chooser(page, url + OWN)
                take("photo", pid, partial(_give, page, chooser, turn))
                page.wait_for_timeout(2500)  # the rest of the page
                word = WORDS[turn % len(WORDS)]
                field = page.get_by_label("Sentence (English)")
                field.fill(SENTENCE.replace("coffee", word))
                take("word", pid, partial(_enter, page, field, WORD_SHOWN % word))
                page.close()
        with server(echo, Path(folder)) as (url, pid):
            page = browser.new_page()
            page.goto(url)
            field = page.get_by_label("Sentence")
            for word in WORDS[: arguments.runs]:
                page.wait_for_timeout(1000)
                field.fill(f"{word} {word}")
                take("empty", pid, partial(_enter, page, field, ECHOED % f"{word} {word}"))
        browser.close()
    return summary(cases)


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
    return _give(page, _chooser(page, address), turn)


def _chooser(page: Page, address: str) -> Locator:
    page.goto(address)
    chooser = page.locator("input[type=file]").first
    chooser.wait_for(state="attached", timeout=LONG)
    page.wait_for_timeout(1500)
    return chooser


def _give(page: Page, chooser: Locator, turn: int) -> float:
    file = {"name": f"{turn}.jpg", "mimeType": "image/jpeg", "buffer": picture(turn)}
    return shown_after(page, PHOTO_SHOWN, lambda: chooser.set_input_files([file]))


def _enter(page: Page, field: Locator, condition: str) -> float:
    return shown_after(page, condition, lambda: field.press("Enter"))


def picture(turn: int) -> bytes:
    """A photograph of 1280 x 960, another content each turn."""
    pixels = np.roll(sample_photo("coffee").pixels, 40 * turn, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((1280, 960)).save(buffer, "JPEG")
    return buffer.getvalue()

"""The MMViT page as a reader waits for it: a file dropped to the linked view, then cell to cell.

    crossfuse bench mmvit_page --json

A server that has answered once takes ``--runs`` photographs of 1280 x 960, each new to it, each in
a session of its own. ``picture``: from giving the file to the browser to the first paint of the
linked view. ``cell``: from the pointer's event to the next frame after the paint, for ``--moves``
cells of the asking view; no request leaves the browser. Medians and worst, in seconds.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.first_paint import ARGUMENTS, CHROMIUM, ROOT, server
from benchmarks.linked_view import MOVE
from benchmarks.mmca_page import photo_to_view, summary

OWN = "/mmvit?lang=en&mmvit_picture=own&mmvit_section=between"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--moves", type=int, default=40)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {case, seconds, worst, runs}."""
    pictures, cells = [], []
    with sync_playwright() as playwright, server(ROOT / "app.py", ROOT) as (url, _):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for turn in range(arguments.runs + 1):  # the first loads the weights
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            pictures.append(photo_to_view(page, url + OWN, turn))
            if turn == arguments.runs:
                cells = _cells(page, arguments.moves)
            page.close()
        browser.close()
    return summary({"picture": pictures[1:], "cell": cells})


def _cells(page: Page, moves: int) -> list[float]:
    """Seconds from a move of the pointer to the frame in which its cell's rows are painted."""
    page.wait_for_timeout(2000)  # the rest of the page
    canvas = page.locator(".view .panel-image_grid canvas").first.element_handle()
    places = np.random.default_rng(0).uniform(0.3, 0.7, (moves, 2)).tolist()
    taken = [page.evaluate(MOVE, [canvas, x, y]) for x, y in places]
    return [pair[1] / 1000 for pair in taken if pair]

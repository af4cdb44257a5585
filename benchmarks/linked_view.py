"""How quickly the linked view paints: hover -> pixels, in a real Chromium.

    crossfuse bench linked_view [--json] [--moves 60]

For each case the pointer moves from item to item, and the head is changed by a key. ``hover_ms``,
``head_ms``: compute and paint, as the view counts them. ``frame_ms``: from the pointer event to
the next frame after the paint, as a reader feels it (a 60 Hz screen shows at most every 16.7 ms).
``load_ms``: opening the page to first paint.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.first_paint import ARGUMENTS, CHROMIUM, ROOT, server

APP = ROOT / "tests" / "browser" / "apps" / "linked_view_app.py"
CASES = {
    "sentence": "15 x 15, 12 heads, 4 layers; regions, words, matrix, overview",
    "grids": "150 x 49, 4 heads, 3 layers; two photographs, matrix, overview",
    "large": "3136 x 3136, 1 head; photograph, matrix (9.8 million cells)",
}
MOVE = """async ([canvas, x, y]) => {
    const view = canvas.closest('.view');
    const box = canvas.getBoundingClientRect();
    const before = view.dataset.paints;
    const start = performance.now();
    canvas.dispatchEvent(new PointerEvent('pointermove', {
        clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true,
    }));
    await new Promise(requestAnimationFrame);
    await new Promise((resolve) => setTimeout(resolve));
    return view.dataset.paints === before ? null
        : [Number(view.dataset.paintMs), performance.now() - start];
}"""


SWITCH = """async ([canvas, times]) => {
    const view = canvas.closest('.view');
    const taken = [];
    for (let i = 0; i < times; i++) {
        const before = view.dataset.paints;
        view.dispatchEvent(new KeyboardEvent('keydown', { key: ']', bubbles: true }));
        await new Promise(requestAnimationFrame);
        await new Promise((resolve) => setTimeout(resolve));
        if (view.dataset.paints !== before) taken.push(Number(view.dataset.paintMs));
    }
    return taken.length ? taken : null;
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--moves", type=int, default=60, help="pointer moves a case")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a case; see the top of this file."""
    with server(APP, ROOT) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        rows = [_case(page, url, case, options.moves) for case in CASES]
        browser.close()
    return rows


def _case(page: Page, url: str, case: str, moves: int) -> dict[str, Any]:
    start = time.perf_counter()
    page.goto(f"{url}/?case={case}")
    page.wait_for_selector(".view[data-paints]", timeout=90_000)
    load = 1000 * (time.perf_counter() - start)
    page.wait_for_timeout(1500)
    canvas = page.locator(".view canvas").first.element_handle()
    places = np.random.default_rng(0).uniform(0.02, 0.98, (moves, 2)).tolist()
    taken = [page.evaluate(MOVE, [canvas, x, y]) for x, y in places]
    work, frame = np.array([pair for pair in taken if pair]).T
    switch = page.evaluate(SWITCH, [canvas, 20])
    return {
        "case": case,
        "what": CASES[case],
        "hovers": len(work),
        "hover_ms": round(float(np.median(work)), 2),
        "hover_ms_p95": round(float(np.percentile(work, 95)), 2),
        "frame_ms": round(float(np.median(frame)), 1),
        "head_ms": round(float(np.median(switch)), 2) if switch else None,
        "load_ms": round(load),
    }

"""The EEG page in a real Chromium: a long EDF from upload to every view, scrubbing and picking.

    crossfuse bench eeg_page --json

``first_view_s``: opening the page to the first linked view (stored; warm server). ``upload_s``:
choosing the file to the last view painted, ``server_mb`` the server's peak memory meanwhile.
``scrub_ms``: one pointer move on the scrubber to its drawing done, ``scrub_frame_ms`` to the next
frame. ``cell_ms``: a click on a cell to its topography painted; ``cell_all_ms`` until the maps of
that window have come from the server too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.eeg_upload import write_edf
from benchmarks.first_paint import CHROMIUM, ROOT, server

SCRUB = """async ([root, places]) => {
    const strip = root.querySelector('canvas.strip');
    const box = strip.getBoundingClientRect();
    const found = [];
    const send = (type, x) => strip.dispatchEvent(new PointerEvent(type, {
        clientX: box.left + x * box.width, clientY: box.top + 20, buttons: 1, pointerId: 1,
        bubbles: true,
    }));
    for (const x of places) {
        const start = performance.now();
        send('pointermove', x);
        await new Promise(requestAnimationFrame);
        await new Promise((resolve) => setTimeout(resolve));
        found.push([Number(root.dataset.milliseconds), performance.now() - start]);
    }
    return found;
}"""
CELL = """async ([view, x, y]) => {
    const canvas = view.querySelector('.panel-time_frequency canvas');
    const box = canvas.getBoundingClientRect();
    const [left, top] = [box.left + x * box.width, box.top + y * box.height];
    const at = { clientX: left, clientY: top, bubbles: true };
    const start = performance.now();
    canvas.dispatchEvent(new PointerEvent('pointermove', at));
    canvas.dispatchEvent(new MouseEvent('click', at));
    await new Promise(requestAnimationFrame);
    await new Promise((resolve) => setTimeout(resolve));
    return performance.now() - start;
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--moves", type=int, default=60)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row; see the top of this file."""
    with tempfile.TemporaryDirectory(prefix="crossfuse-bench-") as folder:
        path = Path(folder) / "long.edf"
        write_edf(path, options.channels, options.minutes * 60, options.rate)
        with server(ROOT / "app.py", ROOT) as (url, process):
            return [_measured(url, process, path, options)]


def _measured(url: str, process: int, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(180_000)
        row = {"case": f"{options.channels} x {options.minutes:g} min x {options.rate} Hz"}
        row |= _first_view(page, url)
        row |= _upload(page, url, path, process)
        row |= _interaction(page, options.moves)
        browser.close()
    return row


def _first_view(page: Page, url: str) -> dict[str, float]:
    taken = []
    for _ in range(3):  # the first visit loads Streamlit's own scripts and wakes torch
        start = time.perf_counter()
        page.goto(f"{url}/eeg?lang=en")
        page.wait_for_selector(".st-key-eeg_relevance .view[data-paints]")
        taken.append(time.perf_counter() - start)
        page.wait_for_selector(".traces[data-drawn]")
        page.wait_for_timeout(4000)
    return {"first_visit_s": round(taken[0], 2), "first_view_s": round(min(taken[1:]), 2)}


def _upload(page: Page, url: str, path: Path, process: int) -> dict[str, float]:
    page.goto(f"{url}/eeg?lang=en&eeg_source=upload")
    page.wait_for_selector("input[type=file]", state="attached")
    page.wait_for_timeout(2000)
    server = psutil.Process(process)
    before, used = server.memory_info().rss, sum(server.cpu_times()[:2])
    start = time.perf_counter()
    page.locator("input[type=file]").first.set_input_files(str(path))
    peak = before
    while not page.locator(".traces[data-drawn]").count():
        peak = max(peak, server.memory_info().rss)
        page.wait_for_timeout(100)
    taken = time.perf_counter() - start
    cpu = sum(server.cpu_times()[:2]) - used
    return {
        "upload_s": round(taken, 1),
        "server_cpu_s": round(cpu, 1),
        "server_mb": round((peak - before) / 1e6),
    }


def _interaction(page: Page, moves: int) -> dict[str, float]:
    page.wait_for_timeout(3000)
    places = np.random.default_rng(0).uniform(0.1, 0.98, moves).tolist()
    root = page.locator(".traces[data-drawn]").element_handle()
    work, frame = np.array(page.evaluate(SCRUB, [root, places])).T
    page.wait_for_timeout(3000)
    view = page.locator(".st-key-eeg_relevance .view").element_handle()
    fusion = page.locator(".st-key-eeg_fusion .view")
    cells, whole = [], []
    for x in np.linspace(0.2, 0.9, 12).tolist():
        before = fusion.get_attribute("data-ready")
        start = time.perf_counter()
        cells.append(page.evaluate(CELL, [view, x, 0.7]))
        while fusion.get_attribute("data-ready") == before and time.perf_counter() - start < 5:
            page.wait_for_timeout(5)
        whole.append(1000 * (time.perf_counter() - start))
        page.wait_for_timeout(300)
    return {
        "scrub_ms": round(float(np.median(work)), 1),
        "scrub_ms_p95": round(float(np.percentile(work, 95)), 1),
        "scrub_frame_ms": round(float(np.median(frame)), 1),
        "cell_ms": round(float(np.median(cells)), 1),
        "cell_ms_p95": round(float(np.percentile(cells, 95)), 1),
        "cell_all_ms": round(float(np.median(whole)), 1),
    }

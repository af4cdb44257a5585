"""From a 12-megapixel photograph chosen in the browser to the linked view that shows it.

    crossfuse bench upload --runs 3

A server and a Chromium on this machine; the primer's second chapter is open and its models are
awake. The clock starts when the file is given to the uploader and stops in the frame in which the
linked view has drawn the new photograph and its map. Every run has another photograph, so that
nothing is answered from a cache. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import time
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.first_paint import ARGUMENTS, ROOT, cpu_seconds, server
from crossfuse.data.images import sample_photo

SIZE = (4000, 3000)
LIMIT = 3.0  # seconds
WAIT = 120_000  # ms
DRAWN = """(before) => {
  const host = document.querySelector('.st-key-photos [data-testid=stBidiComponentIsolated]');
  const view = host?.shadowRoot?.querySelector('.view[data-paints]');
  return view && Number(view.dataset.ready) > before;
}"""


def photograph(seed: int) -> bytes:
    """A JPEG of 12 megapixels: a sample photograph enlarged, with grain of its own."""
    image = Image.fromarray(sample_photo("china").pixels).resize(SIZE, Image.Resampling.BICUBIC)
    grain = np.random.default_rng(seed).normal(0, 6, (SIZE[1], SIZE[0], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row: seconds by the clock, and processor seconds of server and browser, medians."""
    files = [photograph(seed) for seed in range(arguments.runs + 1)]
    seconds, cpu = [], []
    with server(ROOT / "app.py", ROOT) as (address, pid), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/primer?chapter=photos&photo_a=upload")
        page.wait_for_function(DRAWN, arg=0, timeout=WAIT)
        for number, data in enumerate(files):  # the first one warms up
            page.get_by_test_id("stStatusWidget").wait_for(state="detached", timeout=WAIT)
            ready = page.evaluate(
                "() => Number(document.querySelector('.st-key-photos "
                "[data-testid=stBidiComponentIsolated]').shadowRoot"
                ".querySelector('.view').dataset.ready)"
            )
            start, before = time.perf_counter(), cpu_seconds(pid)
            page.locator("input[type=file]").set_input_files(
                {"name": f"{number}.jpg", "mimeType": "image/jpeg", "buffer": data}
            )
            page.wait_for_function(DRAWN, arg=ready, timeout=WAIT, polling="raf")
            if number:
                seconds.append(time.perf_counter() - start)
                cpu.append(cpu_seconds(pid) - before)
        browser.close()
    row = {
        "case": "12-megapixel photograph to linked view",
        "seconds": round(statistics.median(seconds), 2),
        "cpu_seconds": round(statistics.median(cpu), 2),
        "limit": LIMIT,
        "megabytes": round(len(files[0]) / 1e6, 1),
        "runs": [round(value, 2) for value in seconds],
        "load_average": os.getloadavg()[0],
    }
    return [row]

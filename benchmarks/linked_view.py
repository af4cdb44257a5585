"""How quickly the linked view paints: hover -> pixels, in a real Chromium.

    python benchmarks/linked_view.py [--json] [--moves 60]

For each case the pointer moves from item to item. ``work_ms``: compute and paint, as the view
counts them. ``frame_ms``: from the pointer event to the next frame after the paint, as a reader
feels it (a 60 Hz screen shows at most every 16.7 ms). ``load_ms``: opening the page to first paint.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
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


def measure(page: Page, url: str, case: str, moves: int) -> dict[str, float | str | int]:
    """Medians and 95th percentiles of one case, in milliseconds."""
    start = time.perf_counter()
    page.goto(f"{url}/?case={case}")
    page.wait_for_selector(".view[data-paints]")
    load = 1000 * (time.perf_counter() - start)
    page.wait_for_timeout(1500)
    canvas = page.locator(".view canvas").first.element_handle()
    places = np.random.default_rng(0).uniform(0.02, 0.98, (moves, 2)).tolist()
    taken = [page.evaluate(MOVE, [canvas, x, y]) for x, y in places]
    work, frame = np.array([pair for pair in taken if pair]).T
    return {
        "case": case,
        "what": CASES[case],
        "hovers": len(work),
        "work_ms_median": round(float(np.median(work)), 2),
        "work_ms_p95": round(float(np.percentile(work, 95)), 2),
        "frame_ms_median": round(float(np.median(frame)), 1),
        "load_ms": round(load),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--moves", type=int, default=60, help="pointer moves a case")
    options = parser.parse_args()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(APP), f"--server.port={port}"]
    server = subprocess.Popen(
        [*command, "--server.headless=true", "--server.address=127.0.0.1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        chromium = os.environ.get("CROSSFUSE_CHROMIUM") or shutil.which("chromium")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            rows = [
                measure(page, f"http://127.0.0.1:{port}", case, options.moves) for case in CASES
            ]
            browser.close()
    finally:
        server.terminate()
        server.wait()
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            f"{row['case']:<10} work {row['work_ms_median']:6.2f} ms (p95 {row['work_ms_p95']:.2f})"
            f"  event to frame {row['frame_ms_median']:5.1f} ms  load {row['load_ms']} ms"
            f"  [{row['what']}]"
        )


if __name__ == "__main__":
    main()

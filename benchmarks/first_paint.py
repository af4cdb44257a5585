"""First paint of the home page against an empty Streamlit app, in Chromium, in turns.

    crossfuse bench first_paint --runs 5

Each run starts both servers afresh, one after the other, and opens each in a browser without a
cache. Painted = the first frame in which the page's own content (its heading) is on the screen;
live = the frame in which the first linked view has drawn itself (home only); whole = the frame in
which the script's last element, and the last linked view, is there. ``cold`` is the first visit of
a server that has just started, ``second`` the next one once the server is idle again. ``cpu`` are
the processor seconds of server and browser up to the first paint, which other work on the machine
disturbs less than the clock. Also tells whether torch was in the server's memory at the first
paint (it must not be) and in the end. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CROSSFUSE_CHROMIUM") or shutil.which("chromium")
MEASURED = ("first_ms", "live_ms", "whole_ms", "cpu_s")
LIMIT = 1.3  # of the first paint, as a ratio
EMPTY = "import streamlit as st\n\nst.title('empty')\n"
OPTIONS = [
    "--server.headless=true",
    "--server.address=127.0.0.1",
    "--browser.gatherUsageStats=false",
    "--server.fileWatcherType=none",
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Times in ms since navigation: when a heading was first there, when the first linked view had
# painted (inside its shadow root), and when elements and views stopped coming.
WATCH = """
window.__paint = {first: null, live: null, whole: null};
(function look() {
  requestAnimationFrame(look);
  const main = document.querySelector('[data-testid=stMain]');
  if (!main) return;
  const seen = window.__paint;
  if (seen.first === null && main.querySelector('h1')) seen.first = performance.now();
  const hosts = [...main.querySelectorAll('[data-testid=stBidiComponentIsolated]')];
  const views = hosts.filter((host) => host.shadowRoot?.querySelector('.view[data-paints]'));
  if (seen.live === null && views.length) seen.live = performance.now();
  const count = main.querySelectorAll('[data-testid=stElementContainer]').length + views.length;
  if (count !== seen.count) { seen.count = count; seen.whole = performance.now(); }
})();
"""
# A condition on the linked views of a page, for ``shown_after``; their roots are ``views``.
VIEWS = """() => {
    const views = [...document.querySelectorAll('[data-testid=stBidiComponentIsolated]')]
        .map((host) => host.shadowRoot?.querySelector('.view')).filter((view) => view);
    return %s;
}"""
# The time of the first frame after the one in which the condition came to hold.
SHOWN = """(condition) => {
    const holds = Function(`return ${condition}`)();
    window.shown = new Promise((resolve) => {
        const look = () => requestAnimationFrame(holds()
            ? () => resolve(performance.timeOrigin + performance.now()) : look);
        look();
    });
}"""


@contextlib.contextmanager
def server(script: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """A fresh Streamlit process in ``folder``; yields its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), *OPTIONS, f"--server.port={port}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
                break
            time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(20)


def shown_after(page: Page, condition: str, gesture: Callable[[], None]) -> float:
    """Seconds from a gesture to the frame that shows what it has brought."""
    page.evaluate(SHOWN, condition)
    start = time.time()
    gesture()
    return float(page.evaluate("window.shown")) / 1000 - start


def has_torch(pid: int) -> bool:
    """True if the process has torch's library in memory."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def cpu_seconds(pid: int) -> float:
    """Processor time of the server and of every browser process that this one has started."""
    spent = 0.0
    browsers = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
    for process in (psutil.Process(pid), *browsers):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def until_idle(pid: int) -> None:
    """Wait until the server has used less than a tenth of a core for a second."""
    process = psutil.Process(pid)
    while process.cpu_percent(interval=1.0) > 10:
        pass


def visit(browser: Browser, address: str, pid: int, name: str) -> dict[str, float]:
    """Open the page without a cache and wait until it is whole."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    before = cpu_seconds(pid)
    page.goto(address, wait_until="commit")
    page.wait_for_function("window.__paint && window.__paint.first !== null", timeout=60_000)
    cpu, torch = cpu_seconds(pid) - before, has_torch(pid)
    page.wait_for_function("performance.now() - window.__paint.whole > 1500", timeout=60_000)
    painted = page.evaluate("window.__paint")
    context.close()
    found = {"first_ms": painted["first"], "whole_ms": painted["whole"], "cpu_s": cpu}
    if painted["live"] is not None:
        found["live_ms"] = painted["live"]
    return {f"{name}_{case}": value for case, value in found.items()} | {f"{name}_torch": torch}


def measure_one(browser: Browser, script: Path, folder: Path) -> dict[str, float]:
    with server(script, folder) as (address, pid):
        until_idle(pid)
        cold = visit(browser, address, pid, "cold")
        until_idle(pid)
        second = visit(browser, address, pid, "second")
        return cold | second | {"torch_in_the_end": has_torch(pid)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--chromium", default=CHROMIUM)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows {case, home, empty, ratio, limit}: medians over alternating runs; the facts last."""
    rows: dict[str, list[dict[str, float]]] = {"empty": [], "home": []}
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        empty = Path(scratch) / "empty.py"
        empty.write_text(EMPTY)
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
        for run in range(arguments.runs):
            turn = [("empty", empty, Path(scratch)), ("home", ROOT / "app.py", ROOT)]
            for name, script, folder in turn if run % 2 == 0 else turn[::-1]:
                rows[name].append(measure_one(browser, script, folder))
        browser.close()

    def median(name: str, case: str) -> float | None:
        values = [row[case] for row in rows[name] if case in row]
        return round(statistics.median(values), 2) if values else None

    found: list[dict[str, Any]] = []
    for case in (f"{visit}_{what}" for visit in ("cold", "second") for what in MEASURED):
        home, bare = median("home", case), median("empty", case)
        ratio = round(home / bare, 3) if home and bare else None
        limit = LIMIT if case.endswith("first_ms") else None
        found.append({"case": case, "home": home, "empty": bare, "ratio": ratio, "limit": limit})
    facts = {
        "torch_at_first_paint": any(row["cold_torch"] for row in rows["home"]),
        "torch_warmed_up_behind_it": all(row["torch_in_the_end"] for row in rows["home"]),
        "load_average": os.getloadavg()[0],
    }
    blank = {"empty": None, "ratio": None, "limit": None}
    return found + [{"case": fact, "home": value, **blank} for fact, value in facts.items()]

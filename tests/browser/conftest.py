"""Fixtures of the browser tests: a running Streamlit script, and a page in Chromium.

    def test_something(start_app, page):
        url = start_app("tests/browser/apps/linked_view_app.py")    # or "app.py", with app_url
        page.goto(url)

Chromium is the system's (``CROSSFUSE_CHROMIUM`` overrides), else Playwright's own; a machine
with neither fails these tests rather than skipping them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60_000  # ms; test machines are small and busy
expect.set_options(timeout=PATIENCE)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"streamlit ended with {process.returncode}:\n{log.read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"streamlit did not answer within 60 s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def start_app() -> Iterator[Callable[[str], str]]:
    """``start_app(script) -> url``: one server a script for the whole session, on a free port."""
    running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
    folder = Path(tempfile.mkdtemp(prefix="crossfuse-browser-"))

    def start(script: str) -> str:
        if script not in running:
            port = _free_port()
            log = folder / f"{Path(script).stem}.log"
            command = [sys.executable, "-m", "streamlit", "run", str(ROOT / script)]
            command += [f"--server.port={port}", "--server.headless=true"]
            command += ["--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            running[script] = (process, f"http://127.0.0.1:{port}")
            _wait(port, process, log)
        return running[script][1]

    yield start
    for process, _ in running.values():
        process.terminate()
        process.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for the session."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    installed = (shutil.which(name) for name in names)
    found = os.environ.get("CROSSFUSE_CHROMIUM") or next(filter(None, installed), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """One context for each set of options, so that Streamlit's own scripts are loaded once."""
    known: dict[str, BrowserContext] = {}

    def get(**options: Any) -> BrowserContext:
        name = repr(sorted(options.items()))
        if name not in known:
            known[name] = browser.new_context(**options)
        return known[name]

    yield get
    for context in known.values():
        context.close()


@pytest.fixture
def new_page(contexts: Callable[..., BrowserContext]) -> Iterator[Callable[..., Page]]:
    """``new_page(width=1440, height=900, theme="light", **context options) -> Page``.

    Every page is a new tab: its session storage and its Streamlit session are its own. At the end
    of the test every page opened must be free of uncaught errors.
    """
    pages: list[Page] = []
    errors: list[str] = []

    def make(width: int = 1440, height: int = 900, theme: str = "light", **options: Any) -> Page:
        viewport = {"width": width, "height": height}
        page = contexts(viewport=viewport, color_scheme=theme, **options).new_page()
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield make
    for page in pages:
        page.close()
    assert not errors, errors


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """A page of 1440 x 900 pixels in the light theme."""
    return new_page()


@pytest.fixture
def app_url(start_app: Callable[[str], str]) -> str:
    """The whole app, ``app.py``."""
    return start_app("app.py")

"""A cloud in a real Chromium: upload to picture, orbit, hover, and what goes over the line.

    crossfuse bench mit_browser [--points 100000 1000000] [--gpu]

``upload_s``: from handing the file to the page to the first points on the screen; ``whole_s``: to
the last one; the server has answered the sample room before. ``server_peak_mb``: the largest
resident memory of the server meanwhile. ``sent_mb`` and ``bytes_a_point``: all that came to the
browser for it, maps and photographs too. ``recolour_ms``: asking
another segment, the script's work until the new colours are on the card; ``recolour_frame_ms``:
from the pointer event to the frame after. ``tick_s``: from a click on a class to the view with
other labels, median of five. ``whole_ms``: one drawing of every point, waited for; ``orbit_fps``:
frames a second while the cloud is turned, with ``orbit_share`` of the points in each, as the panel
chooses. ``renderer`` says what draws: without ``--gpu`` SwiftShader, which is software on the
same cores as everything else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, Response, WebSocket, sync_playwright

from benchmarks.first_paint import CHROMIUM, ROOT, VIEWS, server, shown_after
from benchmarks.mit import made_ply

SOFTWARE = ["--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader"]
SOFTWARE += ["--enable-unsafe-swiftshader"]
HARDWARE = ["--ignore-gpu-blocklist", "--use-gl=angle", "--enable-gpu"]
CANVAS = ".panel-points canvas"

DRAWN = VIEWS % "views.map((view) => view.querySelector('.panel-points canvas')?.dataset.drawn)[0]"
READY = VIEWS % "Number(views[0]?.dataset.ready)"
RENDERER = """(canvas) => {
    const gl = canvas.getContext('webgl2');
    const info = gl.getExtension('WEBGL_debug_renderer_info');
    return info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : 'unknown';
}"""
# The panel leaves its program, its buffers and its choices bound: all points once more, waited for.
WHOLE = """([canvas, count]) => {
    const gl = canvas.getContext('webgl2');
    const pixel = new Uint8Array(4);
    const once = () => {
        const start = performance.now();
        gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        gl.drawArrays(gl.POINTS, 0, count);
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
        return performance.now() - start;
    };
    once();
    return [once(), once(), once(), once(), once()];
}"""
HOVER = """async ([chips, times]) => {
    const view = chips[0].closest('.view');
    const taken = [];
    for (let i = 0; i < times; i++) {
        const before = view.dataset.paints;
        const start = performance.now();
        chips[i % chips.length].dispatchEvent(new PointerEvent('pointerenter'));
        await new Promise(requestAnimationFrame);
        await new Promise((resolve) => setTimeout(resolve));
        if (view.dataset.paints === before) continue;
        taken.push([Number(view.dataset.paintMs), performance.now() - start]);
        await new Promise((resolve) => setTimeout(resolve, 120));
    }
    return taken;
}"""
ORBIT = """async ([canvas, seconds]) => {
    const box = canvas.getBoundingClientRect();
    const at = (type, x) => canvas.dispatchEvent(new PointerEvent(type, {
        pointerId: 1, pointerType: 'mouse', bubbles: true, button: 0,
        clientX: box.left + x, clientY: box.top + box.height / 2,
    }));
    canvas.setPointerCapture = () => {};
    const pixel = new Uint8Array(4);
    const gl = canvas.getContext('webgl2');
    at('pointerdown', 100);
    const start = performance.now();
    let frames = 0;
    let drawn = 0;
    while (performance.now() - start < 1000 * seconds) {
        at('pointermove', 100 + 3 * (frames + 5));
        await new Promise(requestAnimationFrame);
        await new Promise((resolve) => setTimeout(resolve));
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
        frames += 1;
        drawn += Number(canvas.dataset.drawn);
    }
    at('pointerup', 100);
    return [frames / ((performance.now() - start) / 1000), drawn / frames];
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--gpu", action="store_true", help="let Chromium use the graphics card")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a number of points; see the top of this file."""
    flags = ["--no-sandbox", *(HARDWARE if options.gpu else SOFTWARE)]
    with (
        server(ROOT / "app.py", ROOT) as (address, process),
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as folder,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        url = f"{address}/mit"
        _warm(browser, url)
        rows = [
            _case(browser, url, psutil.Process(process), count, Path(folder))
            for count in options.points
        ]
        browser.close()
    return rows


def _warm(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector(f"{CANVAS}[data-drawn]", timeout=180_000)
    page.close()


def _case(
    browser: Browser, url: str, served: psutil.Process, count: int, folder: Path
) -> dict[str, Any]:
    scan = folder / f"scan{count}.ply"
    scan.write_bytes(made_ply("room", count))
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(180_000)
    got = _counted(page)
    page.goto(f"{url}?room=own")
    file = page.locator("input[type=file]").first
    file.wait_for(state="attached")
    page.wait_for_timeout(1500)
    got[0] = 0
    start = time.perf_counter()
    file.set_input_files(scan)
    drawn, first, peak = None, 0.0, 0
    while drawn != str(count):
        page.wait_for_timeout(20)
        peak = max(peak, served.memory_info().rss)
        drawn = page.evaluate(DRAWN)
        first = first or (drawn and time.perf_counter() - start) or 0.0
    whole = time.perf_counter() - start
    canvas = page.locator(CANVAS)
    sent = got[0]
    page.wait_for_timeout(1500)
    element = canvas.element_handle()
    # Stage "class tokens": each class asks the cloud, which takes its colours.
    page.get_by_role("radio", name="Class tokens").click()
    page.wait_for_timeout(800)
    chips = [chip.element_handle() for chip in page.locator(".panel-words .chip").all()]
    hovers = page.evaluate(HOVER, [chips, 40])
    page.wait_for_timeout(800)
    drawing = page.evaluate(WHOLE, [element, count])
    fps, drawn = page.evaluate(ORBIT, [element, 4])
    row = {
        "points": count,
        "upload_s": round(first, 2),
        "whole_s": round(whole, 2),
        "server_peak_mb": round(peak / 1e6),
        "sent_mb": round(sent / 1e6, 1),
        "bytes_a_point": round(sent / count, 1),
        "recolour_ms": round(statistics.median(h[0] for h in hovers), 2),
        "recolour_frame_ms": round(statistics.median(h[1] for h in hovers), 1),
        "tick_s": round(statistics.median(_ticks(page, 5)), 2),
        "whole_ms": round(statistics.median(drawing), 1),
        "orbit_fps": round(fps, 1),
        "orbit_share": round(drawn / count, 3),
        "renderer": page.evaluate(RENDERER, element),
        "load": round(os.getloadavg()[0], 1),
    }
    page.close()
    return row


def _ticks(page: Page, times: int) -> list[float]:
    """Seconds from a click on a class to the frame that shows the view which has taken it in."""
    last = page.locator("[data-testid=stButtonGroup] button").last
    found = []
    for _ in range(times):
        taken_in = VIEWS % f"views[0].dataset.ready > {page.evaluate(READY)}"
        found.append(shown_after(page, taken_in, last.click))
        page.wait_for_timeout(1000)
    return found


def _counted(page: Page) -> list[int]:
    """Bytes that have come through the WebSockets of a page, and as files of its views."""
    got = [0]

    def watch(socket: WebSocket) -> None:
        def add(payload: str | bytes) -> None:
            got[0] += len(payload)

        socket.on("framereceived", add)

    def file(answer: Response) -> None:
        if "/media/" in answer.url:
            got[0] += int(answer.headers["content-length"])

    page.on("websocket", watch)
    page.on("response", file)
    return got

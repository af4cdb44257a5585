"""A cloud in a real Chromium: upload to picture, orbit, hover, and what goes over the line.

    crossfuse bench mit_browser [--points 100000 1000000] [--gpu]

``upload_s``: from handing the file to the page to the first points on the screen; ``whole_s``: to
the last one; the server has answered the sample room before. ``sent_mb`` and ``bytes_a_point``:
all that came through the WebSocket for it, maps and photographs too. ``recolour_ms``: asking
another segment, the script's work until the new colours are on the card; ``recolour_frame_ms``:
from the pointer event to the frame after. ``tick_s``: from a click on a class to the view with
other labels. ``whole_ms``: one drawing of every point, waited for; ``orbit_fps``: frames a second
while the cloud is turned, with ``orbit_share`` of the points in each, as the panel chooses.
``renderer`` says what draws: without ``--gpu`` SwiftShader, which is software on the same cores as
everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, WebSocket, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SOFTWARE = ["--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader"]
SOFTWARE += ["--enable-unsafe-swiftshader"]
HARDWARE = ["--ignore-gpu-blocklist", "--use-gl=angle", "--enable-gpu"]
CANVAS = ".panel-points canvas"

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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    server = subprocess.Popen(
        [*command, "--server.headless=true", "--server.address=127.0.0.1"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    chromium = os.environ.get("CROSSFUSE_CHROMIUM") or shutil.which("chromium")
    flags = ["--no-sandbox", *(HARDWARE if options.gpu else SOFTWARE)]
    try:
        _wait(port)
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            url = f"http://127.0.0.1:{port}/mit"
            _warm(browser, url)
            rows = [_case(browser, url, count, Path(folder)) for count in options.points]
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return rows


def _wait(port: int) -> None:
    for _ in range(600):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("streamlit did not answer within 60 s")


def _warm(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    page.wait_for_selector(f"{CANVAS}[data-drawn]", timeout=180_000)
    page.close()


def _made(count: int, folder: Path) -> Path:
    spec = spec_from_file_location("mit_clouds", Path(__file__).with_name("mit.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    path = folder / f"scan{count}.ply"
    path.write_bytes(module.made_ply("room", count))
    return path


def _case(browser: Browser, url: str, count: int, folder: Path) -> dict[str, Any]:
    scan = _made(count, folder)
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
    page.wait_for_selector(f"{CANVAS}[data-drawn]")
    first = time.perf_counter() - start
    canvas = page.locator(CANVAS)
    while canvas.get_attribute("data-drawn") != str(count):
        page.wait_for_timeout(20)
    whole = time.perf_counter() - start
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
        "sent_mb": round(sent / 1e6, 1),
        "bytes_a_point": round(sent / count, 1),
        "recolour_ms": round(statistics.median(h[0] for h in hovers), 2),
        "recolour_frame_ms": round(statistics.median(h[1] for h in hovers), 1),
        "tick_s": round(_tick(page), 2),
        "whole_ms": round(statistics.median(drawing), 1),
        "orbit_fps": round(fps, 1),
        "orbit_share": round(drawn / count, 3),
        "renderer": page.evaluate(RENDERER, element),
        "load": round(os.getloadavg()[0], 1),
    }
    page.close()
    return row


def _tick(page: Page) -> float:
    """Seconds from a click on a class to the view that has taken it in."""
    view = page.locator(".view")
    before = view.get_attribute("data-ready")
    start = time.perf_counter()
    page.locator("[data-testid=stPills] button, [data-testid=stButtonGroup] button").last.click()
    while view.get_attribute("data-ready") == before:
        page.wait_for_timeout(20)
    return time.perf_counter() - start


def _counted(page: Page) -> list[int]:
    """Bytes that have come through the WebSockets of a page."""
    got = [0]

    def watch(socket: WebSocket) -> None:
        def add(payload: str | bytes) -> None:
            got[0] += len(payload)

        socket.on("framereceived", add)

    page.on("websocket", watch)
    return got


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    for row in measure(parser.parse_args()):
        print(json.dumps(row))


if __name__ == "__main__":
    main()

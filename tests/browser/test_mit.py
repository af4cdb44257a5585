"""The page of rooms in a real browser: drawn, stepped, ticked, picked, uploaded, on a phone."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

CANVAS = ".panel-points canvas"


def pixels(page: Page) -> np.ndarray:
    page.wait_for_timeout(500)
    shot = page.locator(CANVAS).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def covered(image: np.ndarray) -> float:
    """Share of pixels that are not the page's background."""
    return float((np.abs(image - image[2, 2]).max(-1) > 24).mean())


def drawn(page: Page, count: int) -> None:
    expect(page.locator(CANVAS)).to_have_attribute("data-drawn", str(count))


def step(page: Page, number: int) -> None:
    page.locator(".step").nth(number - 1).click()
    expect(page.locator(".panel-turns .body")).to_have_attribute("data-turn", str(number))


@pytest.fixture
def room(app_url: str, page: Page) -> Page:
    page.goto(f"{app_url}/mit")
    drawn(page, 130_000)
    return page


def test_the_whole_cloud_is_on_the_screen_at_first(room: Page) -> None:
    room.wait_for_timeout(600)
    box = room.locator(CANVAS).bounding_box()
    foot = room.locator(".foot").bounding_box()
    assert box is not None
    assert foot is not None
    image = np.asarray(Image.open(io.BytesIO(room.screenshot())).convert("RGB")).astype(int)
    # Upper half of the canvas, which the strip at the bottom of the window does not cover.
    top, bottom = int(box["y"]), int(min(box["y"] + box["height"] / 2, foot["y"]))
    part = image[top:bottom, int(box["x"]) : int(box["x"] + box["width"])]
    assert (np.abs(part - part[0, 0]).max(-1) > 24).mean() > 0.15


def test_the_stepper_says_whose_turn_it_is(room: Page) -> None:
    cloud, photos = room.locator(".panel-points .tag"), room.locator(".panel-photos .tag")
    expect(room.locator(".turn-says")).to_contain_text("cloud asks")
    expect(cloud).to_contain_text("asks")
    expect(photos).to_contain_text("is looked at")
    step(room, 2)
    expect(room.locator(".turn-says")).to_contain_text("photographs ask")
    strip = room.locator(".panel-photos canvas").bounding_box()
    assert strip is not None
    before = pixels(room)
    room.mouse.click(strip["x"] + 40, strip["y"] + 30)
    expect(photos).to_contain_text("asks")
    expect(cloud).to_contain_text("is looked at")
    assert np.abs(pixels(room) - before).mean() > 1  # where the photograph lands in the room
    room.get_by_role("button", name="Next turn").click()
    expect(room.locator(".panel-turns .body")).to_have_attribute("data-turn", "3")
    room.locator(".step").nth(2).press("ArrowRight")
    expect(room.locator(".panel-turns .body")).to_have_attribute("data-turn", "4")


def test_a_class_token_has_a_map_on_both_sides(room: Page) -> None:
    room.get_by_role("radio", name="Class tokens").click()
    room.locator(".panel-words .chip", has_text="sofa").click()
    for panel in ("points", "photos"):
        expect(room.locator(f".panel-{panel} .tag")).to_contain_text("is looked at")
    expect(room.locator(".says p")).to_have_count(2)


def test_ticking_a_class_changes_labels_legend_and_table(room: Page) -> None:
    room.locator("button[data-mode=class]").click()
    legend = room.locator(".point-legend")
    expect(legend).to_contain_text("floor")
    before = pixels(room)
    ready = room.locator(".view").get_attribute("data-ready")
    room.locator("[data-testid=stButtonGroup] button", has_text="floor").click()
    expect(room.locator(".view")).not_to_have_attribute("data-ready", ready or "")
    expect(legend).not_to_contain_text("floor")
    assert np.abs(pixels(room) - before).mean() > 3
    room.locator("button[data-mode=error]").click()
    expect(legend).to_contain_text("another label found")
    image = pixels(room)
    wrong = (np.abs(image - [178, 34, 52]).max(-1) < 12).mean()
    assert wrong > 0.02  # the whole floor is wrong now
    expect(room.get_by_text("mIoU", exact=True).first).to_be_visible()


def test_a_click_on_the_cloud_pins_what_lies_there(room: Page) -> None:
    room.locator(CANVAS).scroll_into_view_if_needed()
    box = room.locator(CANVAS).bounding_box()
    assert box is not None
    room.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(room.locator(".pin-state")).to_have_attribute("data-pinned", "true")
    expect(room.locator(".says")).to_contain_text("segment")
    room.locator(".panel-points .canvas-box").press("Escape")
    expect(room.locator(".pin-state")).to_have_attribute("data-pinned", "false")


def test_another_room_is_seen_whole_and_the_labels_of_the_last_are_forgotten(room: Page) -> None:
    room.locator("button[data-mode=error]").click()
    for _ in range(6):
        room.locator(CANVAS).hover()
        room.mouse.wheel(0, 400)
    assert covered(pixels(room)) < 0.08  # far away
    room.get_by_role("radio", name="Kitchen").click()
    drawn(room, 115_496)
    assert covered(pixels(room)) > 0.15
    room.get_by_role("radio", name="Your own").click()
    room.locator("input[type=file]").first.set_input_files(
        {"name": "scan.csv", "mimeType": "text/csv", "buffer": _scan(label=False)}
    )
    drawn(room, 8999)
    expect(room.locator("button[data-mode=attention]")).to_have_attribute("aria-checked", "true")


def _scan(scale: float = 1000.0, label: bool = True) -> bytes:
    """A floor, a wall and a box in millimetres with y up, labels 0..2 without names, one NaN."""
    rng = np.random.default_rng(0)
    uv = rng.uniform(0, 1, (9000, 2))
    floor = np.column_stack([uv[:4000] * [4, 3], np.zeros(4000)])
    wall = np.column_stack([uv[4000:8000, 0] * 4, np.full(4000, 3.0), uv[4000:8000, 1] * 1.2])
    box = np.column_stack([uv[8000:] * 0.6 + 1, np.full(1000, 0.5)])
    points = np.concatenate([floor, wall, box])[:, [0, 2, 1]] * [1, 1, -1] * scale
    points[17] = np.nan
    rows = np.hstack([points, rng.integers(0, 256, (9000, 3))])
    kind = np.repeat([1, 0, 2], [4000, 4000, 1000])[:, None]
    rows = np.hstack([rows, kind]) if label else rows
    head = "x,y,z,red,green,blue" + (",label" if label else "") + "\n"
    return (head + "\n".join(",".join(f"{v:.2f}" for v in row) for row in rows)).encode()


def test_an_upload_shows_how_it_was_read_and_lets_it_be_changed(app_url: str, page: Page) -> None:
    page.goto(f"{app_url}/mit?room=own")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "scan<b>.csv", "mimeType": "text/csv", "buffer": _scan()}
    )
    drawn(page, 8999)
    assert covered(pixels(page)) > 0.1
    choices = page.locator("[data-testid=stSelectbox] input")
    expect(choices.nth(0)).to_have_value("found: millimetres")
    expect(choices.nth(1)).to_have_value("found: y")
    expect(page.get_by_text("1 points without a finite position")).to_be_visible()
    expect(page.get_by_text("drawn from the cloud itself")).to_be_visible()
    expect(page.locator("button[data-mode=error]")).to_have_count(0)
    choices.nth(2).click()
    page.get_by_role("option", name="CrossFuse Rooms").click()
    expect(page.locator("button[data-mode=error]")).to_have_count(1)
    expect(page.get_by_text("mIoU", exact=True).first).to_be_visible()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 9\nend_header\n",
            "properties x, y and z",
        ),
        ("a.zip", b"PK\x03\x04", "not a readable ZIP"),
        ("one.xyz", b"1 2 3\n", "at least 50"),
        ("same.xyz", b"1 2 3\n" * 99, "in the same place"),
    ],
)
def test_bad_files_get_one_clear_sentence(
    app_url: str, page: Page, name: str, data: bytes, says: str
) -> None:
    page.goto(f"{app_url}/mit?room=own")
    page.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    )
    expect(page.get_by_text(says)).to_be_visible()
    expect(page.locator(CANVAS)).to_have_count(0)


def test_a_phone_in_the_dark(app_url: str, new_page: Callable[..., Page]) -> None:
    page = new_page(width=390, height=844, theme="dark")
    page.goto(f"{app_url}/mit?lang=zh&room=kitchen")
    drawn(page, 115_496)
    image = pixels(page)
    assert image[2, 2].max() < 60  # a dark page behind the points
    assert covered(image) > 0.1
    step(page, 2)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    expect(page.locator(".turn-says")).to_contain_text("照片发问")


def test_fingers_turn_and_zoom_the_cloud(app_url: str, new_page: Callable[..., Page]) -> None:
    page = new_page(width=390, height=844, has_touch=True)
    page.goto(f"{app_url}/mit?room=kitchen")
    drawn(page, 115_496)
    canvas = page.locator(CANVAS)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    before = pixels(page)
    touch("touchStart", (x, y))
    for step_x in (10, 30, 60, 90):
        touch("touchMove", (x + step_x, y))
    touch("touchEnd")
    turned = pixels(page)
    assert np.abs(turned - before).mean() > 3
    touch("touchStart", (x - 20, y), (x + 20, y))
    for apart in (30, 45, 60, 80):
        touch("touchMove", (x - apart, y), (x + apart, y))
    touch("touchEnd")
    assert covered(pixels(page)) > covered(turned) + 0.05

"""The points and photographs panels in a real browser: drawn, turned, picked, recoloured."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

APP = "tests/browser/apps/points_app.py"


@pytest.fixture
def opened(start_app: Callable[[str], str], page: Page) -> Page:
    page.goto(start_app(APP))
    canvas = page.locator(".panel-points canvas")
    expect(canvas).to_have_attribute("data-drawn", "30000")
    page.wait_for_timeout(400)
    return page


def pixels(page: Page) -> np.ndarray:
    shot = page.locator(".panel-points canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def share(image: np.ndarray, channel: int) -> float:
    """Share of pixels in which one channel clearly leads."""
    others = [c for c in range(3) if c != channel]
    return float((image[..., channel] > image[..., others].max(-1) + 60).mean())


def covered(image: np.ndarray) -> float:
    """Share of pixels that are not the page's background."""
    return float((np.abs(image - image[2, 2]).max(-1) > 24).mean())


def test_points_are_drawn_and_can_be_turned(opened: Page) -> None:
    before = pixels(opened)
    assert covered(before) > 0.1
    assert share(before, 2) > 0.001  # the blue box; the floor has the colour of what is shown
    canvas = opened.locator(".panel-points canvas")
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.mouse.move(x, y)
    opened.mouse.down()
    opened.mouse.move(x + 120, y + 20, steps=4)
    opened.mouse.up()
    opened.wait_for_timeout(500)
    turned = pixels(opened)
    assert np.abs(turned - before).mean() > 3
    opened.mouse.wheel(0, 600)
    opened.wait_for_timeout(500)
    assert covered(pixels(opened)) < 0.7 * covered(turned)


def test_a_click_pins_the_segment_under_it(opened: Page) -> None:
    image = pixels(opened)
    canvas = opened.locator(".panel-points canvas")
    box = canvas.bounding_box()
    assert box is not None
    blue = (image[..., 2] > image[..., :2].max(-1) + 60).nonzero()
    row, column = (int(np.median(axis)) for axis in blue)
    opened.mouse.click(
        box["x"] + column * box["width"] / image.shape[1],
        box["y"] + row * box["height"] / image.shape[0],
    )
    expect(opened.get_by_text("pinned: segments 2")).to_be_visible()


def test_colour_modes_and_photographs_that_ask(opened: Page) -> None:
    opened.locator("button[data-mode=error]").click()
    opened.wait_for_timeout(500)
    assert share(pixels(opened), 0) < 0.01  # every label is right here: all green
    opened.locator("button[data-mode=attention]").click()
    opened.get_by_role("radio", name="2", exact=True).first.click()
    strip = opened.locator(".panel-photos canvas")
    box = strip.bounding_box()
    assert box is not None
    opened.mouse.click(box["x"] + 40, box["y"] + 30)
    expect(opened.get_by_text("pinned: photos", exact=False)).to_be_visible()

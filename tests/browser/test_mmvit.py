"""The MMViT page in a real browser: hover, click, keyboard, the pyramid, dark, a phone, uploads."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from playwright.sync_api import Locator, Page, expect

APP = "app.py"
LONG = 90_000  # ms; the first answer loads torch and the weights


def open_page(page: Page, start_app, query: str = "mmvit_section=between") -> Locator:
    page.goto(f"{start_app(APP)}/mmvit?lang=en&{query}")
    view = page.locator(".view[data-paints]").first
    expect(view).to_be_visible(timeout=LONG)
    return view


def grids(view: Locator) -> Locator:
    return view.locator(".panel-image_grid canvas")


def point(canvas: Locator, x: float, y: float, act: str = "click") -> None:
    box = canvas.bounding_box()
    assert box is not None
    getattr(canvas, act)(position={"x": x * box["width"], "y": y * box["height"]})


def test_a_cell_is_asked_by_pointer_and_by_keyboard(start_app, page):
    view = open_page(page, start_app)
    says = view.locator(".says")
    asking = grids(view).first
    point(asking, 0.45, 0.5, "hover")
    expect(says).to_contain_text("looks most at")
    hovered = says.inner_text()
    point(asking, 0.6, 0.3)
    expect(says).not_to_have_text(hovered)
    page.mouse.move(5, 5)
    expect(says).to_contain_text("looks most at")  # pinned: it stays
    pinned = says.inner_text()
    page.keyboard.press("Escape")
    asking.locator("xpath=ancestor::*[@role='listbox']").focus()
    page.keyboard.press("ArrowRight")
    expect(says).not_to_have_text(pinned)
    expect(says).to_contain_text("View 1, cell")


def test_another_view_and_stage_answer_on_their_own_grids(start_app, page):
    view = open_page(page, start_app)
    says = view.locator(".says")
    point(grids(view).nth(1), 0.5, 0.5)
    expect(says).to_contain_text("View 2, cell")
    page.keyboard.press("Escape")
    view.get_by_role("radio", name="Stage 2").or_(view.get_by_text("Stage 2", exact=True)).click()
    expect(says).to_contain_text("looks most at")


def test_the_whole_pyramid_answers_in_the_stage_that_is_asked(start_app, page):
    open_page(page, start_app, "mmvit_section=pyramid")
    whole = page.locator(".view[data-paints]").nth(1)
    expect(whole).to_be_visible(timeout=LONG)
    expect(whole.get_by_text("Stage 3 · View 2 asks")).to_be_visible()
    point(grids(whole).nth(2), 0.5, 0.5)
    expect(whole.locator(".panel").filter(has_text="is looked at")).to_have_count(2)
    expect(whole.locator(".says")).to_contain_text("looks most at")


@pytest.mark.parametrize("size", [(8, 8), (1600, 80)])
def test_an_odd_upload_is_seen_and_what_was_done_is_told(size, start_app, page):
    page.goto(f"{start_app(APP)}/mmvit?lang=en&mmvit_picture=own&mmvit_crop=whole")
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, "RGBA").save(buffer, "PNG")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "odd.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    said = "only 8 x 8 pixels" if size == (8, 8) else "too long to be seen whole"
    expect(page.get_by_text(said)).to_be_visible(timeout=LONG)
    expect(page.locator(".view[data-paints]").first).to_be_visible(timeout=LONG)


def test_a_sound_is_heard_and_silence_is_refused(start_app, page):
    open_page(page, start_app, "mmvit_section=sound&mmvit_sound=clicks")
    expect(page.locator("audio")).to_be_visible(timeout=LONG)
    spectrogram = page.locator(".view[data-paints]").nth(1)
    point(grids(spectrogram).first, 0.5, 0.5)
    expect(spectrogram.locator(".says")).to_contain_text("looks most at")
    page.locator(".st-key-mmvit_sound").get_by_text("Your own").click()
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16_000), 16_000, format="WAV")
    page.locator("input[type=file]").last.set_input_files(
        {"name": "s.wav", "mimeType": "audio/wav", "buffer": buffer.getvalue()}
    )
    expect(page.get_by_text("The sound is silent")).to_be_visible(timeout=LONG)


def test_what_is_no_picture_is_refused_in_a_sentence(start_app, page):
    page.goto(f"{start_app(APP)}/mmvit?lang=en&mmvit_picture=own")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "<b>evil</b>.png", "mimeType": "image/png", "buffer": b"not a picture"}
    )
    expect(page.get_by_text("That did not work")).to_be_visible(timeout=LONG)


def test_dark_and_on_a_phone(start_app, new_page):
    page = new_page(width=390, height=844, theme="dark")
    view = open_page(page, start_app)
    expect(view).to_have_attribute("data-theme", "dark")
    point(grids(view).first, 0.5, 0.5)
    expect(view.locator(".says")).to_contain_text("looks most at")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

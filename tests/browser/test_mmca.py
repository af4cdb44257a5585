"""The MMCA page in a real browser: hover a word, click a region, exchange a word, dark, phone."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

APP = "app.py"
LONG = 90_000  # ms; the first answer loads torch and the weights


def open_page(page: Page, start_app, query: str = "photo=camera") -> Locator:
    page.goto(f"{start_app(APP)}/mmca?lang=en&{query}")
    view = page.locator(".view[data-paints]").first
    expect(view).to_be_visible(timeout=LONG)
    return view


def says(view: Locator) -> Locator:
    return view.locator(".says")


def test_words_and_regions_answer_each_other(start_app, page):
    view = open_page(page, start_app)
    word = view.get_by_role("option", name="tripod", exact=True)
    word.hover()
    expect(view.locator(".panel-image_grid canvas")).to_be_visible()
    word.click()
    expect(says(view)).to_contain_text("tripod looks most at")
    page.keyboard.press("Escape")
    regions = view.locator(".panel-regions canvas")
    box = regions.bounding_box()
    regions.click(position={"x": 0.3 * box["width"], "y": 0.4 * box["height"]})
    expect(says(view)).to_contain_text("region")
    expect(says(view)).to_contain_text("looks most at")


def test_an_exchanged_word_changes_the_score(start_app, page):
    open_page(page, start_app)
    expect(
        page.get_by_text('in S for "A man in a dark coat looks through a telescope')
    ).to_be_visible(timeout=LONG)
    field = page.get_by_label("for", exact=True)
    field.fill("banana")
    field.press("Enter")
    expect(page.get_by_text("looks through a banana on a tripod").first).to_be_visible(timeout=LONG)


def test_dark_and_on_a_phone(start_app, new_page):
    page = new_page(width=390, height=844, theme="dark")
    view = open_page(page, start_app)
    expect(view.get_by_role("option", name="camera", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

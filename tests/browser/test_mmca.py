"""The MMCA page in a real browser: hover a word, click a region, exchange a word, dark, phone."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from crossfuse.data.images import sample_photo

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
    before = view.get_attribute("data-paints")
    word.hover()
    expect(says(view)).to_contain_text("tripod looks most at")
    assert view.get_attribute("data-paints") != before
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


def test_markup_in_a_sentence_stays_text(start_app, page):
    view = open_page(page, start_app)
    field = page.get_by_label("Sentence (English)")
    field.fill("<img src=x onerror=\"document.title='caught'\"> a man with a camera")
    field.press("Enter")
    word = view.get_by_role("option", name="onerror", exact=True)
    expect(word).to_be_visible(timeout=LONG)
    word.hover()
    assert page.title() != "caught"
    assert page.locator("img[src='x']").count() == 0


def test_uploads_with_broken_ones_among_them(start_app, page):
    page.goto(f"{start_app(APP)}/mmca?lang=en&photo=own&mmca_section=gallery&text=a+cup+of+coffee")
    chooser = page.locator("input[type=file]").first
    chooser.set_input_files(
        [
            {"name": f"cup {i}.png", "mimeType": "image/png", "buffer": content}
            for i, content in enumerate(pictures(6, broken=(1, 4)))
        ]
    )
    expect(page.get_by_text("cup 1.png:")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("cup 4.png:")).to_be_visible(timeout=LONG)
    expect(page.locator(".view[data-paints]").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("was left out").first).to_be_visible(timeout=LONG)
    expect(page.get_by_text("cup 5.png", exact=False).first).to_be_visible(timeout=LONG)


def pictures(count: int, broken: tuple[int, ...]) -> list[bytes]:
    """Small PNG files, each of its own content; those of ``broken`` end too early."""
    files = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(sample_photo("coffee").pixels[:: 8 + number, ::8]).save(buffer, "PNG")
        files.append(buffer.getvalue()[: 200 if number in broken else None])
    return files

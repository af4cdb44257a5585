"""The linked view in a real browser."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

APP = "tests/browser/apps/linked_view_app.py"


def open_case(page: Page, start_app, case: str, extra: str = "") -> Locator:
    page.goto(f"{start_app(APP)}/?case={case}{extra}")
    view = page.locator(".view[data-paints]")
    expect(view).to_be_visible()
    return view


def runs(page: Page) -> str:
    return page.get_by_text("runs: ").inner_text()


def test_hover_lights_the_other_side_without_the_server(start_app, page):
    view = open_case(page, start_app, "sentence")
    expect(view.locator(".says")).to_contain_text("dog looks most at")
    before = runs(page)
    view.get_by_role("option", name="jumps").hover()
    expect(view.locator(".says")).to_contain_text("jumps looks most at")
    assert runs(page) == before


def test_click_pins_and_tells_python(start_app, page):
    view = open_case(page, start_app, "sentence")
    view.get_by_role("option", name="over").click()
    expect(page.get_by_text("pinned: ('tokens', 10)")).to_be_visible()
    expect(view.locator(".pin-state")).to_have_attribute("data-pinned", "true")
    view.get_by_role("option", name="small").hover()
    expect(view.locator(".says")).to_contain_text("over looks at small")
    page.keyboard.press("Escape")
    expect(page.get_by_text("pinned: None")).to_be_visible()

"""The app in a real browser: first sight, links, the language switch, the primer."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

LONG = 60_000  # ms: the first chapter with photographs loads torch and the encoder


def heading(page: Page, words: str) -> None:
    expect(page.get_by_role("heading", level=1, name=words)).to_be_visible(timeout=LONG)


def at_rest(page: Page) -> None:
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=LONG)


def test_a_link_to_a_page_opens_it_within_the_frame(app_url, page):
    page.goto(f"{app_url}/primer")
    heading(page, "How cross-attention works")
    expect(page.get_by_role("link", name="About")).to_be_visible()
    expect(page.get_by_text("EN", exact=True)).to_be_visible()


def test_home_is_alive_at_first_sight(app_url, page):
    page.goto(app_url)
    view = page.locator(".st-key-home_photographs .view[data-paints]")
    expect(view.locator(".says")).to_contain_text("looks most at", timeout=LONG)
    before = view.locator(".says").inner_text()
    view.locator("canvas").first.hover(position={"x": 40, "y": 260})
    expect(view.locator(".says")).not_to_have_text(before)
    for name in ("mmca", "eeg", "mit", "mmvit"):
        expect(page.locator(f".st-key-home_{name} .view[data-paints]")).to_be_attached(timeout=LONG)


def test_the_language_switch_keeps_every_choice(app_url, page):
    page.goto(f"{app_url}/primer?word=red&heads=2&tau=0.5")
    heading(page, "How cross-attention works")
    at_rest(page)
    page.get_by_text("中文", exact=True).click()
    heading(page, "交叉注意力是怎样工作的")
    at_rest(page)
    for part in ("word=red", "heads=2", "tau=0.5", "lang=zh"):
        assert part in page.url
    expect(page.get_by_role("link", name="关于")).to_be_visible()
    expect(page.locator(".katex-mathml", has_text="红色的").first).to_be_attached()


def follow(page: Page, link: str, words: str) -> None:
    page.get_by_role("link", name=link).click()
    heading(page, words)


def test_choices_survive_a_visit_to_another_page(app_url, page):
    page.goto(f"{app_url}/primer?word=grass&hide=sun")
    heading(page, "How cross-attention works")
    # The whole page, not its heading: choices that were never drawn cannot be kept.
    expect(page.locator(".katex-mathml", has_text="grass").first).to_be_attached(timeout=LONG)
    at_rest(page)
    follow(page, "About", "About crossfuse")
    follow(page, "How it works", "How cross-attention works")
    at_rest(page)
    expect(page).to_have_url(re.compile(r"word=grass"))
    expect(page).to_have_url(re.compile(r"hide=sun"))


def test_a_pin_leads_the_steps(app_url, page):
    page.goto(f"{app_url}/primer")
    view = page.locator(".view[data-paints]")
    expect(view).to_be_visible(timeout=LONG)
    at_rest(page)
    view.get_by_role("option", name="grass", exact=True).first.click()
    expect(page).to_have_url(re.compile(r"word=grass"))
    expect(page.locator(".katex-mathml", has_text="grass").first).to_be_attached()


def test_a_face_finds_a_face_and_the_link_remembers(app_url, page):
    page.goto(f"{app_url}/primer?chapter=photos")
    view = page.locator(".view[data-paints]")
    expect(view.locator(".says")).to_contain_text("looks most at", timeout=LONG)
    at_rest(page)
    expect(page).to_have_url(re.compile(r"at=a16\.\d+"))
    view.locator("canvas").first.click(position={"x": 60, "y": 300})
    expect(page).not_to_have_url(re.compile(r"at=a16\.71(&|$)"))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(view.locator(".says")).to_contain_text("looks most at", timeout=LONG)
    assert re.search(r"at=a16\.\d+", page.url)


@pytest.mark.parametrize("chapter", ["steps", "bugs"])
def test_chapters_fit_a_phone_in_the_dark(app_url, new_page, chapter):
    page = new_page(width=390, height=844, theme="dark")
    page.goto(f"{app_url}/primer?chapter={chapter}&lang=zh")
    heading(page, "交叉注意力是怎样工作的")
    at_rest(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_spot_the_bug_counts_the_right_answers(app_url, page):
    page.goto(f"{app_url}/primer?chapter=bugs&bug=axis")
    page.get_by_text("The softmax runs along the wrong axis").first.click(timeout=LONG)
    expect(page.get_by_text("1 of 6 found")).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Five small tests would have caught it")).to_be_visible()

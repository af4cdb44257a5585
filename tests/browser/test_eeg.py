"""The EEG page in a real browser: first view, cells and electrodes, sections, traces, bad channels,
an upload, dark and phone."""

from __future__ import annotations

import io

import numpy as np
from playwright.sync_api import Locator, Page, expect

from crossfuse.data.eeg import simulated

APP = "app.py"
LONG = 180_000  # ms; an upload loads torch and the weights


def open_page(page: Page, start_app, query: str = "") -> Locator:
    page.goto(f"{start_app(APP)}/eeg?lang=en&{query}")
    view = page.locator(".st-key-eeg_relevance .view[data-paints]")
    expect(view).to_be_visible(timeout=LONG)
    return view


def upload(page: Page, start_app, name: str, content: bytes) -> None:
    page.goto(f"{start_app(APP)}/eeg?lang=en&eeg_source=upload")
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.locator("input[type=file]").first.set_input_files(file, timeout=LONG)


def says(view: Locator) -> Locator:
    return view.locator(".says")


def click_at(canvas: Locator, x: float, y: float) -> None:
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": x * box["width"], "y": y * box["height"]})


def test_first_view_then_a_cell_then_an_electrode(start_app, page):
    view = open_page(page, start_app)
    expect(says(view)).to_contain_text("theta, 84 to 87 s: strongest at Fz")
    expect(page.get_by_text("The planted burst is where relevance is highest")).to_be_visible()
    expect(page.get_by_text("Window 84–87 s")).to_be_visible()
    canvas = view.locator(".panel-time_frequency canvas")
    click_at(canvas, 0.35, 0.75)
    expect(page.get_by_text("Window 84–87 s")).not_to_be_visible()
    traces = page.locator(".traces[data-drawn]")
    assert float(traces.get_attribute("data-start") or 0) < 60
    fusion = page.locator(".st-key-eeg_fusion .view[data-paints]")
    expect(fusion.locator(".panel-scalp canvas")).to_have_count(2)
    click_at(fusion.locator(".panel-scalp canvas").first, 0.5, 0.52)
    expect(says(fusion)).to_contain_text("DE asks PSD")
    expect(says(fusion)).to_contain_text("PSD asks DE")


def test_sections(start_app, page):
    open_page(page, start_app, "eeg_section=time")
    expect(page.get_by_text("Extension, not in the paper")).to_be_visible()
    expect(page.locator(".st-key-eeg_time .panel-matrix canvas")).to_have_count(2)
    page.get_by_role("radio", name="The paper's decibels beside ours").click()
    expect(page.locator(".st-key-eeg_scaling .panel-matrix canvas")).to_have_count(3)
    page.get_by_role("radio", name="Before and after fusion").click()
    expect(page.get_by_text("Fusion can only average channels")).to_be_visible()


def test_scrubber_keys_and_a_channel_marked_bad_and_taken_back(start_app, page):
    open_page(page, start_app)
    traces = page.locator(".traces[data-drawn]")
    expect(traces).to_be_visible()
    canvas = traces.locator("canvas.page")
    canvas.focus()
    canvas.press("Home")
    expect(traces).to_have_attribute("data-start", "0.00")
    click_at(traces.locator("canvas.strip"), 0.6, 0.5)
    expect(traces).not_to_have_attribute("data-start", "0.00")
    # The second name of nineteen is Fp2's.
    click_at(canvas, 0.01, 1.5 / 20)
    expect(page.get_by_text("Fp2: interpolated from 18 good channels.")).to_be_visible(timeout=LONG)
    click_at(canvas, 0.01, 1.5 / 20)
    expect(page.get_by_text("Fp2: interpolated from 18 good channels.")).not_to_be_visible(
        timeout=LONG
    )


def test_a_proposal_is_accepted(start_app, page):
    """A channel thirty times as large is proposed; a click has it interpolated."""
    recording = simulated.simulate()
    signal = recording.signal.copy()
    signal[3] *= 30
    stream = io.BytesIO()
    np.savez(stream, signal=signal, rate=recording.rate, names=np.array(recording.names))
    upload(page, start_app, "loud.npz", stream.getvalue())
    pill = page.get_by_role("button", name="F4: ")
    expect(pill).to_contain_text("times the usual amplitude", timeout=LONG)
    pill.click()
    expect(page.get_by_text("F4: interpolated from 18 good channels.")).to_be_visible(timeout=LONG)


def test_garbage_is_told_in_a_sentence(start_app, page):
    upload(page, start_app, "a.edf", b"0       " + b"x" * 40)
    expect(page.get_by_text("ends inside its header")).to_be_visible(timeout=LONG)


def test_dark_and_on_a_phone(start_app, new_page):
    page = new_page(width=390, height=844, theme="dark")
    view = open_page(page, start_app)
    expect(says(view)).to_contain_text("Fz")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

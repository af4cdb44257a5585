"""The primer's chapters: numbers follow the reader, answers are checked, links restore choices."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_pages import open_page

from crossfuse import cost
from crossfuse.ui import text as ui_text
from crossfuse.ui.primer import bugs, tables
from crossfuse.ui.text import LANGUAGES, text


def chapter(name: str, language: str = "en", **choices: str) -> AppTest:
    return open_page("primer", language, chapter=name, **choices)


def formulas(app: AppTest) -> str:
    return "\n".join(element.value for element in app.get("latex"))


def test_formulas_are_filled_and_follow_the_choices() -> None:
    app = chapter("steps", word="red", heads="2", hide="sun.tree")
    assert not app.exception
    assert r"\text{red}" in formulas(app)
    assert r"\sqrt{2}" in formulas(app)
    assert app.session_state["hide"] == ["sun", "tree"]
    app.session_state["tau"] = 0.5
    app.run()
    assert r"0.50\,\sqrt{2}" in formulas(app)


def test_tables_come_from_the_link() -> None:
    numbers = ["0"] * 16
    numbers[8] = "-3"
    app = chapter("steps", x="_".join(numbers))
    assert not app.exception
    assert "-7.50" in formulas(app)
    assert app.query_params["x"] == "_".join(numbers)


@pytest.mark.parametrize("code", ["", "1_2", "a_b", "nan_" * 15 + "nan", "9" * 5000])
def test_broken_table_links_are_ignored(code: str) -> None:
    assert tables.decode(code, (4, 4), 9) is None
    app = chapter("steps", x=code)
    assert not app.exception
    assert "0.456" in formulas(app)


def test_presets_and_the_way_back() -> None:
    app = chapter("steps")
    app.button(key="_preset_hide").click().run()
    assert r"\frac{0}" in formulas(app) or "+ 0 +" in formulas(app)
    assert app.session_state["hide"] == ["ball"]
    app.button(key="_preset_plain").click().run()
    assert not app.session_state["hide"]


def test_hiding_everything_is_told_in_a_sentence() -> None:
    app = chapter("steps", hide="sky.cloud.sun.tree.ball.grass")
    assert not app.exception
    assert any("All cells are hidden" in element.value for element in app.text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_photographs_look_at_each_other(language: str) -> None:
    app = chapter("photos", language)
    assert not app.exception
    assert app.get("bidi_component")
    peaks = {metric.label: float(metric.value.split()[0]) for metric in app.metric}
    assert len(peaks) == 3
    assert min(peaks.values()) > 1


def test_a_blank_photograph_gives_nearly_even_weights() -> None:
    app = chapter("photos", other="blank")
    assert not app.exception
    blank = [float(metric.value.split()[0]) for metric in app.metric]
    app.session_state["other"] = "asis"
    app.run()
    seen = [float(metric.value.split()[0]) for metric in app.metric]
    assert blank[1] < seen[1]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("other", ["asis", "self", "drawing"])
def test_learnt_projections_are_offered_and_measured(other: str, language: str) -> None:
    app = chapter("photos", language, other=other, projections="trained")
    assert not app.exception
    said = "\n".join(element.value for element in app.markdown)
    assert text("primer.way_random", language) in said  # the table of measured figures
    drawn = text("primer.learnt_drawing", language, features="", trained="", chance="")
    assert (drawn[:10] in said) == (other == "drawing")


def test_learning_makes_the_rows_more_peaked() -> None:
    peaks = {
        way: float(chapter("photos", projections=way).metric[1].value.split()[0])
        for way in ("features", "trained")
    }
    assert peaks["trained"] > 2 * peaks["features"]


@pytest.mark.parametrize("name", bugs.NAMES)
def test_each_bug_is_asked_and_explained(name: str) -> None:
    app = chapter("bugs", bug=name)
    assert not app.exception
    wrong = next(other for other in bugs.NAMES if other != name)
    app.radio(key=f"_answer_{name}").set_value(wrong).run()
    assert app.warning
    app.radio(key=f"_answer_{name}").set_value(name).run()
    assert not app.exception
    assert app.success
    assert len(app.code) == 2
    score = text("primer.bugs_score", "en", found=1, total=6)
    assert any(score in element.value for element in app.markdown)


def test_giving_up_earns_no_point() -> None:
    app = chapter("bugs", bug="axis")
    app.button(key="_reveal_axis").click().run()
    assert text("primer.why_axis", "en") in [element.value for element in app.markdown]
    app.radio(key="_answer_axis").set_value("axis").run()
    assert any("0 of 6" in element.value for element in app.markdown)


def test_cost_is_measured_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SIDES", (4, 6))
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    monkeypatch.setattr(cost.measure, "__defaults__", ((4, 6),))
    app = chapter("cost", side="28")
    assert not app.exception
    assert app.metric[0].value == "18.8 MiB"
    app.button(key="_measure").click().run()
    assert not app.exception
    assert app.get("plotly_chart")
    assert any("6 × 6" in element.value for element in app.markdown)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("../../<script>x</script>.png", b"", "empty"),
        ("photo.jpg", b"%PDF-1.7 nothing", "PDF"),
        ("photo.png", b"\x89PNG\r\n\x1a\n\x00\x00", "picture"),
    ],
)
def test_bad_photographs_are_told_in_a_sentence_and_the_page_goes_on(
    name: str, data: bytes, sentence: str
) -> None:
    app = chapter("photos", photo_a="upload")
    assert not app.exception
    app.file_uploader[0].upload(name, data, "image/png").run()
    assert not app.exception
    assert any(sentence in element.value for element in app.text), [e.value for e in app.text]
    assert app.get("bidi_component")  # the last good picture stays


def picture(mode: str, size: tuple[int, int], kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def bomb() -> bytes:
    """The header of a PNG of 100 megapixels, and nothing behind it."""
    data = bytearray(picture("L", (8, 8), "PNG"))
    data[16:24] = struct.pack(">II", 10_000, 10_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


UPLOADS = {  # name: (contents, part of the sentence that refuses it, or None where it works)
    "one pixel.png": (lambda: picture("RGB", (1, 1), "PNG"), None),
    "one line.png": (lambda: picture("RGB", (3000, 1), "PNG"), None),
    "printing.jpg": (lambda: picture("CMYK", (90, 60), "JPEG"), None),
    "deep.png": (lambda: picture("I;16", (90, 60), "PNG"), None),
    "glass.png": (lambda: picture("RGBA", (90, 60), "PNG"), None),
    "another kind.webp": (lambda: picture("RGB", (90, 60), "PNG"), None),
    "<img src=x onerror=alert(1)>.png": (lambda: picture("RGB", (60, 90), "PNG"), None),
    "../../etc/passwd.gif": (
        lambda: picture(
            "L", (64, 48), "GIF", save_all=True, append_images=[Image.new("L", (64, 48))]
        ),
        None,
    ),
    "cut.jpg": (lambda: picture("RGB", (300, 200), "JPEG")[:2000], "damaged"),
    "nothing.png": (lambda: b"", "empty"),
    "hundred megapixels.png": (bomb, "100 megapixels"),
    "array.png": (lambda: b"\x93NUMPY\x01\x00" + bytes(60), "NumPy"),
}


def test_whatever_is_uploaded_works_or_is_refused_in_one_sentence() -> None:
    app = chapter("photos", photo_a="upload")
    for name, (contents, refusal) in UPLOADS.items():
        app.file_uploader[0].upload(name, contents(), "image/png").run()
        assert not app.exception, name
        said = [element.value for element in app.text]
        if refusal is None:
            assert not any("picture" in one or "file" in one for one in said), (name, said)
        else:
            assert sum(refusal in one for one in said) == 1, (name, said)
        assert app.get("bidi_component"), name


def test_a_refusal_is_told_in_the_language_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # AppTest asks for the labels of options outside the session, whose language it cannot know.
    monkeypatch.setattr(ui_text, "current_language", lambda: "zh")
    app = chapter("photos", "zh", photo_a="upload")
    app.file_uploader[0].upload("x.png", b"", "image/png").run()
    assert not app.exception
    assert any("文件是空的" in element.value for element in app.text)


def test_a_photograph_of_ones_own() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((90, 60), 80).convert("RGB").save(buffer, "PNG")
    app = chapter("photos", photo_b="upload")
    app.file_uploader[0].upload("my photo.png", buffer.getvalue(), "image/png").run()
    assert not app.exception
    assert len(app.metric) == 3

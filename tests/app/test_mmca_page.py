"""The MMCA page through Streamlit's test driver."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from crossfuse.data.images import sample_photo
from crossfuse.data.sample_sentences import DISTRACTORS, SENTENCES
from crossfuse.ui.shell import Upload

ROOT = Path(__file__).resolve().parents[2]


def open_page(uploads: dict[str, tuple[Upload, ...]] | None = None, **query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for key, value in (uploads or {}).items():
        app.session_state[f"_uploads_{key}"] = value
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    return app.switch_page(str(ROOT / "pages/mmca.py")).run()


@pytest.fixture(scope="module")
def app() -> AppTest:
    return open_page()


def test_there_is_a_live_example_at_first_sight(app: AppTest) -> None:
    assert not app.exception
    assert [metric.label for metric in app.metric][:3] == ["Match S", "i0 · c0", "i1 · c1"]
    assert app.text_input(key="text").value.startswith("A smiling woman")


def test_a_changed_word_is_told() -> None:
    app = open_page(photo="chelsea")
    assert not app.exception
    told = [m.value for m in app.markdown if "in S for" in m.value]
    assert len(told) == 1
    assert "dog" in told[0]


def test_an_empty_sentence_is_a_sentence_of_ours(app: AppTest) -> None:
    app.text_input(key="text").set_value("   ").run()
    assert not app.exception
    assert any("empty" in text.value for text in app.text)


@pytest.mark.parametrize("section", ["heads", "gallery", "regions", "card"])
def test_every_section_opens(section: str) -> None:
    app = open_page(mmca_section=section, photo="coffee", regions="multiscale", lang="zh")
    assert not app.exception


def test_markup_in_a_sentence_is_text() -> None:
    app = open_page(text="<script>alert(1)</script> a **cat** $x$")
    assert not app.exception


def captions(app: AppTest) -> str:
    return "\n".join(caption.value for caption in app.caption)


@pytest.mark.parametrize(
    ("text", "lang", "note"),
    [
        ("a dog runs on the beach " * 100, "en", "were read"),
        ("🐶🏖️", "en", "vocabulary"),
        ("كلب يجري على الشاطئ", "en", "trained on English"),
        ("一只狗在海滩上跑", "zh", "只用英文句子训练过"),
        ("a quokka flumps the zorblax", "en", ""),
    ],
)
def test_odd_sentences_are_answered_with_a_note(text: str, lang: str, note: str) -> None:
    app = open_page(text=text, lang=lang, photo="coffee")
    assert not app.exception
    assert len(app.metric) == 4
    assert note in captions(app)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.roll(sample_photo("coffee").pixels[::8, ::8], number, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def test_twenty_uploads_two_of_them_broken() -> None:
    files = [picture(number) for number in range(20)]
    files[3], files[11] = b"not a picture", files[11][:200]
    held = tuple(Upload(data, str(i), f"photo {i}.png") for i, data in enumerate(files))
    app = open_page({"mmca": held}, photo="own", text="a cup of coffee", mmca_section="gallery")
    assert not app.exception
    told = "\n".join(text.value for text in app.text)
    assert told.count("photo 3.png:") == 1
    assert told.count("photo 11.png:") == 1
    assert len(app.selectbox(key="mmca_which").options) == 18
    assert captions(app).count("was left out") == 2


def region_file(size: int, shape: tuple[int, int]) -> Upload:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, (36, 2))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=rng.standard_normal((36, size)),
        boxes=np.concatenate([corners, corners + 0.3], 1) * np.tile(shape, 2),
        image_size=np.array(shape),
    )
    return Upload(buffer.getvalue(), str(size), "regions.npz")


def test_regions_from_a_file() -> None:
    rows, columns = sample_photo("coffee").pixels.shape[:2]
    fits = region_file(2048, (columns, rows))
    app = open_page({"mmca_regions": (fits,)}, photo="coffee", regions="file")
    assert not app.exception
    assert "untrained" in captions(app)
    assert len(app.metric) == 4
    empty = open_page(photo="coffee", regions="file")
    assert not empty.exception
    assert any("36 x 2048" in info.value for info in empty.info)
    other = open_page(
        {"mmca_regions": (region_file(2048, (90, 400)),)}, photo="coffee", regions="file"
    )
    assert not other.exception
    assert any("another shape" in text.value for text in other.text)


def test_the_card_shows_where_the_model_fails(app: AppTest) -> None:
    told = [
        m.value for m in open_page(mmca_section="card").markdown if "false sentences" in m.value
    ]
    assert len(told) == 1
    pairs = len(SENTENCES) * (len(DISTRACTORS) + 2)
    assert f"of {pairs} false sentences" in told[0]

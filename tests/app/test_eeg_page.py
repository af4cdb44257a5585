"""The EEG page: an example at first sight, uploads, and errors as sentences."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]


def open_page(**query: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    app.switch_page(str(ROOT / "pages/eeg.py")).run()
    return app


def settle(app: AppTest, views: int) -> AppTest:
    """Run until the page shows so many components, or an error."""
    for _ in range(90):
        if len(app.get("bidi_component")) >= views or app.exception:
            return app
        time.sleep(0.3)
        app.run()
    return app


def test_example_then_upload_then_garbage() -> None:
    app = settle(open_page(), 3)
    assert not app.exception
    assert len(app.get("bidi_component")) == 3
    assert next(metric.label for metric in app.metric).startswith("Windows judged")
    app.query_params["eeg_source"] = "upload"
    app.run()
    assert not app.exception
    assert any("Give a recording" in info.value for info in app.info)
    stream = io.BytesIO()
    signal = 10 * np.random.default_rng(0).normal(size=(3, 128 * 20))
    np.savez(stream, signal=signal, rate=128, names=np.array(["Cz", "Pz", "what"]))
    app.file_uploader[0].upload("small.npz", stream.getvalue(), "application/octet-stream")
    app.run()
    settle(app, 3)
    assert not app.exception
    assert any("absent" in caption.value for caption in app.caption)
    app.file_uploader[0].upload("a.edf", b"0       " + b"x" * 40, "application/octet-stream")
    app.run()
    for _ in range(40):
        if any("ends inside its header" in text.value for text in app.text):
            break
        time.sleep(0.2)
        app.run()
    assert any("ends inside its header" in text.value for text in app.text)
    assert not app.exception

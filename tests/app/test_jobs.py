"""Waiting for the engine on a page: progress, cancelling, errors, the last picture."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from crossfuse.engine import Context, EmbeddedEngine, Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.ui import jobs
from crossfuse.ui.text import page_texts

WAIT = 20.0


class Pipeline:
    """Answers with ``x``; holds at a gate for x = "slow", fails for "bad" and "fault"."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.inside, self.gate = threading.Event(), threading.Event()

    def run(self, request: Request, context: Context) -> Result:
        x = str(request.inputs["x"])
        self.ran.append(x)
        context.stage("waiting", 0.4)
        if x == "slow":
            self.inside.set()
            assert self.gate.wait(WAIT)
            context.stage("going on", 0.8)
        if x == "bad":
            raise CrossfuseError("The photo is empty.")
        if x == "fault":
            raise ZeroDivisionError
        return Result(outputs={"x": x})


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    pipeline = Pipeline()
    engine = EmbeddedEngine(("cpu",), resolve=lambda _: pipeline, fingerprint=lambda m: m)
    monkeypatch.setattr(jobs, "get_engine", lambda: engine)
    monkeypatch.setattr(jobs, "BLINK", 0.0)
    with engine:
        yield pipeline
        pipeline.gate.set()


def page() -> None:
    import streamlit as st

    from crossfuse.engine import Request
    from crossfuse.ui.shell import run_job

    x = st.session_state.get("x", "one")
    result = run_job(Request("m", {"x": x}, page="p"))
    st.text("nothing" if result is None else str(result.outputs["x"]))


def show(app: AppTest, x: str) -> str:
    app.session_state["x"] = x
    app.run()
    assert not app.exception
    return app.text[-1].value


@pytest.fixture
def app(pipeline: Pipeline) -> AppTest:
    return AppTest.from_function(page, default_timeout=WAIT)


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def test_an_answer_is_asked_for_once(app: AppTest, pipeline: Pipeline) -> None:
    assert [show(app, x) for x in ("one", "one", "two")] == ["one", "one", "two"]
    assert pipeline.ran == ["one", "two"]
    assert labels(app) == []


@pytest.mark.parametrize(("x", "sentence"), [("bad", "The photo is empty."), ("fault", None)])
def test_the_last_picture_stays_after_an_error(
    app: AppTest, pipeline: Pipeline, x: str, sentence: str | None
) -> None:
    assert show(app, x) == "nothing"
    assert show(app, "one") == "one"
    for _ in range(2):
        assert show(app, x) == "one"
        assert (sentence in [text.value for text in app.text]) == (sentence is not None)
        assert labels(app) == ["Try again"]
    assert pipeline.ran == [x, "one", x]  # an unchanged question is not asked again by itself
    app.button[0].click().run()
    assert pipeline.ran == [x, "one", x, x]


def test_a_long_job_shows_progress_and_can_be_cancelled(
    app: AppTest, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    class Bar:
        def progress(self, fraction: float, text: str) -> None:
            drawn.append((fraction, text))
            if len(drawn) == 3:
                jobs.asking("p").job.cancel()

    def waiting(job: Any, space: Any, key: str) -> None:
        assert pipeline.inside.wait(WAIT)

        class Row:
            def progress(self, fraction: float, text: str) -> Bar:
                bar = Bar()
                bar.progress(fraction, text)
                return bar

            def button(self, label: str, **settings: Any) -> None:
                drawn.append(label)

        class Space:
            def container(self, **settings: Any) -> Row:
                return Row()

            def empty(self) -> None:
                drawn.append("cleared")

        real(job, Space(), key)

    real = jobs.wait
    assert show(app, "one") == "one"
    monkeypatch.setattr(jobs, "wait", waiting)
    assert show(app, "slow") == "one"
    assert drawn == [(0.0, "Starting"), "Cancel", (0.4, "Waiting"), "cleared"]
    assert labels(app) == ["Try again"]


def test_a_rerun_waits_for_the_same_job(app: AppTest, pipeline: Pipeline) -> None:
    opener = threading.Timer(0, lambda: (pipeline.inside.wait(WAIT), pipeline.gate.set()))
    opener.start()
    job = jobs.get_engine().submit(Request("m", {"x": "slow"}, user="ann"))
    assert show(app, "slow") == "slow"
    assert job.result(WAIT).outputs["x"] == "slow"
    assert pipeline.ran == ["slow"]


def test_sessions_do_not_replace_each_other(app: AppTest, pipeline: Pipeline) -> None:
    asked: list[Request] = []
    engine = jobs.get_engine()
    submit = engine.submit
    engine.submit = lambda request: asked.append(request) or submit(request)  # type: ignore[func-returns-value,method-assign]
    other = AppTest.from_function(page, default_timeout=WAIT)
    assert [show(app, "one"), show(other, "two"), show(app, "three")] == ["one", "two", "three"]
    assert asked[0].user == asked[2].user != asked[1].user
    assert {request.page for request in asked} == {"p"}


def test_stages_have_words_in_both_languages() -> None:
    assert jobs.stage_words("waiting") == "Waiting"
    assert jobs.stage_words("an unknown stage") == "an unknown stage"


def test_every_stage_of_the_pipelines_has_words() -> None:
    pipelines = Path(jobs.__file__).parents[1] / "pipelines"
    sources = "".join(path.read_text(encoding="utf-8") for path in pipelines.glob("*.py"))
    labels = set(re.findall(r'\.stage\(\s*"([^"]+)"', sources))
    assert labels
    missing = {label for label in labels if jobs.stage_key(label) not in page_texts("stages", "en")}
    assert not missing, "add these to assets/texts/*/stages.md"

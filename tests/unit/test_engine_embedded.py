"""The embedded engine, with pipelines that stop where the test says and wait to be let on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from crossfuse.engine import Cancelled, Context, EmbeddedEngine, PipelineError, Request, Result
from crossfuse.engine.embedded import weights_fingerprint
from crossfuse.errors import CrossfuseError

WAIT = 20.0  # seconds until a test that hangs gives up; nothing here waits for time to pass


class Gated:
    """Doubles ``x``. With ``gate`` in its options it stops between its two stages."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def run(self, request: Request, context: Context) -> Result:
        self.ran.append(request.inputs["x"])
        context.stage("first half", 0.25)
        if request.options.get("gate"):
            self.entered.release()
            assert self.gate.acquire(timeout=WAIT)
        context.stage("second half", 0.75)
        return Result(outputs={"y": np.asarray(request.inputs["x"]) * 2})

    def wait_inside(self) -> None:
        assert self.entered.acquire(timeout=WAIT)


class Failing:
    def run(self, request: Request, context: Context) -> Result:
        raise request_errors[str(request.inputs["error"])]


request_errors: dict[str, BaseException] = {
    "ours": CrossfuseError("The photo is 1 x 1 pixels; at least 32 x 32 would work."),
    "fault": ZeroDivisionError("division by zero"),
    "exit": SystemExit(3),
}


def ask(x: Any = 1, user: str = "ann", page: str = "", model: str = "m", **options: Any) -> Request:
    return Request(model, {"x": x}, options, user=user, page=page)


@contextmanager
def engine_of(pipeline: Any, **settings: Any) -> Iterator[EmbeddedEngine]:
    resolve: Callable[[str], Any] = pipeline if callable(pipeline) else lambda _: pipeline
    engine = EmbeddedEngine(
        settings.pop("devices", ("cpu",)), resolve=resolve, fingerprint=lambda m: m, **settings
    )
    with engine:
        yield engine
        for gate in [pipeline.gate] if hasattr(pipeline, "gate") else []:
            gate.release(100)


def test_a_request_is_answered_with_progress_and_timings() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        job = engine.submit(ask(np.arange(3), gate=True))
        pipeline.wait_inside()
        assert job.progress == ("first half", 0.25)
        assert (job.position, job.done()) == (0, False)
        with pytest.raises(TimeoutError):
            job.result(timeout=0)
        pipeline.gate.release()
        result = job.result(WAIT)
        assert result.outputs["y"].tolist() == [0, 2, 4]
        assert job.progress == ("done", 1.0)
        assert set(result.timings) == {"first half", "second half"}


def test_results_are_read_only() -> None:
    with engine_of(Gated()) as engine, pytest.raises(ValueError, match="read-only"):
        engine.run(ask(np.arange(3)), WAIT).outputs["y"][0] = 7


def test_many_threads_get_their_own_answers() -> None:
    wrong: list[int] = []

    def user(name: int) -> None:
        for i in range(25):
            x = np.full(4, name * 1000 + i)
            y = engine.run(ask(x, user=str(name)), WAIT).outputs["y"]
            if not np.array_equal(y, 2 * x):
                wrong.append(name)

    with engine_of(Gated(), devices=("cpu", "cpu"), cache_bytes=256) as engine:
        threads = [threading.Thread(target=user, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        statistics = engine.statistics()
    assert wrong == []
    assert (statistics.done, statistics.failed) == (200, 0)
    assert 0 <= statistics.wait_p50 <= statistics.wait_p95 <= statistics.total_p95


def test_users_take_turns_and_see_their_place() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        engine.submit(ask(0, "ann", gate=True))
        pipeline.wait_inside()
        jobs = [engine.submit(ask(x, user)) for x, user in [(1, "ann"), (2, "ann"), (3, "bob")]]
        assert [job.position for job in jobs] == [1, 3, 2]
        pipeline.gate.release()
        for job in jobs:
            job.result(WAIT)
    assert pipeline.ran == [0, 1, 3, 2]


def test_equal_questions_are_computed_once() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        first = engine.submit(ask(1, "ann", gate=True))
        pipeline.wait_inside()
        second = engine.submit(ask(1, "bob", gate=True))
        assert second.progress == ("first half", 0.25)
        queued = [engine.submit(ask(2, user)) for user in ("ann", "bob")]
        pipeline.gate.release()
        assert first.result(WAIT) is second.result(WAIT)
        assert queued[0].result(WAIT) is queued[1].result(WAIT)
        assert engine.submit(ask(2, "eve")).result(0) is queued[0].result(WAIT)
        statistics = engine.statistics()
    assert pipeline.ran == [1, 2]
    assert (statistics.coalesced, statistics.cached, statistics.done) == (2, 1, 5)


def test_a_newer_request_replaces_the_one_that_waits() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        engine.submit(ask(0, "bob", gate=True))
        pipeline.wait_inside()
        moves = [engine.submit(ask(x, "ann", "slider")) for x in range(1, 6)]
        assert [job.cancelled for job in moves] == [True, True, True, True, False]
        assert moves[-1].position == 1
        pipeline.gate.release()
        assert moves[-1].result(WAIT).outputs["y"] == 10
        with pytest.raises(Cancelled, match="newer"):
            moves[0].result(0)
    assert pipeline.ran == [0, 5]


def test_a_replaced_run_stops_at_its_next_stage() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        old = engine.submit(ask(1, "ann", "p", gate=True))
        pipeline.wait_inside()
        new = engine.submit(ask(2, "ann", "p"))
        with pytest.raises(Cancelled):
            old.result(WAIT)
        pipeline.gate.release()
        assert new.result(WAIT).outputs["y"] == 4
        # The old run was not finished, so nothing of it is kept.
        again = engine.submit(ask(1, "ann", "p", gate=True))
        pipeline.wait_inside()
        pipeline.gate.release()
        assert again.result(WAIT).outputs["y"] == 2
    assert pipeline.ran == [1, 2, 1]


def test_a_replaced_run_goes_on_for_others() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        mine = engine.submit(ask(1, "ann", "p", gate=True))
        pipeline.wait_inside()
        yours = engine.submit(ask(1, "bob", "p", gate=True))
        engine.submit(ask(2, "ann", "p"))
        assert mine.cancelled
        pipeline.gate.release()
        assert yours.result(WAIT).outputs["y"] == 2


def test_asking_again_revives_an_abandoned_run() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        first = engine.submit(ask(3, "ann", gate=True))
        pipeline.wait_inside()
        first.cancel()
        revived = engine.submit(ask(3, "bob", gate=True))
        pipeline.gate.release()
        assert revived.result(WAIT).outputs["y"] == 6
    assert pipeline.ran == [3]


def test_who_asks_between_the_stop_and_its_end_keeps_the_turn() -> None:
    late: list[Any] = []

    class Stopping(Gated):
        def run(self, request: Request, context: Context) -> Result:
            try:
                return super().run(request, context)
            except Cancelled:
                late.append(engine.submit(ask(1, "bob", gate=True)))
                raise

    pipeline = Stopping()
    with engine_of(pipeline) as engine:
        job = engine.submit(ask(1, "ann", gate=True))
        pipeline.wait_inside()
        job.cancel()
        pipeline.gate.release(2)
        pipeline.wait_inside()
        assert late[0].result(WAIT).outputs["y"] == 2
    assert pipeline.ran == [1, 1]


def test_cancelling_what_waits() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        engine.submit(ask(0, gate=True))
        pipeline.wait_inside()
        job = engine.submit(ask(1))
        job.cancel("not needed")
        assert (job.done(), job.cancelled, job.position) == (True, True, 0)
        with pytest.raises(Cancelled, match="not needed"):
            job.result(0)
        pipeline.gate.release()
        engine.run(ask(2), WAIT)
        job.cancel()  # harmless
        assert engine.statistics().cancelled == 1
    assert pipeline.ran == [0, 2]


def test_a_full_queue_is_an_error_and_nothing_else() -> None:
    pipeline = Gated()
    with engine_of(pipeline, capacity=2) as engine:
        engine.submit(ask(0, gate=True))
        pipeline.wait_inside()
        waiting = [engine.submit(ask(x, str(x))) for x in (1, 2)]
        with pytest.raises(CrossfuseError, match="busy"):
            engine.submit(ask(3, "3"))
        pipeline.gate.release()
        assert [job.result(WAIT).outputs["y"] for job in waiting] == [2, 4]
        assert engine.run(ask(3, "3"), WAIT).outputs["y"] == 6


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ("ours", CrossfuseError, "at least 32 x 32"),
        ("fault", PipelineError, "'m' failed with ZeroDivisionError: division by zero"),
        ("exit", PipelineError, "SystemExit"),
    ],
)
def test_errors_reach_the_asker_and_the_engine_goes_on(
    error: str, kind: type[Exception], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipelines = {"m": Failing(), "good": Gated()}
    with engine_of(pipelines.__getitem__) as engine:
        job = engine.submit(Request("m", {"error": error}))
        for _ in range(2):
            with pytest.raises(kind, match=text):
                job.result(WAIT)
        assert engine.run(ask(1, model="good"), WAIT).outputs["y"] == 2
        assert engine.statistics().failed == 1
        with pytest.raises(PipelineError, match="KeyError"):
            engine.run(ask(model="absent"), WAIT)
    assert ("Error: division by zero" in caplog.text) == (error == "fault")


def test_a_pipeline_must_give_a_result() -> None:
    class Wrong:
        def run(self, request: Request, context: Context) -> Any:
            return {"y": 1}

    with engine_of(Wrong()) as engine, pytest.raises(PipelineError, match="dict instead"):
        engine.run(ask(), WAIT)


def test_callbacks_come_once_and_may_use_the_engine() -> None:
    pipeline, called, chained = Gated(), [], []
    with engine_of(pipeline) as engine:
        job = engine.submit(ask(1, gate=True))
        pipeline.wait_inside()
        last = threading.Event()
        job.add_done_callback(lambda done: 1 / 0)
        job.add_done_callback(called.append)
        job.add_done_callback(lambda done: chained.append(engine.submit(ask(2))))
        job.add_done_callback(lambda done: last.set())
        pipeline.gate.release()
        assert last.wait(WAIT)
        assert chained[0].result(WAIT).outputs["y"] == 4
        job.add_done_callback(called.append)
        assert called == [job, job]
        cancelled = engine.submit(ask(5, gate=True))
        cancelled.add_done_callback(called.append)
        cancelled.cancel()
        assert called[-1] is cancelled


def test_the_cache_keeps_to_its_cap_and_forgets_the_oldest() -> None:
    pipeline = Gated()
    with engine_of(pipeline, cache_bytes=200) as engine:
        inputs = [np.full(10, i) for i in range(3)]  # 80 bytes an answer: two fit
        for x in (inputs[0], inputs[1], inputs[0], inputs[2], inputs[0], inputs[1]):
            engine.run(ask(x), WAIT)
            assert engine.statistics().cache_bytes <= 200
        engine.run(ask(np.zeros(1000)), WAIT)
        assert engine.statistics().cache_bytes == 160
    assert [int(x[0]) for x in pipeline.ran] == [0, 1, 2, 1, 0]


def test_new_weights_mean_new_answers() -> None:
    pipeline, version = Gated(), ["a"]
    for _ in range(2):
        engine = EmbeddedEngine(
            ("cpu",), resolve=lambda _: pipeline, fingerprint=lambda _: version[0]
        )
        with engine:
            keys = [engine.submit(ask(1)).key, engine.submit(ask(1)).key]
        assert keys[0] == keys[1]
        assert keys[0].startswith(version[0])
        version[0] = "b"


def test_models_are_kept_under_their_budget() -> None:
    built: list[str] = []

    class Loading:
        def run(self, request: Request, context: Context) -> Result:
            name = str(request.inputs["x"])

            def build() -> np.ndarray:
                built.append(name)
                return np.zeros(100, np.uint8)

            table = context.resource(name, build)
            return Result(outputs={"size": table.nbytes})

    with engine_of(Loading(), model_bytes=200, cache_bytes=0) as engine:
        for name in ("a", "b", "a", "c", "a", "b"):
            engine.run(ask(name), WAIT)
            assert engine.statistics().model_bytes <= 200
    assert built == ["a", "b", "c", "b"]


def test_warm_up_loads_in_the_background() -> None:
    loading, go_on = threading.Event(), threading.Event()

    class Warm(Gated):
        def warm_up(self, context: Context) -> None:
            loading.set()
            assert go_on.wait(WAIT)
            context.resource("table", lambda: np.zeros(64, np.uint8))

    with engine_of(Warm()) as engine:
        state = engine.warm_up("m")
        assert loading.wait(WAIT)
        assert state.device is not None
        assert (state.done, state.device[:3]) == (False, "CPU")
        go_on.set()
        assert state.wait(WAIT)
        assert (state.done, state.error) == (True, None)
        assert engine.statistics().model_bytes == 64


def test_a_failed_warm_up_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with engine_of({}.__getitem__) as engine:
        state = engine.warm_up("absent")
        assert state.wait(WAIT)
        assert isinstance(state.error, KeyError)
    assert "warm-up of 'absent' failed" in caplog.text


def test_closing_ends_everything() -> None:
    pipeline = Gated()
    with engine_of(pipeline) as engine:
        running = engine.submit(ask(0, gate=True))
        pipeline.wait_inside()
        waiting = engine.submit(ask(1))
        closing = threading.Thread(target=engine.close)
        closing.start()
        for job in (running, waiting):
            with pytest.raises(Cancelled, match="closed"):
                job.result(WAIT)
        pipeline.gate.release()
        closing.join(WAIT)
        assert not closing.is_alive()
        with pytest.raises(CrossfuseError, match="closed"):
            engine.submit(ask(2))


def test_the_registry_names_pipelines_and_weights() -> None:
    fingerprint = weights_fingerprint("feature_map")
    assert fingerprint == weights_fingerprint("feature_map")
    with EmbeddedEngine(("cpu",)) as engine, pytest.raises(CrossfuseError, match="no model 'x'"):
        engine.submit(Request("x"))


def test_devices_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("CROSSFUSE_DEVICE", "cpu")
    assert EmbeddedEngine().devices == ("cpu",)
    monkeypatch.setenv("CROSSFUSE_DEVICE", "cuda:1")
    assert EmbeddedEngine().devices == ("cuda:1",)
    monkeypatch.setenv("CROSSFUSE_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert EmbeddedEngine().devices == ("cuda:0", "cuda:1")

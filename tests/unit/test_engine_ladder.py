"""Batches, and what happens when memory runs out."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crossfuse.engine import Cancelled, Context, EmbeddedEngine, Request, Result, resources
from crossfuse.engine.ladder import ON_CPU
from crossfuse.engine.resources import available_cores, available_memory, is_out_of_memory
from crossfuse.errors import CrossfuseError

WAIT = 20.0


class Batching:
    """Doubles ``x``; can take ``room`` requests at once on each device. Waits behind request 0."""

    def __init__(self, **room: int) -> None:
        self.room = {"cpu": 8} | room
        self.calls: list[tuple[str, list[int]]] = []
        self.entered, self.gate = threading.Event(), threading.Event()

    def run(self, request: Request, context: Context) -> Result:
        if request.model == "blocker":
            self.entered.set()
            assert self.gate.wait(WAIT)
            return Result()
        return self._double([request], context)[0]

    def run_batch(self, requests: Sequence[Request], context: Context) -> list[Any]:
        return self._double(requests, context)

    def _double(self, requests: Sequence[Request], context: Context) -> list[Any]:
        values = [int(request.inputs["x"][0]) for request in requests]
        self.calls.append((context.device, values))
        context.stage("doubling", 0.5)
        if len(requests) > self.room[context.device]:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return [Result(outputs={"y": 2 * value}) for value in values]


def ask(x: int, size: int = 1, **options: Any) -> Request:
    return Request("m", {"x": np.full(size, x)}, options, user=str(x))


def outcomes(pipeline: Any, requests: list[Request], device: str = "cpu", **settings: Any) -> list:
    """Submit everything while the worker is busy, then let it go on."""
    engine = EmbeddedEngine(
        (device,), resolve=lambda _: pipeline, fingerprint=lambda m: m, **settings
    )
    with engine:
        engine.submit(Request("blocker", user="blocker"))
        assert pipeline.entered.wait(WAIT)
        jobs = [engine.submit(request) for request in requests]
        pipeline.gate.set()
        found = [job.exception(WAIT) or job.result(WAIT) for job in jobs]
        pipeline.batched = engine.statistics().batched
    return found


def answers(found: list) -> list[int]:
    return [one.outputs["y"] for one in found]


def test_same_shapes_are_answered_together() -> None:
    pipeline = Batching()
    found = outcomes(pipeline, [ask(1), ask(2), ask(3, size=2), ask(4), ask(5, k=1)])
    assert answers(found) == [2, 4, 6, 8, 10]
    assert pipeline.calls == [("cpu", [1, 2, 4]), ("cpu", [3]), ("cpu", [5])]
    assert pipeline.batched == 3


def test_a_batch_has_its_limit() -> None:
    pipeline = Batching()
    assert answers(outcomes(pipeline, [ask(x) for x in range(1, 6)], max_batch=2)) == [
        2,
        4,
        6,
        8,
        10,
    ]
    assert [values for _, values in pipeline.calls] == [[1, 2], [3, 4], [5]]


def test_too_little_memory_means_smaller_batches() -> None:
    pipeline = Batching(cpu=2)
    assert answers(outcomes(pipeline, [ask(x) for x in range(1, 6)])) == [2, 4, 6, 8, 10]
    sizes = [len(values) for _, values in pipeline.calls]
    assert sizes == [5, 3, 2, 1, 2]


def test_then_the_cpu_and_a_note_of_it() -> None:
    pipeline = Batching(cuda=0)
    found = outcomes(pipeline, [ask(1), ask(2)], device="cuda")
    assert answers(found) == [2, 4]
    assert all(one.notes == (ON_CPU,) for one in found)
    assert [(device, len(v)) for device, v in pipeline.calls] == [
        ("cuda", 2),
        *[("cuda", 1), ("cpu", 1)] * 2,
    ]


def test_then_a_clear_error() -> None:
    pipeline = Batching(cuda=0, cpu=0)
    (error,) = outcomes(pipeline, [ask(1)], device="cuda")
    assert isinstance(error, CrossfuseError)
    assert "too little memory for this request to 'm'" in str(error)


def test_idle_models_make_room_first() -> None:
    class Crowded(Batching):
        def _double(self, requests: Sequence[Request], context: Context) -> list[Any]:
            if context._store.keys():
                self.calls.append(("full", []))
                raise MemoryError
            return super()._double(requests, context)

    pipeline = Crowded()
    engine = EmbeddedEngine(("cpu",), resolve=lambda _: pipeline, fingerprint=lambda m: m)
    with engine:
        with Context("cpu", store=engine.store) as context:
            context.resource("idle", lambda: np.zeros(10))
        assert engine.run(ask(1), WAIT).outputs["y"] == 2
    assert [where for where, _ in pipeline.calls] == ["full", "cpu"]


def test_one_bad_item_does_not_fail_its_batch() -> None:
    class Picky(Batching):
        def _double(self, requests: Sequence[Request], context: Context) -> list[Any]:
            if any(int(request.inputs["x"][0]) == 2 for request in requests):
                raise CrossfuseError("two is not welcome")
            return super()._double(requests, context)

    found = outcomes(Picky(), [ask(x) for x in (1, 2, 3, 4)])
    assert answers([found[0], *found[2:]]) == [2, 6, 8]
    assert isinstance(found[1], CrossfuseError)


def test_a_batch_may_answer_with_errors() -> None:
    class Mixed(Batching):
        def run_batch(self, requests: Sequence[Request], context: Context) -> list[Any]:
            good = super().run_batch(requests, context)
            return [CrossfuseError("bad"), *good[1:]]

    found = outcomes(Mixed(), [ask(1), ask(2)])
    assert str(found[0]) == "bad"
    assert found[1].outputs["y"] == 4


def test_a_batch_of_the_wrong_length_is_run_alone() -> None:
    class Short(Batching):
        def run_batch(self, requests: Sequence[Request], context: Context) -> list[Any]:
            return super().run_batch(requests, context)[:-1]

    assert answers(outcomes(Short(), [ask(1), ask(2)])) == [2, 4]


def test_a_batch_stops_only_when_nobody_waits() -> None:
    class Slow(Batching):
        def run_batch(self, requests: Sequence[Request], context: Context) -> list[Any]:
            for job in self.leaving:
                job.cancel()
            return super().run_batch(requests, context)

    for leaving in (1, 2):
        pipeline = Slow()
        engine = EmbeddedEngine(("cpu",), resolve=lambda _, p=pipeline: p, fingerprint=lambda m: m)
        with engine:
            engine.submit(Request("blocker", user="blocker"))
            assert pipeline.entered.wait(WAIT)
            jobs = [engine.submit(ask(1)), engine.submit(ask(2))]
            pipeline.leaving = jobs[:leaving]
            pipeline.gate.set()
            errors = [job.exception(WAIT) for job in jobs]
        assert [isinstance(error, Cancelled) for error in errors] == [True, leaving == 2]


def test_a_failed_run_lets_go_of_its_arrays() -> None:
    kept: list[weakref.ref] = []

    class Big:
        def run(self, request: Request, context: Context) -> Result:
            array = np.zeros(1000)
            kept.append(weakref.ref(array))
            try:
                raise KeyError("inner")
            except KeyError:
                raise MemoryError from None

    pipeline = Big()
    with EmbeddedEngine(("cpu",), resolve=lambda _: pipeline, fingerprint=lambda m: m) as engine:
        error = engine.submit(ask(1)).exception(WAIT)
        assert isinstance(error, CrossfuseError)
        gc.collect()
        assert [ref() for ref in kept] == [None]


def test_out_of_memory_in_all_its_forms() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_container_has_its_own_limits(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    free = available_cores(), available_memory()
    assert min(free) >= 1
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert (available_cores(), available_memory()) == (1, 1_000_000)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (available_cores(), available_memory()) == free


def test_threads_are_as_many_as_cores_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cores", lambda: 8)
    monkeypatch.setattr(resources.os, "cpu_count", lambda: 16)
    found = {}
    for load in (0.0, 4.0, 15.0, 40.0):
        monkeypatch.setattr(resources.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        found[load] = resources.idle_cores()
    assert found == {0.0: 8, 4.0: 6, 15.0: 1, 40.0: 1}

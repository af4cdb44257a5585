from __future__ import annotations

import threading

import numpy as np
import pytest

from crossfuse.engine import Cancelled, Context
from crossfuse.engine.store import Store, memory_of


class Holder:
    pass


def kilobyte() -> np.ndarray:
    return np.zeros(1024, np.uint8)


def test_a_context_alone_builds_once_and_reports_to_nobody() -> None:
    built = []
    context = Context("cpu")
    for _ in range(3):
        context.stage("reading", 0.1)
        assert context.resource("table", lambda: built.append(1) or "made") == "made"
    context.stage("computing", 0.5)
    context.close()
    assert built == [1]
    assert set(context.timings) == {"reading", "computing"}


def test_stages_report_and_stop_when_cancelled() -> None:
    seen, reason = [], [""]
    context = Context(
        "cpu", report=lambda label, at: seen.append((label, at)), cancelled=lambda: reason[0]
    )
    context.stage("one", 0.25)
    context.stage("two", 7)
    reason[0] = "replaced"
    with pytest.raises(Cancelled, match="replaced"):
        context.stage("three", 0.9)
    assert seen == [("one", 0.25), ("two", 1.0)]


def test_modules_are_settled_for_sharing() -> None:
    torch = pytest.importorskip("torch")
    layer = Context("cpu").resource("layer", lambda: torch.nn.Linear(2, 2).train())
    assert not layer.training
    assert not layer.weight.requires_grad


def test_the_least_recently_used_goes_first() -> None:
    store, holder = Store(budget=2048), Holder()
    for key in "ab":
        store.take(key, kilobyte, holder)
    store.release(holder)
    store.take("a", kilobyte, holder)  # now b is the older one
    store.take("c", kilobyte, holder)
    assert store.keys() == ("a", "c")


def test_what_is_held_is_never_evicted() -> None:
    store, reader, other = Store(budget=1024), Holder(), Holder()
    first = store.take("a", kilobyte, reader)
    store.take("b", kilobyte, other)
    assert store.keys() == ("a", "b")
    assert store.take("a", kilobyte, other) is first
    store.release(other)
    assert store.keys() == ("a",)
    assert store.nbytes == 1024


def test_drop_unused_keeps_what_is_held() -> None:
    store, reader, other = Store(), Holder(), Holder()
    store.take("a", kilobyte, reader)
    store.take("b", kilobyte, other)
    store.release(other)
    assert store.drop_unused() == 1024
    assert store.keys() == ("a",)


def test_two_threads_build_one_thing_once() -> None:
    store, built = Store(), []
    inside, go_on = threading.Event(), threading.Event()

    def build() -> object:
        built.append(1)
        inside.set()
        assert go_on.wait(10)
        return object()

    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(store.take("k", build, Holder())))
        for _ in range(4)
    ]
    threads[0].start()
    assert inside.wait(10)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(built) == 1
    assert len(got) == 4
    assert len(set(map(id, got))) == 1


def test_a_failed_build_leaves_nothing_behind() -> None:
    store, holder = Store(), Holder()
    with pytest.raises(OSError, match="disk"):
        store.take("k", lambda: (_ for _ in ()).throw(OSError("disk")), holder)
    assert store.take("k", lambda: 5, holder) == 5


def test_memory_is_counted_through_wrappers() -> None:
    torch = pytest.importorskip("torch")

    class Encoder:
        def __init__(self) -> None:
            self.net = torch.nn.Linear(10, 10, bias=False)
            self.mean = np.zeros(3, np.float32)
            self.names = ["ab", "cd"]

    class Session:
        memory_bytes = 77

    assert memory_of(Encoder()) == 400 + 12 + 4
    assert memory_of(Session()) == 77

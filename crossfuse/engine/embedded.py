"""The default engine: worker threads inside this process, one for each device."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from crossfuse.engine.cache import ResultCache
from crossfuse.engine.context import Cancelled, Context
from crossfuse.engine.fair_queue import FairQueue
from crossfuse.engine.interface import Engine, Job, Statistics, WarmUp, call_back, failure
from crossfuse.engine.ladder import answer
from crossfuse.engine.messages import Request, Result, content_digest
from crossfuse.engine.resources import available_memory, device_title, idle_cores
from crossfuse.engine.store import Store
from crossfuse.errors import CrossfuseError

log = logging.getLogger(__name__)
SUPERSEDED = "replaced by a newer request of this page"


@dataclass(eq=False)
class Run:
    """One computation and the jobs that wait for it (guarded by the engine's lock)."""

    request: Request
    key: str
    jobs: list[Job]


class EmbeddedEngine(Engine):
    """Runs pipelines on worker threads of this process.

    Args:
        devices: torch device names, one worker each; None: every CUDA device, else the best one.
        resolve: model name -> pipeline module, with ``run(request, context) -> Result`` and, where
            same-shaped requests are faster together, ``run_batch(requests, context)`` that returns
            a Result or an Exception for each request. It may have ``warm_up(context)``.
        fingerprint: model name -> text that changes with its weights; part of the cache's key.
        capacity, capacity_per_user: most requests that may wait.
        max_batch: most requests in one ``run_batch``.
        model_bytes, cache_bytes: budgets; None: a quarter and a sixteenth of the machine's memory,
            at most 4 GiB and 512 MiB.
        threads: torch threads of each worker; None: the cores that are idle, shared out.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        *,
        resolve: Callable[[str], Any] | None = None,
        fingerprint: Callable[[str], str] | None = None,
        capacity: int = 64,
        capacity_per_user: int = 16,
        max_batch: int = 8,
        model_bytes: int | None = None,
        cache_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        memory = available_memory()
        self.store = Store(min(memory // 4, 4 << 30) if model_bytes is None else model_bytes)
        self._cache = ResultCache(
            min(memory // 16, 512 << 20) if cache_bytes is None else cache_bytes
        )
        self._resolve = resolve or registered_pipeline
        self._fingerprint = fingerprint or weights_fingerprint
        self._fingerprints: dict[str, str] = {}
        self._queue = FairQueue(capacity, capacity_per_user)
        self._max_batch = max_batch
        self._threads = threads
        self._devices = None if devices is None else tuple(devices)
        # One lock for everything below; notified when a job arrives or the engine closes.
        self._changed = threading.Condition(threading.RLock())
        self._running: dict[str, Run] = {}
        self._workers: list[threading.Thread] = []
        self._closed = False
        self._counts: Counter[str] = Counter()
        self._waits: deque[float] = deque(maxlen=4096)
        self._totals: deque[float] = deque(maxlen=4096)
        self._to_call: deque[tuple[Job, list[Callable[[Job], object]]]] = deque()

    def submit(self, request: Request) -> Job:
        if request.model not in self._fingerprints:
            self._fingerprints[request.model] = self._fingerprint(request.model)
        key = f"{self._fingerprints[request.model]}:{request.digest}"
        job = Job(request, key, self._position, self._cancel)
        with self._changed:
            if self._closed:
                raise CrossfuseError("The engine has been closed; start the app again.")
            cached, run = self._cache.get(key), self._running.get(key)
            if cached is not None:
                self._counts["cached"] += 1
                self._supersede(job)
                self._finish(job, cached)
            elif run is not None:
                self._counts["coalesced"] += 1
                self._attach(run, job)
                self._supersede(job)
            else:
                older = self._queue.push(job)
                if older is not None:
                    self._finish(older, Cancelled(SUPERSEDED))
                self._supersede(job)
                if not self._workers:
                    self._start_worker(0)
                self._changed.notify()
        self._call_back()
        return job

    def warm_up(self, model: str | None = None) -> WarmUp:
        state = WarmUp()
        threading.Thread(
            target=self._warm_up, args=(model, state), name="engine-warm-up", daemon=True
        ).start()
        return state

    @property
    def devices(self) -> tuple[str, ...]:
        if self._devices is None:
            import torch

            from crossfuse.device import best_device

            best = best_device()
            every = best.type == "cuda" and best.index is None
            count = torch.cuda.device_count() if every else 0
            self._devices = tuple(f"cuda:{i}" for i in range(count)) or (str(best),)
        return self._devices

    def statistics(self) -> Statistics:
        with self._changed:
            return Statistics(
                waiting=len(self._queue),
                running=len(self._running),
                done=self._counts["done"],
                failed=self._counts["failed"],
                cancelled=self._counts["cancelled"],
                cached=self._counts["cached"],
                coalesced=self._counts["coalesced"],
                batched=self._counts["batched"],
                wait_p50=_quantile(self._waits, 0.50),
                wait_p95=_quantile(self._waits, 0.95),
                total_p50=_quantile(self._totals, 0.50),
                total_p95=_quantile(self._totals, 0.95),
                model_bytes=self.store.nbytes,
                cache_bytes=self._cache.nbytes,
            )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            waiting = [*self._queue, *(job for run in self._running.values() for job in run.jobs)]
            self._changed.notify_all()
        for job in waiting:
            self._cancel(job, "the engine was closed")
        for worker in self._workers:
            worker.join()

    # Called by jobs, on any thread.

    def _position(self, job: Job) -> int:
        with self._changed:
            return self._queue.position(job)

    def _cancel(self, job: Job, reason: str) -> None:
        with self._changed:
            self._queue.remove(job)
            for run in self._running.values():
                if job in run.jobs:
                    run.jobs.remove(job)
            self._finish(job, Cancelled(reason))
        self._call_back()

    # The lock is held.

    def _supersede(self, newer: Job) -> None:
        """End the older jobs of this user and page; what nobody else wants stops by itself."""
        if not newer.request.page:
            return

        def older(job: Job) -> bool:
            request, by = job.request, newer.request
            return job is not newer and (request.user, request.page) == (by.user, by.page)

        for job in self._queue.take(older):
            self._finish(job, Cancelled(SUPERSEDED))
        for run in self._running.values():
            for job in filter(older, tuple(run.jobs)):
                run.jobs.remove(job)
                self._finish(job, Cancelled(SUPERSEDED))

    def _attach(self, run: Run, job: Job) -> None:
        job.started = time.perf_counter()
        self._waits.append(job.started - job.submitted)
        if run.jobs:
            job.report(*run.jobs[0].progress)
        run.jobs.append(job)

    def _begin(self, first: Job) -> Run:
        """Make a run of a job that has left the queue, with all that ask the same."""
        run = Run(first.request, first.key, [])
        self._running[run.key] = run
        same = self._queue.take(lambda job: job.key == run.key)
        self._counts["coalesced"] += len(same)
        for job in (first, *same):
            self._attach(run, job)
        return run

    def _finish(self, job: Job, outcome: Result | Exception) -> None:
        callbacks = job.finish(outcome)
        if callbacks is None:
            return
        self._to_call.append((job, callbacks))
        if isinstance(outcome, Result):
            self._counts["done"] += 1
            self._totals.append(time.perf_counter() - job.submitted)
        else:
            self._counts["cancelled" if isinstance(outcome, Cancelled) else "failed"] += 1

    def _start_worker(self, index: int) -> None:
        thread = threading.Thread(
            target=self._work, args=(index,), name=f"engine-{index}", daemon=True
        )
        self._workers.append(thread)
        thread.start()

    # The lock is not held.

    def _call_back(self) -> None:
        # Foreign code runs without our lock; whichever thread comes first calls it.
        while self._to_call:
            try:
                call = self._to_call.popleft()
            except IndexError:
                return
            call_back(*call)

    def _warm_up(self, model: str | None, state: WarmUp) -> None:
        try:
            state.device = device_title(self.devices[0])
            self._share_cores()
            if model is not None:
                pipeline = self._resolve(model)
                with Context(self.devices[0], store=self.store) as context:
                    if hasattr(pipeline, "warm_up"):
                        pipeline.warm_up(context)
                    else:
                        context.model(model)
        except Exception as error:
            # The first request meets the same fault and reports it to whoever asked.
            log.exception("the warm-up of %r failed", model)
            state.end(error.with_traceback(None))
        else:
            state.end()

    def _share_cores(self) -> None:
        torch = sys.modules.get("torch")
        if torch is not None:
            share = self._threads or max(1, idle_cores() // len(self.devices))
            if torch.get_num_threads() != share:
                torch.set_num_threads(share)

    # On a worker's thread.

    def _work(self, index: int) -> None:
        # Asking torch for its devices takes seconds the first time, so it is done here.
        if index == 0:
            with self._changed:
                for other in range(1, len(self.devices)):
                    self._start_worker(other)
        device = self.devices[index]
        while True:
            with self._changed:
                while not len(self._queue) and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                run = self._begin(self._queue.pop())
            try:
                pipeline = self._resolve(run.request.model)
            except Exception as error:
                self._conclude(run, failure(run.request.model, error))
                continue
            self._share_cores()
            self._compute(pipeline, self._batch(run, pipeline), device)

    def _batch(self, first: Run, pipeline: Any) -> list[Run]:
        """The run and, where the pipeline takes batches, waiting ones of the same shape."""
        runs = [first]
        if hasattr(pipeline, "run_batch"):
            with self._changed:
                shape = first.request.shape
                while len(runs) < self._max_batch:
                    more = self._queue.take(lambda job: job.request.shape == shape, limit=1)
                    if not more:
                        break
                    runs.append(self._begin(more[0]))
        return runs

    def _compute(self, pipeline: Any, runs: list[Run], device: str) -> None:
        """Answer the runs: together, or in halves where that failed."""
        requests = [run.request for run in runs]
        outcomes = answer(pipeline, requests, device, self.store, partial(self._context, runs))
        if outcomes is not None:
            self._counts["batched"] += len(runs) if len(runs) > 1 else 0
            for run, outcome in zip(runs, outcomes, strict=True):
                self._conclude(run, outcome)
            return
        part = (len(runs) + 1) // 2
        for start in range(0, len(runs), part):
            self._compute(pipeline, runs[start : start + part], device)

    def _context(self, runs: list[Run], device: str) -> Context:
        def report(label: str, fraction: float) -> None:
            with self._changed:
                for run in runs:
                    for job in run.jobs:
                        job.report(label, fraction)

        def cancelled() -> str:
            with self._changed:
                return "" if any(run.jobs for run in runs) else "nobody waits for this any more"

        return Context(device, store=self.store, report=report, cancelled=cancelled)

    def _conclude(self, run: Run, outcome: Result | Exception) -> None:
        with self._changed:
            del self._running[run.key]
            if isinstance(outcome, Result):
                self._cache.put(run.key, outcome)
            if isinstance(outcome, Cancelled) and not self._closed:
                # Somebody may have asked the same between the stop and now: their turn stays.
                for job in reversed(run.jobs):
                    job.report("waiting", 0.0)
                    self._queue.push_front(job)
                self._changed.notify()
            else:
                for job in run.jobs:
                    self._finish(job, outcome)
        self._call_back()


def registered_pipeline(model: str) -> Any:
    """The module that the registry names as the pipeline of a model."""
    from crossfuse import registry

    return registry.entry(model).pipeline_module()


def weights_fingerprint(model: str) -> str:
    """A text that changes with any of the model's registered weights."""
    from crossfuse import registry, weights

    present = weights.names()
    names = [name for name in registry.entry(model).weights if name in present]
    return content_digest({name: weights.card(name)["sha256"] for name in names})


def _quantile(values: deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

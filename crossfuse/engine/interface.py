"""The one interface pages and the command line use, whatever computes behind it."""

from __future__ import annotations

import copy
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from crossfuse.engine.context import Cancelled
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError

log = logging.getLogger(__name__)


class PipelineError(RuntimeError):
    """A pipeline failed in a way that is not the user's doing; the log has its traceback."""


@dataclass(frozen=True)
class Statistics:
    """What an engine has done since it started. Times in seconds, over the last 4096 jobs."""

    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    cached: int
    coalesced: int
    batched: int
    wait_p50: float
    wait_p95: float
    total_p50: float
    total_p95: float
    model_bytes: int
    cache_bytes: int


class Job:
    """The future answer to one request. All methods may be called from any thread."""

    def __init__(
        self,
        request: Request,
        key: str,
        position: Callable[[Job], int],
        cancel: Callable[[Job, str], None],
    ) -> None:
        self.request = request
        self.key = key  # equal for requests with the same answer
        self.submitted = time.perf_counter()
        self.started: float | None = None
        self.finished: float | None = None
        self._position = position
        self._cancel = cancel
        self._progress = ("waiting", 0.0)
        self._result: Result | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._callbacks: list[Callable[[Job], object]] = []

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the answer.

        Raises:
            TimeoutError: no answer within ``timeout`` seconds; the job goes on.
            Cancelled: it was cancelled, or replaced by a newer request of the same user and page.
            CrossfuseError: bad input, or too little memory; ``str()`` is for the user.
            PipelineError: a fault in the pipeline, whose traceback is in the log.
        """
        error = self.exception(timeout)
        if error is not None:
            # A copy each time: raising one object on several threads would mix their tracebacks.
            raise copy.copy(error)
        assert self._result is not None
        return self._result

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What :meth:`result` would raise, or None; waits like it."""
        if not self.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        return self._error

    def done(self) -> bool:
        """True once there is an answer or an error."""
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until done; False if ``timeout`` seconds were not enough."""
        return self._done.wait(timeout)

    @property
    def progress(self) -> tuple[str, float]:
        """What happens now, and how much of the whole is done (0..1)."""
        return self._progress

    @property
    def position(self) -> int:
        """How many turns until this job starts: 1 is next, 0 is running or done."""
        return self._position(self)

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop waiting. A run stops at its next stage unless somebody else waits for it too."""
        self._cancel(self, reason)

    @property
    def cancelled(self) -> bool:
        return isinstance(self._error, Cancelled)

    def add_done_callback(self, callback: Callable[[Job], object]) -> None:
        """Call ``callback(job)`` once done, on the finishing thread; at once if done already."""
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        call_back(self, [callback])

    # For engines only.

    def report(self, label: str, fraction: float) -> None:
        self._progress = (label, fraction)

    def finish(self, outcome: Result | Exception) -> list[Callable[[Job], object]] | None:
        """Set the outcome; returns the callbacks to call, or None if there was an outcome before.

        The engine calls them (:func:`call_back`) once it holds no lock.
        """
        with self._lock:
            if self._done.is_set():
                return None
            if isinstance(outcome, Result):
                self._result = outcome
                self._progress = ("done", 1.0)
            else:
                self._error = outcome
            self.finished = time.perf_counter()
            callbacks, self._callbacks = self._callbacks, []
            self._done.set()
        return callbacks


def call_back(job: Job, callbacks: list[Callable[[Job], object]]) -> None:
    """Call each; one that fails is logged and does not stop the others."""
    for callback in callbacks:
        try:
            callback(job)
        except Exception:
            log.exception("a callback of a finished job failed")


class WarmUp:
    """What a warm-up has reached. ``device``: the name of the first device, once known."""

    def __init__(self) -> None:
        self.device: str | None = None
        self.error: Exception | None = None
        self._done = threading.Event()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if ``timeout`` seconds were not enough."""
        return self._done.wait(timeout)

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self._done.set()


class Engine(ABC):
    """Takes requests, gives jobs. Safe to share between all sessions of a process."""

    @abstractmethod
    def submit(self, request: Request) -> Job:
        """Queue a request.

        Raises:
            CrossfuseError: the model is unknown, the queue is full, or the engine is closed.
        """

    @abstractmethod
    def warm_up(self, model: str | None = None) -> WarmUp:
        """Load torch and what the first request to ``model`` needs, in the background."""

    @property
    @abstractmethod
    def devices(self) -> tuple[str, ...]:
        """The devices that compute, by torch's names."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Counts and waiting times so far."""

    @abstractmethod
    def close(self) -> None:
        """Cancel what waits, let what runs reach its next stage, and stop."""

    def run(self, request: Request, timeout: float | None = None) -> Result:
        """Submit and wait; the errors of :meth:`submit` and :meth:`Job.result`."""
        return self.submit(request).result(timeout)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def failure(model: str, error: BaseException) -> Exception:
    """What a job raises for what a pipeline raised: our own errors as they are, others wrapped.

    The traceback is logged here and not kept, since its frames hold the run's tensors.
    """
    if isinstance(error, CrossfuseError | Cancelled):
        return copy.copy(error)
    log.error("the pipeline of %r failed", model, exc_info=error)
    text = f"The pipeline of {model!r} failed with {type(error).__name__}: {error}"
    return PipelineError(text)

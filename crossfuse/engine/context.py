"""What a pipeline may ask for while it runs: a device, loaded models, and a place to report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar, cast

from crossfuse.engine.store import Store

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


class Cancelled(Exception):
    """Nobody waits for this answer any more; ``str()`` says why."""


class Context:
    """Handed to ``run(request, context)`` of a pipeline, one for each run.

    ``Context()`` works without an engine: it loads models itself, reports to nobody and is never
    cancelled. The engine passes its shared ``store``, a ``report(label, fraction)`` and a
    ``cancelled()`` that returns the reason, or an empty text to go on.
    """

    def __init__(
        self,
        device: str | None = None,
        *,
        store: Store | None = None,
        report: Callable[[str, float], None] | None = None,
        cancelled: Callable[[], str] | None = None,
    ) -> None:
        self._device = device
        self._store = Store() if store is None else store
        self._report = report
        self._cancelled = cancelled
        self._label = ""
        self._since = time.perf_counter()
        self.timings: dict[str, float] = {}

    @property
    def device(self) -> str:
        """Name of the torch device to compute on, such as ``"cpu"`` or ``"cuda:0"``."""
        if self._device is None:
            from crossfuse.device import best_device

            self._device = str(best_device())
        return self._device

    def model(self, name: str, weights: str | None = None) -> nn.Module:
        """The registered model in eval mode on this device, loaded at most once.

        The module is shared with other users: never write on it. Its parameters do not require
        gradients; an explainer that needs a gradient asks for it on an input or activation.
        """

        def build() -> nn.Module:
            from crossfuse import registry

            return registry.load(name, weights=weights)

        return self.resource(("model", name, weights), build)

    def resource(self, key: Hashable, builder: Callable[[], T]) -> T:
        """Whatever ``builder()`` makes (an encoder, a table), kept for later runs under ``key``.

        A torch module is put in eval mode, without parameter gradients, on this device. What has
        been asked for stays in memory until this run ends.
        """

        def build() -> T:
            return _settled(builder(), self.device)

        return cast(T, self._store.take((key, self.device), build, holder=self))

    def stage(self, label: str, fraction: float) -> None:
        """Say what happens next and how much of the whole is done (0..1).

        Raises Cancelled here, between stages, if nobody waits for the answer any more.
        """
        self._close_stage()
        self._label = label
        if self._cancelled is not None and (reason := self._cancelled()):
            raise Cancelled(reason)
        if self._report is not None:
            self._report(label, min(max(float(fraction), 0.0), 1.0))

    def close(self) -> None:
        """End of the run: lets the store evict what this run has used."""
        self._close_stage()
        self._label = ""
        self._store.release(self)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_stage(self) -> None:
        now = time.perf_counter()
        if self._label:
            self.timings[self._label] = self.timings.get(self._label, 0.0) + now - self._since
        self._since = now


def _settled(value: T, device: str) -> T:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return cast(T, value.to(device).eval().requires_grad_(False))
    return value

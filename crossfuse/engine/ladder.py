"""From requests to answers: what to try when memory runs out or a pipeline fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossfuse.engine.context import Cancelled, Context
from crossfuse.engine.interface import failure
from crossfuse.engine.messages import Request, Result
from crossfuse.engine.resources import is_out_of_memory, let_go
from crossfuse.engine.store import Store
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

log = logging.getLogger(__name__)
ON_CPU = Notice("Computed on the CPU, because the memory of the accelerator was full.")
Outcome = Result | Exception


def answer(
    pipeline: Any,
    requests: Sequence[Request],
    device: str,
    store: Store,
    context_on: Callable[[str], Context],
) -> list[Outcome] | None:
    """An outcome for each request, or None if this batch must be tried in smaller parts.

    One request alone always gets its outcome: from its device, from its device again once idle
    models have made room, from the CPU, or a CrossfuseError that says the memory is too small.
    """
    if len(requests) > 1:
        return _together(pipeline, requests, context_on(device))
    request = requests[0]
    outcome = _alone(pipeline, request, context_on(device))
    if outcome is None and store.drop_unused():
        outcome = _alone(pipeline, request, context_on(device))
    if outcome is None and device != "cpu":
        outcome = _alone(pipeline, request, context_on("cpu"))
        if isinstance(outcome, Result):
            outcome = replace(outcome, notes=(*outcome.notes, ON_CPU))
    if outcome is None:
        outcome = CrossfuseError(
            "This machine has too little memory for this request to {model!r}. "
            "A smaller input (fewer pixels, points, samples or words) would work.",
            model=request.model,
        )
    return [outcome]


def _together(pipeline: Any, requests: Sequence[Request], context: Context) -> list[Outcome] | None:
    try:
        with context:
            outcomes = list(pipeline.run_batch(list(requests), context))
        if len(outcomes) != len(requests):
            raise TypeError(f"run_batch gave {len(outcomes)} answers to {len(requests)} requests")
        return [
            _checked(request, outcome, context.timings)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]
    except BaseException as error:
        let: list[Outcome] | None = None
        if isinstance(error, Cancelled):
            let = [Cancelled(str(error)) for _ in requests]
        elif not is_out_of_memory(error):
            log.warning("a batch of %r failed and is split", requests[0].model, exc_info=error)
        let_go(error)
        return let


def _alone(pipeline: Any, request: Request, context: Context) -> Outcome | None:
    """The outcome; None if memory ran out."""
    try:
        with context:
            result = pipeline.run(request, context)
        return _checked(request, result, context.timings)
    except BaseException as error:  # a worker that dies would leave everybody waiting
        outcome = None if is_out_of_memory(error) else failure(request.model, error)
        let_go(error)
        return outcome


def _checked(request: Request, outcome: Any, timings: Mapping[str, float]) -> Outcome:
    """The outcome with its arrays made read-only, since many users will share them."""
    if isinstance(outcome, Exception):
        return failure(request.model, outcome)
    if not isinstance(outcome, Result):
        error = TypeError(f"the pipeline gave a {type(outcome).__name__} instead of a Result")
        return failure(request.model, error)
    outcome.seal()
    return outcome if outcome.timings else replace(outcome, timings=dict(timings))

"""Many users at once on the embedded engine: are all answers right, how long do they wait?

    crossfuse bench engine --users 20 --seconds 60

Every simulated user asks from a pool of questions of their own (and some that all share) without
a pause, now and then changing their mind before the answer is there. Each answer is compared with
the one computed beforehand without an engine.
"""

from __future__ import annotations

import argparse
import platform
import threading
import time
from collections import Counter
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import psutil
import torch

from crossfuse.data.images import sample_photo, sample_photos
from crossfuse.engine import Cancelled, Context, EmbeddedEngine, Job, Request, Result
from crossfuse.pipelines import feature_map

TOLERANCE = 2e-3  # maps are float16, and another number of threads sums in another order
OWN, SHARED = 4, 4  # questions of each user, questions of all
Answer = dict[str, np.ndarray]


def question(seed: int, pixels: dict[str, np.ndarray]) -> Request:
    """Two photographs of the samples, turned and shifted by the seed, and where each looks."""
    rng = np.random.default_rng(seed)
    first, second = (
        np.ascontiguousarray(np.rot90(pixels[str(name)], rng.integers(4))[rng.integers(60) :])
        for name in rng.choice(sorted(pixels), 2, replace=False)
    )
    return Request("feature_map", {"a": first, "b": second}, {"longest_side": 160})


def arrays_of(result: Result) -> Answer:
    """Every array of a result by name: its outputs and the maps of its trace."""
    found = {k: v for k, v in result.outputs.items() if isinstance(v, np.ndarray)}
    for record in () if result.trace is None else result.trace.maps:
        found[record.id] = record.weights
    return found


def agrees(result: Result, wanted: Answer) -> bool:
    return _alike(arrays_of(result), wanted)


def _alike(got: Answer, wanted: Answer) -> bool:
    return got.keys() == wanted.keys() and all(
        got[name].shape == array.shape and np.allclose(got[name], array, atol=TOLERANCE)
        for name, array in wanted.items()
    )


class User:
    """Clicks without a pause until the time is over."""

    def __init__(self, name: int, engine: EmbeddedEngine, pool: list[tuple[Request, Answer]]):
        self.name, self.engine, self.pool = f"user {name}", engine, pool
        self.rng = np.random.default_rng(name)
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def ask(self) -> tuple[Job, Answer]:
        request, wanted = self.pool[self.rng.integers(len(self.pool))]
        asked = Request(request.model, request.inputs, request.options, self.name, "page")
        return self.engine.submit(asked), wanted

    def click(self) -> None:
        job, wanted = self.ask()
        if self.rng.random() < 0.2:  # the reader moves on before the answer is there
            first, first_wanted = job, wanted
            job, wanted = self.ask()
            try:
                self.counts["wrong"] += not agrees(first.result(60), first_wanted)
            except Cancelled:
                self.counts["replaced"] += 1
        result = job.result(60)
        self.seconds.append(time.perf_counter() - job.submitted)
        self.counts["answers"] += 1
        self.counts["wrong"] += not agrees(result, wanted)

    def live(self, until: float) -> None:
        while time.perf_counter() < until:
            try:
                self.click()
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")


def load(people: list[User], seconds: float) -> list[float]:
    """Let everybody click; returns the resident memory in MB, sampled over the time."""
    process, resident = psutil.Process(), []
    until = time.perf_counter() + seconds
    running = [threading.Thread(target=user.live, args=(until,)) for user in people]
    for thread in running:
        thread.start()
    while time.perf_counter() < until:
        time.sleep(min(1.0, seconds / 20))
        resident.append(process.memory_info().rss / 2**20)
    for thread in running:
        thread.join()
    return resident


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--cache-mb", type=float, default=0.0, help="0: every answer is computed")
    parser.add_argument("--threads", type=int, default=None, help="torch threads of the worker")


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the load; one row with telling keys."""
    users, seconds = arguments.users, arguments.seconds
    torch.set_num_threads(1)
    pixels = {key: sample_photo(key).pixels[::2, ::2] for key in sample_photos()}
    alone = Context("cpu")

    def with_answer(seed: int) -> tuple[Request, Answer]:
        request = question(seed, pixels)
        return request, arrays_of(feature_map.run(request, alone))

    shared = [with_answer(seed) for seed in range(SHARED)]
    engine = EmbeddedEngine(
        ("cpu",),
        cache_bytes=int(arguments.cache_mb * 2**20),
        threads=arguments.threads,
    )
    people = []
    for name in range(users):
        own = [with_answer(SHARED + name * OWN + i) for i in range(OWN)]
        people.append(User(name, engine, shared + own))
    answers = [answer for _, answer in shared + [pair for user in people for pair in user.pool]]
    if any(_alike(one, two) for one, two in combinations(answers, 2) if one is not two):
        raise SystemExit("two questions have the same answer: a mix-up would go unseen")
    with engine:
        resident = load(people, seconds)
        statistics = engine.statistics()
    counts = sum((user.counts for user in people), Counter())
    errors = [error for user in people for error in user.errors]
    waits = [s for user in people for s in user.seconds]
    given = [user.counts["answers"] for user in people]
    settled = resident[len(resident) // 4]
    row = {
        "users": users,
        "seconds": seconds,
        "errors": len(errors),
        "wrong_results": counts["wrong"],
        "answers": sum(given),
        "answers_per_second": round(sum(given) / seconds, 1),
        "answers_of_a_user": {"fewest": min(given), "most": max(given)},
        "replaced": counts["replaced"],
        "click_to_answer_s": {
            "p50": round(float(np.quantile(waits, 0.50)), 4),
            "p95": round(float(np.quantile(waits, 0.95)), 4),
        },
        "resident_mb": {"settled": round(settled, 1), "end": round(resident[-1], 1)},
        "resident_growth": round(resident[-1] / settled - 1, 4),
        "engine": {name: round(value, 4) for name, value in asdict(statistics).items()},
        "first_errors": sorted(set(errors))[:3],
        "host": f"{platform.machine()}, {psutil.cpu_count()} cores, torch {torch.__version__}",
    }
    return [row]

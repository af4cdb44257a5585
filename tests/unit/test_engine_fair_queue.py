from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfuse.engine.fair_queue import FairQueue
from crossfuse.engine.interface import Job
from crossfuse.engine.messages import Request
from crossfuse.errors import CrossfuseError


def job(user: str, page: str = "") -> Job:
    return Job(Request("m", user=user, page=page), "", lambda _: 0, lambda _, __: None)


def queue_of(users: list[str]) -> tuple[FairQueue, list[Job]]:
    queue, jobs = FairQueue(1000, 1000), [job(user) for user in users]
    for one in jobs:
        assert queue.push(one) is None
    return queue, jobs


users = st.lists(st.sampled_from("abcde"), max_size=40)


@given(users)
def test_positions_are_the_order_of_service(asked: list[str]) -> None:
    queue, jobs = queue_of(asked)
    order = sorted(jobs, key=queue.position)
    assert [queue.position(one) for one in order] == list(range(1, len(jobs) + 1))
    assert [queue.pop() for _ in jobs] == order
    assert len(queue) == 0


@given(users)
def test_nobody_is_served_twice_while_another_waits(asked: list[str]) -> None:
    queue, _ = queue_of(asked)
    left, since = Counter(asked), Counter[str]()
    while len(queue):
        user = queue.pop().request.user
        left[user] -= 1
        # Everyone who still waits has had a turn since this user's last one, or is new to it.
        for other in left:
            if other != user and left[other]:
                since[other, user] += 1  # type: ignore[index]
                assert since[other, user] <= 1  # type: ignore[index]
            since[user, other] = 0  # type: ignore[index]


@given(users, st.lists(st.tuples(st.sampled_from(["push", "pop", "cancel"]), st.integers(0, 9))))
def test_each_user_is_served_in_the_order_of_asking(
    asked: list[str], steps: list[tuple[str, int]]
) -> None:
    queue, waiting = queue_of(asked)
    for step, number in steps:
        if step == "push":
            waiting.append(job("abcde"[number % 5]))
            queue.push(waiting[-1])
        elif waiting and step == "cancel":
            assert queue.remove(waiting.pop(number % len(waiting)))
        elif waiting:
            served = queue.pop()
            own = [one for one in waiting if one.request.user == served.request.user]
            assert served is own[0]
            waiting.remove(served)
        assert len(queue) == len(waiting)
        assert set(queue) == set(waiting)


def test_a_flood_of_one_user_delays_another_by_one_turn() -> None:
    queue, _ = queue_of(["flood"] * 30)
    late = job("late")
    queue.push(late)
    assert queue.position(late) == 2


def test_a_newer_question_takes_the_place_of_the_older_one() -> None:
    queue = FairQueue(3, 3)
    old, other, newer = job("a", "p"), job("a", "q"), job("a", "p")
    assert [queue.push(one) for one in (old, other, newer)] == [None, None, old]
    assert list(queue) == [newer, other]
    assert queue.push(job("a")) is None
    assert queue.push(job("a", "q")) is other  # full, yet replacing needs no room


def test_a_page_replaces_nothing_of_another_user() -> None:
    queue = FairQueue(9, 9)
    assert queue.push(job("a", "p")) is None
    assert queue.push(job("b", "p")) is None
    assert queue.push(job("a", "")) is None
    assert queue.push(job("a", "")) is None


def test_a_full_queue_says_so() -> None:
    queue = FairQueue(2, 1)
    queue.push(job("a"))
    with pytest.raises(CrossfuseError, match="1 of your requests"):
        queue.push(job("a"))
    queue.push(job("b"))
    with pytest.raises(CrossfuseError, match="2 requests are waiting"):
        queue.push(job("c"))


def test_taking_follows_the_turns() -> None:
    queue, jobs = queue_of(["a", "a", "b"])
    assert queue.take(lambda one: True, limit=2) == [jobs[0], jobs[2]]
    assert queue.take(lambda one: one.request.user == "b") == []
    assert list(queue) == [jobs[1]]
    queue.push(job("b"))
    queue.push_front(jobs[2])
    assert queue.position(jobs[2]) == 1

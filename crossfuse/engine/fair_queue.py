"""Who is next: users take turns, and a page's newer question replaces its older one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from crossfuse.engine.interface import Job
from crossfuse.errors import CrossfuseError


class FairQueue:
    """A bounded queue served round-robin over users. Not thread-safe: its owner holds a lock."""

    def __init__(self, capacity: int, capacity_per_user: int) -> None:
        self.capacity = capacity
        self.capacity_per_user = capacity_per_user
        self._users: OrderedDict[str, list[Job]] = OrderedDict()

    def push(self, job: Job) -> Job | None:
        """Add a job; returns the waiting job of the same user and page whose place it takes.

        Raises CrossfuseError if the queue, or this user's share of it, is full.
        """
        waiting = self._users.get(job.request.user, [])
        if job.request.page:
            for i, older in enumerate(waiting):
                if older.request.page == job.request.page:
                    waiting[i] = job
                    return older
        if len(self) >= self.capacity:
            raise CrossfuseError(
                "The engine is busy: {waiting} requests are waiting, which is its limit. Try "
                "again in a moment.",
                waiting=len(self),
            )
        if len(waiting) >= self.capacity_per_user:
            raise CrossfuseError(
                "{waiting} of your requests are waiting already, which is the limit for one "
                "user. Let them finish or cancel some.",
                waiting=len(waiting),
            )
        self._users.setdefault(job.request.user, []).append(job)
        return None

    def push_front(self, job: Job) -> None:
        """Put back a job whose turn had come."""
        self._users.setdefault(job.request.user, []).insert(0, job)
        self._users.move_to_end(job.request.user, last=False)

    def pop(self) -> Job:
        """The next job; its user goes to the end of the round."""
        user, waiting = next(iter(self._users.items()))
        job = waiting.pop(0)
        if waiting:
            self._users.move_to_end(user)
        else:
            del self._users[user]
        return job

    def take(self, wanted: Callable[[Job], bool], limit: int | None = None) -> list[Job]:
        """Remove and return, in the order of their turns, up to ``limit`` jobs that are wanted."""
        found = [job for job in self if wanted(job)][:limit]
        for job in found:
            self.remove(job)
        return found

    def remove(self, job: Job) -> bool:
        """True if the job was waiting here."""
        waiting = self._users.get(job.request.user, [])
        if job not in waiting:
            return False
        waiting.remove(job)
        if not waiting:
            del self._users[job.request.user]
        return True

    def position(self, job: Job) -> int:
        """1 for the job that is next; 0 for one that is not here."""
        return next((i for i, other in enumerate(self, start=1) if other is job), 0)

    def __iter__(self) -> Iterator[Job]:
        """The jobs in the order of their turns, if nothing else arrives."""
        rounds = max(map(len, self._users.values()), default=0)
        queues = list(self._users.values())
        for turn in range(rounds):
            yield from [waiting[turn] for waiting in queues if turn < len(waiting)]

    def __len__(self) -> int:
        return sum(map(len, self._users.values()))

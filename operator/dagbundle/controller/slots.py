"""Which bundle may make its next Job: a bounded number of parser pods, shared fairly by namespaces.

Only what this operator made counts: a Job that it is about to make, or whose UID it has recorded. Labels count for
nothing, since whoever may create Jobs anywhere can write them. When a slot is free, the namespace that has the fewest
pods comes first, and of its bundles the one that has waited longest. Nobody passes it, however small its Job: so a
team that comes with one bundle waits for one Job of a team with hundreds to end, and a Job with many pods is not
starved by small ones.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Key = tuple[str, str]
"""(namespace, name) of a DagBundle."""

PROMISE_SECONDS = 60.0
"""How long slots are kept for a bundle that was called, and for a Job that was made and that no watch has shown."""


@dataclass(slots=True)
class _Held:
    pods: int
    until: float | None
    """When it lapses; None where a watch has shown the Job."""
    uid: str = ""
    """Empty until the Job is made."""


@dataclass(slots=True)
class _Waiting:
    pods: int
    number: int


class Slots:
    """Hands slots out. Safe to use from several threads.

    Args:
        limit: Pods that may be there at a time. A Job with more is made when no other one is there.
        call: Is given a bundle whose turn it is.
        clock: Monotonic seconds.
    """

    def __init__(
        self, limit: int, call: Callable[[Key], None] = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self._call = call
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._held: dict[tuple[Key, str], _Held] = {}
        self._promised: dict[Key, _Held] = {}
        self._waiting: dict[Key, _Waiting] = {}
        self._served: dict[str, int] = {}
        """When each namespace was promised something last: of two with as many pods the other one comes first."""

    @property
    def jobs(self) -> int:
        """How many Jobs hold slots."""
        with self._lock:
            return len(self._held)

    @property
    def pods(self) -> int:
        """How many pods they have, or are promised to get."""
        with self._lock:
            return self._used().total()

    @property
    def waiting(self) -> int:
        """How many bundles wait for their turn."""
        with self._lock:
            return len(self._waiting)

    def reserve(self, key: Key, job: str, pods: int) -> bool:
        """Take slots for a Job that is about to be made; one that has them keeps them.

        Returns:
            False where it is not the bundle's turn: it is called when it is.
        """
        wanted = min(pods, self.limit)
        with self._lock:
            if (key, job) in self._held:
                return True
            waits = self._waiting.get(key)
            self._waiting[key] = _Waiting(wanted, waits.number if waits else next(self._numbers))
            promise = self._promised.get(key)
            if promise is not None and promise.pods < wanted:
                del self._promised[key]
            called = self._promise()
            promise = self._promised.pop(key, None)
            if promise is not None:
                self._waiting.pop(key, None)
                self._held[key, job] = _Held(wanted, self._clock() + PROMISE_SECONDS)
        self._wake(called - {key})
        return promise is not None

    def hold(self, key: Key, job: str, pods: int, uid: str, *, shown: bool) -> None:
        """Say that a Job of ours is there: it was made, or is found after a start.

        Args:
            key: Its bundle.
            job: Its name.
            pods: How many pods it has.
            uid: Which one it is.
            shown: Whether a watch has shown it; what no watch ever shows is forgotten after a while.
        """
        with self._lock:
            until = None if shown else self._clock() + PROMISE_SECONDS
            self._held[key, job] = _Held(min(pods, self.limit), until, uid)

    def show(self, key: Key, job: str, uid: str, *, ended: bool) -> None:
        """Take what a watch shows of a Job; one that was not recorded changes nothing."""
        with self._lock:
            held = self._held.get((key, job))
            if held is None or held.uid != uid:
                return
            held.until = None
        if ended:
            self.release(key, job)

    def release(self, key: Key, job: str) -> None:
        """Give the slots of a Job back: it has ended, is gone, or could not be made."""
        with self._lock:
            self._held.pop((key, job), None)
            called = self._promise()
        self._wake(called)

    def withdraw(self, key: Key) -> None:
        """Say that a bundle wants no slot now."""
        with self._lock:
            self._waiting.pop(key, None)
            called = self._promise() if self._promised.pop(key, None) else set()
        self._wake(called)

    def look(self) -> None:
        """Take back what has lapsed, and call who comes next."""
        with self._lock:
            called = self._promise()
        self._wake(called)

    def _promise(self) -> set[Key]:
        """Promise free slots to bundles that wait, in their order; return those bundles."""
        now = self._clock()
        self._held = {place: held for place, held in self._held.items() if held.until is None or held.until > now}
        self._promised = {key: held for key, held in self._promised.items() if (held.until or 0.0) > now}
        called: set[Key] = set()
        used = self._used()
        while used.total() < self.limit and (waiting := [key for key in self._waiting if key not in self._promised]):
            key = min(waiting, key=lambda key: (used[key[0]], self._served.get(key[0], -1), self._waiting[key].number))
            pods = self._waiting[key].pods
            if used.total() + pods > self.limit:
                break
            self._promised[key] = _Held(pods, now + PROMISE_SECONDS)
            used[key[0]] += pods
            self._served[key[0]] = next(self._numbers)
            called.add(key)
        return called

    def _used(self) -> Counter[str]:
        used: Counter[str] = Counter()
        for (key, _), held in self._held.items():
            used[key[0]] += held.pods
        for key, held in self._promised.items():
            used[key[0]] += held.pods
        return used

    def _wake(self, called: set[Key]) -> None:
        for key in sorted(called):
            self._call(key)

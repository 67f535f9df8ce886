"""A queue of keys for level-based reconciling: a key that is queued again while it waits is worked on once.

One worker at a time works on a key; a key that is queued meanwhile is worked on again afterwards. Failures back off
exponentially, per key. This is client-go's workqueue in the little that is needed here.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.5
"""Seconds before the first retry; doubled each time."""
MAX_BACKOFF = 300.0


class Queue(Generic[K]):
    """A thread-safe queue of distinct keys.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._working: set[K] = set()
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._alone: set[K] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many keys are due now or later, those being worked on left out."""
        with self._changed:
            return len(self._due)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Queue a key, to be worked on in `delay` seconds or earlier if it is queued for earlier."""
        with self._changed:
            self._add(key, self._clock() + delay)

    def _add(self, key: K, due: float) -> None:
        waiting = self._again if key in self._working else self._due
        if key in waiting and waiting[key] <= due:
            return
        waiting[key] = due
        if waiting is self._due:
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, key))
            self._changed.notify()

    def take(self, most: int = 1) -> list[K]:
        """Wait for a key that is due, and take it with others that are due now; follow each with `done` or the like.

        Args:
            most: How many keys at most; one that was put back comes alone.

        Returns:
            At least one key, and none when the queue is closed.
        """
        with self._changed:
            while not self._closed:
                now = self._clock()
                due = self._next()
                if due is not None and due[0] <= now:
                    return self._take(now, most)
                self._changed.wait(due[0] - now if due else None)
            return []

    def _next(self) -> tuple[float, int, K] | None:
        """Return what is due next."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # queued for earlier since, or taken
        return self._heap[0] if self._heap else None

    def _take(self, now: float, most: int) -> list[K]:
        taken: list[K] = []
        while len(taken) < most and (found := self._next()) is not None and found[0] <= now:
            key = found[2]
            if key in self._alone and taken:
                break
            heapq.heappop(self._heap)
            del self._due[key]
            self._working.add(key)
            taken.append(key)
            if key in self._alone:
                self._alone.discard(key)
                break
        return taken

    def put_back(self, key: K) -> None:
        """Say that a key was not worked on: whoever takes it next, takes it alone."""
        with self._changed:
            self._alone.add(key)
            self._finish(key, self._clock())

    def done(self, key: K, again_in: float | None = None) -> None:
        """Say that a key was worked on, and when to do so again if nothing else queues it."""
        with self._changed:
            self._failures.pop(key, None)
            self._finish(key, None if again_in is None else self._clock() + again_in)

    def failed(self, key: K, *, within: float = MAX_BACKOFF) -> float:
        """Say that working on a key failed; it is queued again with backoff, `within` some seconds at the latest.

        Returns:
            The seconds until then.
        """
        with self._changed:
            count = self._failures.get(key, 0)
            self._failures[key] = count + 1
            backoff = min(MAX_BACKOFF, within, FIRST_BACKOFF * 2.0 ** min(count, 20))
            self._finish(key, self._clock() + backoff)
            return backoff

    def _finish(self, key: K, due: float | None) -> None:
        self._working.discard(key)
        times = [moment for moment in (self._again.pop(key, None), due) if moment is not None]
        if times:
            self._add(key, min(times))

    def close(self) -> None:
        """End all waiting; nothing is handed out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

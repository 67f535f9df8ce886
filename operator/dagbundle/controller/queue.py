"""A queue of keys for level-based reconciling: a key that is queued again while it waits is worked on once.

One worker at a time works on a key; a key that is queued meanwhile is worked on again afterwards. Failures back off
exponentially, per key. This is client-go's workqueue in the little that is needed here, and with fair shares: of
what is due, one team's hundreds of bundles and another's single one are handed out in turn.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict, deque
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
        share: Says whose key it is. Of keys that are due each share's are handed out in turn.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, share: Callable[[K], Hashable] = lambda _: None
    ) -> None:
        self._clock = clock
        self._share = share
        self._changed = threading.Condition()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._ready: OrderedDict[Hashable, deque[tuple[float, K]]] = OrderedDict()
        """Due keys by share, of which the first is next; an entry that has another time than its key is skipped."""
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
                self._ripen(now)
                if taken := self._take(most):
                    return taken
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
            return []

    def _ripen(self, now: float) -> None:
        """Bring what is due by now to its share."""
        while self._heap and (self._heap[0][0] <= now or self._due.get(self._heap[0][2]) != self._heap[0][0]):
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # else it was queued for earlier since, or taken
                self._ready.setdefault(self._share(key), deque()).append((due, key))

    def _take(self, most: int) -> list[K]:
        taken: list[K] = []
        while len(taken) < most and self._ready:
            share, waiting = next(iter(self._ready.items()))
            due, key = waiting[0]
            current = self._due.get(key) == due
            if current and key in self._alone and taken:
                break
            waiting.popleft()
            if current:
                self._ready.move_to_end(share)
            if not waiting:
                del self._ready[share]
            if not current:
                continue
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

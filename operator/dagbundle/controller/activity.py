"""What the controller's threads are at, so that its liveness sees one that never comes to an end, or has ended.

Every call that a thread makes has an end of its own: a statement of the database's, a call of the API server's, the
examination of a document. What takes much longer than all of them waits for something that never comes, and nothing
but a restart gives the thread back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_SECONDS = 1200.0
"""After which work on one bundle, or one step of the upkeep, is stuck: ten times what one statement may take."""


class Activity:
    """Who does what since when. Safe to use from several threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[str, float]] = {}
        self._watched: dict[str, threading.Thread] = {}

    def watch(self, thread: threading.Thread) -> None:
        """Take notice when a thread that was started ends without saying so."""
        with self._lock:
            self._watched[thread.name] = thread

    def ended(self) -> None:
        """Say that the calling thread ends in order."""
        with self._lock:
            self._watched.pop(threading.current_thread().name, None)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what the calling thread does while the block runs."""
        name = threading.current_thread().name
        with self._lock:
            self._busy[name] = (what, self._clock())
        try:
            yield
        finally:
            with self._lock:
                self._busy.pop(name, None)

    @property
    def longest(self) -> float:
        """Seconds since the oldest work that is not done yet began; 0 where all threads wait."""
        with self._lock:
            return max((self._clock() - since for _, since in self._busy.values()), default=0.0)

    @property
    def problem(self) -> str:
        """Say which thread is stuck or gone; empty when none is."""
        with self._lock:
            now = self._clock()
            stuck = [
                f"{name} has been at {what} for {now - since:.0f} s"
                for name, (what, since) in sorted(self._busy.items())
                if now - since > STUCK_SECONDS
            ]
            gone = [f"{name} has ended" for name, thread in sorted(self._watched.items()) if _is_gone(thread)]
        return "; ".join((*stuck, *gone))


def _is_gone(thread: threading.Thread) -> bool:
    return thread.ident is not None and not thread.is_alive()

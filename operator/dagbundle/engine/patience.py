"""When a judgement that failed is tried again.

A bundle that waits for a dag_id or an asset is judged again when another bundle publishes. A judgement that fails each
time, after seconds, would be paid for by every publish of every team.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FIRST_SECONDS = 60.0
LONGEST_SECONDS = 3600.0
MOST = 10_000
"""Failures that are remembered; the oldest one is forgotten for another."""


class Patience:
    """Remembers failures, and for how long each is left alone: a minute, then twice as long each time, up to an hour.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, float]] = {}
        """By rollout: when it may be tried again, and after how many seconds the time after that."""

    def allows(self, rollout_id: str) -> bool:
        """Tell whether a rollout may be judged again now."""
        with self._lock:
            return self._failures.get(rollout_id, (0.0, 0.0))[0] <= self._clock()

    def failed(self, rollout_id: str) -> None:
        """Remember that a rollout's judgement failed."""
        with self._lock:
            _, wait = self._failures.pop(rollout_id, (0.0, FIRST_SECONDS))
            if len(self._failures) >= MOST:
                del self._failures[next(iter(self._failures))]
            self._failures[rollout_id] = (self._clock() + wait, min(2 * wait, LONGEST_SECONDS))

    def ended(self, rollout_id: str) -> None:
        """Forget a rollout whose judgement did not fail."""
        with self._lock:
            self._failures.pop(rollout_id, None)

"""How much anybody may ask: buckets of requests, slots for reports, and the answers about tokens for a few seconds.

All of it is in memory and of one replica. What is kept per caller is bounded in number, so that inventing callers
costs the server nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from dagbundle import errors

K = TypeVar("K")
T = TypeVar("T")

_MOST_KEYS = 20_000
_BURST = 3.0

Clock = Callable[[], float]


class Buckets(Generic[K]):
    """A token bucket per key: so many requests a second on average, and three seconds' worth at once.

    Args:
        per_second: How fast a bucket fills.
        clock: In seconds, never going back.
    """

    def __init__(self, per_second: float, clock: Clock = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._levels: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def take(self, key: K) -> bool:
        """Take one request from a bucket; False where it is empty."""
        now = self._clock()
        full = max(1.0, self._rate * _BURST)
        level, then = self._levels.pop(key, (full, now))
        level = min(full, level + (now - then) * self._rate)
        allowed = level >= 1.0
        self._levels[key] = (level - 1.0 if allowed else level, now)
        while len(self._levels) > _MOST_KEYS:
            self._levels.popitem(last=False)  # the one that asked longest ago: its bucket is the fullest
        return allowed


class Slots:
    """Bounds how many reports are taken at once, in all and of one namespace.

    Args:
        most: In all.
        most_each: Of one namespace.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many reports are being taken."""
        return self._taken.total()

    @contextmanager
    def one(self, namespace: str) -> Iterator[None]:
        """Occupy a slot while the block runs.

        Raises:
            CallerError: `TooManyReports`.
        """
        if self.taken >= self._most:
            raise errors.CallerError("TooManyReports", f"{self._most} reports are being taken already")
        if self._taken[namespace] >= self._most_each:
            raise errors.CallerError(
                "TooManyReports", f"{self._most_each} reports of namespace {namespace} are being taken already"
            )
        self._taken[namespace] += 1
        try:
            yield
        finally:
            self._taken[namespace] -= 1
            if not self._taken[namespace]:
                del self._taken[namespace]


@dataclass(eq=False, slots=True)
class Holding:
    """What one report holds in memory.

    Attributes:
        namespace: Whose report it is.
        give_way: Ends the report. It returns at once, and the report leaves the budget a moment later.
        size: In bytes.
        leaving: Whether it was told to end.
    """

    namespace: str
    give_way: Callable[[], None]
    size: int = 0
    leaving: bool = False


class Budget:
    """Bounds the memory that reports take together, and shares it by namespace.

    One namespace may take all of it while no other needs any. Where it does not suffice, the largest report of the
    namespace that holds most ends, and its parser sends it again later. So no namespace waits because of another that
    holds more. A report that holds little never ends for this.

    Args:
        most: In bytes.
    """

    SMALL = 1 << 20

    def __init__(self, most: int) -> None:
        self._most = most
        self._holdings: set[Holding] = set()
        self.total = 0
        """How much all reports hold; other threads read it."""

    @contextmanager
    def one(self, namespace: str, give_way: Callable[[], None]) -> Iterator[Holding]:
        """Count a report while the block runs."""
        holding = Holding(namespace, give_way)
        self._holdings.add(holding)
        try:
            yield holding
        finally:
            self._holdings.remove(holding)
            self.total -= holding.size

    def hold(self, holding: Holding, size: int) -> None:
        """Say how much a report holds now.

        Raises:
            CallerError: `TooManyReports`: together they hold too much, and its namespace holds most.
        """
        self.total += size - holding.size
        holding.size = size
        if holding.leaving:
            raise given_way()
        if size <= self.SMALL:
            return
        while sum(item.size for item in self._holdings if not item.leaving) > self._most:
            large = [item for item in self._holdings if item.size > self.SMALL and not item.leaving]
            held: Counter[str] = Counter()
            for item in large:
                held[item.namespace] += item.size
            namespace, most = held.most_common(1)[0]
            if held[holding.namespace] == most:
                raise errors.CallerError("TooManyReports", "the reports that are being taken fill the memory")
            largest = max((item for item in large if item.namespace == namespace), key=lambda item: item.size)
            largest.leaving = True
            largest.give_way()


def given_way() -> errors.CallerError:
    """Say why a report ends that another namespace's needs the memory of."""
    return errors.CallerError("TooManyReports", "other namespaces need the memory that this namespace's reports fill")


class Remembered(Generic[T]):
    """Answers about secrets, kept for a few seconds under the secret's hash; refusals too, so that floods end here.

    Args:
        seconds: For how long.
        clock: In seconds, never going back.
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._answers: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def get(self, secret: str) -> T | None:
        """Return what is known, and still believed."""
        found = self._answers.get(_hash(secret))
        return None if found is None or found[0] <= self._clock() else found[1]

    def put(self, secret: str, answer: T) -> None:
        """Remember an answer from now on."""
        key = _hash(secret)
        self._answers.pop(key, None)
        self._answers[key] = (self._clock() + self._seconds, answer)
        while len(self._answers) > _MOST_KEYS:
            self._answers.popitem(last=False)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()

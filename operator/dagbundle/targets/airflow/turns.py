"""Hands one thing out to threads, one at a time and a share after the other. `examining` shares its child so.

A share is a namespace. However many threads of one wait, another's waits for one turn of each share at most.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Turns of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()
        """Waiting threads by share; the first share is next."""

    @contextmanager
    def one(self, share: str) -> Iterator[None]:
        """Wait for a turn, and have it while the block runs."""
        turn = threading.Event()
        with self._lock:
            if self._taken:
                self._waiting.setdefault(share, deque()).append(turn)
            else:
                self._taken = True
                turn.set()
        try:
            turn.wait()
            yield
        finally:
            self._end(share, turn)

    @contextmanager
    def free(self) -> Iterator[bool]:
        """Have a turn while the block runs if nobody has it, and return whether that is so. Never waits."""
        with self._lock:
            mine, self._taken = not self._taken, True
        try:
            yield mine
        finally:
            if mine:
                with self._lock:
                    self._hand_on()

    def _end(self, share: str, turn: threading.Event) -> None:
        with self._lock:
            if turn.is_set():
                self._hand_on()
                return
            self._waiting[share].remove(turn)  # an interrupt ended the wait
            if not self._waiting[share]:
                del self._waiting[share]

    def _hand_on(self) -> None:
        if not self._waiting:
            self._taken = False
            return
        share, waiting = next(iter(self._waiting.items()))
        waiting.popleft().set()
        self._waiting.move_to_end(share)
        if not waiting:
            del self._waiting[share]

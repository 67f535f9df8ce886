"""Has a child decode documents and compute from them, so that none of them can keep this process busy, or fill it.

Vetting bounds what it knows of. What is left, and what plugins bring, ends with the child: by its CPU time, its memory
or the clock. One child serves all documents until one of them ends it; starting the next takes as long as importing
Airflow. While the child computes from one document, this process prepares the next.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from dagbundle.targets.airflow import wire
from dagbundle.targets.airflow.child import Child, DocumentError

Key = TypeVar("Key")

_AHEAD = 3
"""Requests that a child has at a time: the one it computes, and what is in its pipe."""
_BATCH = 32
"""Requests after which another thread may have its turn."""


class Examiner:
    """One child, started when it is needed. Its methods may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def prepare(self) -> None:
        """Start the child, so that it is there when it is needed. Returns at once."""
        if self._lock.acquire(blocking=False):  # else it is at work
            try:
                self._running()
            finally:
                self._lock.release()

    def examine(self, document: Mapping[str, Any], last: Any = None) -> Mapping[str, Any]:
        """Decode a document, and compute its next run.

        Args:
            document: A vetted one.
            last: The run after which the next one is computed, as `wire` writes it; None for the first.

        Returns:
            `{"info": the next run or None, "description": …, "partition_key": …, "cpu": seconds}`.

        Raises:
            DocumentError: Airflow cannot read it, or it takes too long or too much.
        """
        with self._lock:
            ((_, answer),) = self._batch(iter([(None, document)]), last)
        if isinstance(answer, DocumentError):
            raise answer
        return answer

    def each(
        self, requests: Iterable[tuple[Key, Mapping[str, Any]]]
    ) -> Iterator[tuple[Key, Mapping[str, Any] | DocumentError]]:
        """Do that for many, each for its first run; the next ones are drawn from the iterable while the child computes.

        Args:
            requests: A key and a vetted document each. Drawing one must not ask this examiner.

        Returns:
            Key and answer, or why there is none, in the same order.
        """
        waiting = iter(requests)
        while True:
            with self._lock:
                answers = self._batch(waiting, None)
            if not answers:
                return
            yield from answers

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _batch(
        self, requests: Iterator[tuple[Key, Mapping[str, Any]]], last: Any
    ) -> list[tuple[Key, Mapping[str, Any] | DocumentError]]:
        answers: list[tuple[Key, Mapping[str, Any] | DocumentError]] = []
        asked: collections.deque[tuple[Key, bytes]] = collections.deque()
        drawn, again = 0, False
        while True:
            while drawn < _BATCH and len(asked) < _AHEAD and (request := next(requests, None)) is not None:
                drawn += 1
                asked.append((request[0], wire.encode({"document": request[1], "last": last})))
                self._running().send(asked[-1][1])
            if not asked:
                return answers
            rest, answer = self._answer()
            again = isinstance(answer, DocumentError) and answer.ended and not answer.cpu and not again
            if not again:  # else the machine may have ended the child, and not this document
                answers.append((asked.popleft()[0], answer))
            if rest:
                self._end()
                for _, message in asked:
                    self._running().send(message)

    def _answer(self) -> tuple[bool, Mapping[str, Any] | DocumentError]:
        """Return whether the child has ended, or will, and its answer to the first request."""
        try:
            answer = self._running().answer()
        except DocumentError as error:
            return True, error
        refused = answer.get("refused")
        found = answer if refused is None else DocumentError(str(refused), cpu=float(answer["cpu"]))
        return bool(answer.get("rest")), found

    def _running(self) -> Child:
        if self._child is None:
            self._child = Child()
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

"""Has a child vet documents, decode them and compute from them: none of them can keep this process busy, or fill it.

Vetting bounds what it knows of. What is left, and what plugins bring, ends with the child: by its CPU time, its memory
or the clock. One child serves all documents until one of them ends it; starting the next takes as long as importing
Airflow. While the child computes from one document, this process prepares the next. Namespaces have the child in turn,
each for a few seconds, or until one of its documents has cost the child: so others wait for one start in each turn.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from dagbundle.targets.airflow import limits, wire
from dagbundle.targets.airflow.child import Child, DocumentError
from dagbundle.targets.airflow.turns import Turns
from dagbundle.targets.airflow.vetting import Allowed

Key = TypeVar("Key")
_Answer = Mapping[str, Any] | DocumentError

_AHEAD = 3
"""Requests that a child has at a time: the one it computes, and what is in its pipe."""
_namespace: contextvars.ContextVar[str] = contextvars.ContextVar("namespace", default="")


@contextlib.contextmanager
def on_behalf_of(namespace: str) -> Iterator[None]:
    """Have what this thread asks the examiner in the block count as a namespace's."""
    token = _namespace.set(namespace)
    try:
        yield
    finally:
        _namespace.reset(token)


@dataclasses.dataclass(slots=True)
class _Request(Generic[Key]):
    """A document to examine, and whether a child has ended over it once."""

    key: Key
    number: int
    message: bytes
    is_tried: bool = False

    @classmethod
    def made(cls, number: int, key: Key, document: Mapping[str, Any], *, last: Any, vet: bool) -> _Request[Key]:
        """Encode a document for the child."""
        return cls(key, number, wire.examination(document, last, vet=vet, number=number))


class Examiner:
    """One child, started when it is needed. Its methods may be called from several threads."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._child: Child | None = None
        self._told: Allowed | None = None
        """What the child knows that documents may name."""
        self._numbers = itertools.count(1)

    def prepare(self) -> None:
        """Start the child, so that it is there when it is needed. Returns at once."""
        with self._turns.free() as mine:
            if mine:  # else it is at work
                self._running()

    def examine(self, document: Mapping[str, Any], last: Any = None) -> Mapping[str, Any]:
        """Decode a document, and compute its next run.

        Args:
            document: One that was vetted when it was published.
            last: The run after which the next one is computed, as `wire` writes it; None for the first.

        Returns:
            `{"info": the next run or None, "description": …, "partition_key": …, "cpu": seconds}`.

        Raises:
            DocumentError: Airflow cannot read it, or it takes too long or too much.
        """
        ((_, answer),) = self._each(iter([(None, document)]), last, None)
        if isinstance(answer, DocumentError):
            raise answer
        return answer

    def each(
        self, requests: Iterable[tuple[Key, Mapping[str, Any]]], allowed: Allowed | None
    ) -> Generator[tuple[Key, _Answer]]:
        """Do that for many, each for its first run; the next ones are drawn from the iterable while the child computes.

        Args:
            requests: A key and a document each. Drawing one must not ask this examiner.
            allowed: What they may name; None for documents that were vetted.

        Returns:
            Key and answer, or why there is none, in the same order.
        """
        return self._each(iter(requests), None, allowed)

    def _each(
        self, waiting: Iterator[tuple[Key, Mapping[str, Any]]], last: Any, allowed: Allowed | None
    ) -> Generator[tuple[Key, _Answer]]:
        namespace, drawn = _namespace.get(), collections.deque[_Request[Key]]()
        requests = (_Request.made(next(self._numbers), *item, last=last, vet=allowed is not None) for item in waiting)
        while True:
            if not drawn:
                first = next(requests, None)
                if first is None:  # nobody waits for a turn
                    return
                drawn.append(first)
            with self._turns.one(namespace):
                answers = self._turn(drawn, requests, allowed)
            yield from answers

    def close(self) -> None:
        """End the child."""
        with self._turns.one(""):
            self._end()

    def _turn(
        self, drawn: collections.deque[_Request[Key]], requests: Iterator[_Request[Key]], allowed: Allowed | None
    ) -> list[tuple[Key, _Answer]]:
        """Examine documents until the turn is over, or there are no more.

        Whatever it raises ends the child: what was sent and not answered must not meet the next turn.
        """
        try:
            return self._answers(drawn, requests, allowed)
        except BaseException:
            self._end()
            raise

    def _answers(
        self, drawn: collections.deque[_Request[Key]], requests: Iterator[_Request[Key]], allowed: Allowed | None
    ) -> list[tuple[Key, _Answer]]:
        """Take the answers to what is drawn and, while the turn lasts, to further requests.

        A turn is over where a document has cost the child: the next one takes as long to start as many documents take.
        What was drawn and not answered stays for the next turn.
        """
        answers: list[tuple[Key, _Answer]] = []
        left, ahead = limits.TURN_CPU_SECONDS, 1
        for left_over in drawn:
            self._send(left_over.message, allowed)
        while True:
            while left > 0 and len(drawn) < ahead and (request := next(requests, None)) is not None:
                drawn.append(request)
                self._send(request.message, allowed)
            if not drawn:
                return answers
            rest, answer = self._answer(drawn[0].number)
            has_ended = isinstance(answer, DocumentError) and answer.ended and not answer.cpu
            if has_ended and not drawn[0].is_tried:
                drawn[0].is_tried = True  # the machine may have ended the child, and not this document
            else:
                answers.append((drawn.popleft().key, answer))
                cpu = answer.cpu if isinstance(answer, DocumentError) else answer["cpu"]
                left -= cpu
                ahead = _AHEAD if cpu < limits.SLOW_CPU_SECONDS else 1
            if rest:
                self._end()
                self._running()  # it imports Airflow while the next turn begins
                return answers

    def _send(self, message: bytes, allowed: Allowed | None) -> None:
        child = self._running()
        if allowed is not None and allowed is not self._told:
            child.send(wire.encode({"allowed": wire.allowed_to_json(allowed)}))
            self._told = allowed
        child.send(message)

    def _answer(self, number: int) -> tuple[bool, _Answer]:
        """Return whether the child has ended, or will, and its answer to the first request, which has this number."""
        try:
            answer = self._running().answer(number)
        except DocumentError as error:
            return True, error
        rest = bool(answer.get("rest"))
        cpu = float(answer["cpu"]) + (limits.START_CPU_SECONDS if rest else 0.0)
        found: _Answer = {**answer, "cpu": cpu}
        if "refused" in answer:
            reason, hint = answer.get("reason", "NotReadable"), answer.get("hint", "")
            found = DocumentError(str(answer["refused"]), cpu=cpu, ended=rest, reason=reason, hint=hint)
        return rest, found

    def _running(self) -> Child:
        if self._child is None:
            self._child, self._told = Child(), None
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

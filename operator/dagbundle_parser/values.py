"""Variables and Connections at parse time: what a child asks, and the line on which it asks.

A file's process holds neither the token nor the way to the server. It has one end of a socket of its own; the other end
is passed to the errand of `work` (`answering`), which asks the server and remembers every answer for the run.
Where there is no such line, as on a laptop, only what is asked before it (the environment) has values.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from dagbundle_parser.errors import RunError

VARIABLE, CONNECTION = "variable", "connection"
FOUND, MISSING, REFUSED, FAILED = "found", "missing", "refused", "failed"
"""What an answer may be; the last two come with the reason why."""
LENGTH = struct.Struct(">Q")
"""In front of an answer: the length of its JSON in bytes. A question is one line of JSON."""
MOST_KEY = 250
"""Characters of the longest key: Airflow's own columns hold no longer one."""
MOST_QUESTION = 4096
"""Bytes of the longest question; JSON writes six for a character."""
SHORTEST_HIDDEN = 5
"""Shorter texts are not hidden, as in Airflow's own masker: they would leave nothing to read."""
HIDDEN = "***"


class LookupFailed(BaseException):
    """Nobody can say what a value is. The file is broken, and not parsed with a default in its place.

    No Exception: Airflow would take that for a value that is missing.
    """


class Line:
    """Where the errand listens, in the process that forks children.

    Args:
        control: a connected socket's descriptor; the errand has the other end.
    """

    def __init__(self, control: int) -> None:
        self._control = socket.socket(fileno=control)
        self._control.set_inheritable(False)

    def open(self) -> int:
        """Make a line for one process, and return its descriptor.

        Raises:
            RunError: lookups get no answer any more; without a line a process would take every value for a missing one.
        """
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                socket.send_fds(self._control, [b"."], [theirs.fileno()])
                return ours.detach()
        except OSError as error:
            raise RunError("ValueUnavailable", f"lookups get no answer any more: {error.strerror}") from error


class Values:
    """What this process asks for and was given. One for the process: `VALUES`.

    Attributes:
        asked: the kinds that the present file asked for.
        refused: what was, and why.
        failure: why a lookup failed; empty where none has.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self._owner = 0
        self._lock = threading.Lock()
        self._busy = False
        self._hidden: set[str] = set()
        self._read, self._write, self._pid = os.read, os.write, os.getpid  # a file may put anything in their place
        self.begin()

    def begin(self) -> None:
        """Say that another file begins."""
        self.asked: set[str] = set()
        self.refused: set[str] = set()
        self.failure = ""

    def connect(self, descriptor: int) -> None:
        """Ask on this line from now on; -1 is none."""
        self._descriptor, self._owner = descriptor, os.getpid()

    @property
    def is_connected(self) -> bool:
        """Whether anybody answers."""
        return self._descriptor >= 0

    def ask(self, kind: str, key: str) -> Any:
        """Return a Variable's text, a Connection's fields, or None where there is none for this bundle.

        Raises:
            LookupFailed: nobody can say.
        """
        self.asked.add(kind)
        if self._descriptor < 0 or not 0 < len(key) <= MOST_KEY or not key.isprintable():
            return None
        answer = self._exchange({"kind": kind, "key": key})
        result = answer.get("result")
        if result == FOUND:
            self._hide_value(kind, answer["value"])
            return answer["value"]
        if result == REFUSED:
            self.refused.add(f"the {kind} {key!r} was refused: {answer.get('detail')}")
        elif result != MISSING:
            self._fail(f"the {kind} {key!r} cannot be looked up: {answer.get('detail')}")
        return None

    def _exchange(self, question: Mapping[str, str]) -> dict[str, Any]:
        if self._pid() != self._owner:
            self._fail("Variables and Connections cannot be read in a process that the file starts: read them before")
        with self._lock:
            if self._busy:
                self._fail("a lookup was interrupted, and what comes now may be its answer")
            self._busy = True
            try:
                self._write(self._descriptor, json.dumps(question).encode() + b"\n")
                (length,) = LENGTH.unpack(self._take(LENGTH.size))
                answer: dict[str, Any] = json.loads(self._take(length))
            except (OSError, ValueError) as error:
                self._fail(f"lookups get no answer any more ({type(error).__name__})")
            self._busy = False
            return answer

    def _take(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self._read(self._descriptor, count - len(data))
            if not more:
                raise OSError("the line was closed")
            data += more
        return bytes(data)

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        raise LookupFailed(why)

    def _hide_value(self, kind: str, value: Any) -> None:
        texts = [value] if kind == VARIABLE else [value.get("password"), value.get("extra")]
        for text in texts:
            self.hide(text)
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                for leaf in _leaves(json.loads(text)):
                    self.hide(leaf)

    def hide(self, secret: object) -> None:
        """Let a text appear in no error or warning, in none of the ways in which it is usually written."""
        if isinstance(secret, str) and len(secret.strip()) >= SHORTEST_HIDDEN:
            plain = secret.strip()
            quoted = (repr(plain)[1:-1], json.dumps(plain)[1:-1], urllib.parse.quote(plain, safe="", errors="replace"))
            self._hidden.update((plain, *quoted))

    def cleaned(self, text: str) -> str:
        """Return a text without what is hidden."""
        for secret in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text


VALUES = Values()


def _leaves(value: object) -> Iterator[str]:
    """Yield every text in decoded JSON."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)

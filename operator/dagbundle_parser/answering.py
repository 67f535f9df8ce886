"""Answers children's lookups, in the errand of `work`: asks the server, each key once in a run, and remembers.

A thread of its own, since the others wait for the report. What it is asked comes from processes that run a team's code:
a question is bounded, and who does not listen to its answer is not heard any more.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
import urllib.parse
from typing import Any, Protocol

from dagbundle_parser.remote import BusyError, RefusedError, RemoteError, Server
from dagbundle_parser.values import CONNECTION, FAILED, FOUND, LENGTH, MISSING, MOST_QUESTION, REFUSED, VARIABLE

LOOKUP_SECONDS = 10.0
"""How long a lookup tries to reach the server: less than a file has."""
_PAUSE = 0.3
_LISTEN_SECONDS = 5.0
"""How long a child may take to read an answer."""
_PATHS = {VARIABLE: "variables", CONNECTION: "connections"}
_MISSING = "NoSuchValue"
_NO_TARGET = "NoTarget"
_NOT_GRANTED = "NotGranted"


class Stop(Protocol):
    """What ends the errand early."""

    event: threading.Event


class Answering:
    """Answers until the process that parses has ended.

    Args:
        server: where the store is.
        run: which run asks.
        control: from where the lines of children come.
        stop: ends what is tried again.
    """

    def __init__(self, server: Server, run: str, control: socket.socket, stop: Stop) -> None:
        self._server = server
        self._run = run
        self._control = control
        self._stop = stop
        self._known: dict[tuple[str, str], bytes] = {}
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        """Answer from now on, in a thread that ends by itself."""
        threading.Thread(target=self._listen, name="answering", daemon=True).start()

    def _listen(self) -> None:
        self._selector.register(self._control, selectors.EVENT_READ)
        try:
            while self._hear_all():
                pass
        finally:
            for key in list(self._selector.get_map().values()):
                self._forget(key.fileobj)
            self._selector.close()

    def _hear_all(self) -> bool:
        """Wait until somebody says something, and answer; False when the process that parses has ended."""
        for key, _ in self._selector.select():
            line: Any = key.fileobj
            if line is not self._control:
                self._hear(line, key.data)
            elif not self._take_line():
                return False
        return True

    def _take_line(self) -> bool:
        """Take a child's line; False when there will be no other."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        except OSError:
            return False
        for descriptor in descriptors:
            line = socket.socket(fileno=descriptor)
            line.settimeout(_LISTEN_SECONDS)
            self._selector.register(line, selectors.EVENT_READ, bytearray())
        return bool(data)

    def _hear(self, line: socket.socket, heard: bytearray) -> None:
        try:
            data = line.recv(MOST_QUESTION)
            heard += data
            if b"\n" in heard:
                question = bytes(heard)
                heard.clear()
                answer = self._answer(json.loads(question))
                line.sendall(LENGTH.pack(len(answer)) + answer)
            elif not data or len(heard) > MOST_QUESTION:
                self._forget(line)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self._forget(line)

    def _forget(self, line: Any) -> None:
        self._selector.unregister(line)
        line.close()

    def _answer(self, question: dict[str, str]) -> bytes:
        kind, key = question["kind"], question["key"]
        answer = self._known.get((kind, key))
        if answer is None:
            found = self._look_up(f"/v1/runs/{self._run}/{_PATHS[kind]}/{urllib.parse.quote(key, safe='')}")
            answer = self._known[kind, key] = json.dumps(found).encode("ascii")
        return answer

    def _look_up(self, path: str) -> dict[str, Any]:
        deadline = time.monotonic() + LOOKUP_SECONDS
        while True:
            try:
                return {"result": FOUND, "value": json.loads(self._server.get(path))["value"]}
            except RefusedError as error:  # noqa: PERF203 - trying again is what the loop is for
                if error.reason in {_MISSING, _NO_TARGET}:
                    return {"result": MISSING}
                return {"result": REFUSED if error.reason == _NOT_GRANTED else FAILED, "detail": error.detail}
            except RemoteError as error:
                pause = max(_PAUSE, error.after if isinstance(error, BusyError) else 0.0)
                if time.monotonic() + pause > deadline or self._stop.event.wait(pause):
                    return {"result": FAILED, "detail": str(error)}

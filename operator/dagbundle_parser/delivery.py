"""The errand of `work`, beside the process that parses: get the run request, spool the report, deliver it for certain.

Sending starts while the report is still being made, and starts over when a connection breaks, for as long as there is
time. The server takes a repeated report once, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from dagbundle_parser.answering import Answering
from dagbundle_parser.environment import Settings
from dagbundle_parser.remote import BusyError, RefusedError, RemoteError, Server
from dagbundle_parser.spool import Abandoned, Spool

UNDELIVERED = 3
"""Exit code: the server could not be reached in time; trying again can help."""
REFUSED = 4
"""Exit code: the server will not have it; trying again cannot help."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
"""Seconds between two tries: doubled from the first to the longest, each shortened by up to a half at random."""

_T = TypeVar("_T")


class Stop(Protocol):
    """What ends the errand early."""

    number: int
    """The signal that arrived; 0 as long as none has."""
    event: threading.Event

    def stop_child(self) -> None:
        """Tell the parser to end."""


class Child(Protocol):
    """The process that parses."""

    report: int
    """The descriptor that its report comes from."""
    lookups: socket.socket
    """Where the lines of its children come from, on which they ask for values."""

    def ask(self, request: bytes) -> None:
        """Hand it its run request."""

    def wait(self) -> int:
        """Wait for its end: its exit code, or the negative number of the signal that killed it."""


class Errand:
    """One run, from the request to the delivered report.

    Args:
        settings: where to ask and to deliver.
        spool: keeps the report.
        child: makes it.
        stop: says when to give up.
    """

    def __init__(self, settings: Settings, spool: Spool, child: Child, stop: Stop) -> None:
        self._server = Server(settings.url, settings.token_file, settings.authority, os.urandom(32).hex())
        self._delivered: RefusedError | RemoteError | None = None
        self._gave_up = threading.Event()
        self._settings = settings
        self._spool = spool
        self._child = child
        self._stop = stop
        self._path = f"/v1/runs/{settings.run}"

    def run(self) -> tuple[int, str]:
        """Return the exit code, and what to say about it."""
        try:
            request = self._persist(lambda: self._server.get(self._path), lambda: 0.0)
        except RefusedError as error:
            return _refused(error, "the run cannot be had")
        except RemoteError as error:
            return self._stopped() or (UNDELIVERED, f"the run cannot be had: {error}")
        Answering(self._server, self._settings.run, self._child.lookups, self._stop).start()
        self._child.ask(request)
        delivery = threading.Thread(target=self._deliver, name="delivery")
        delivery.start()
        try:
            status = self._collect()
        except OSError as error:  # the scratch folder is full, or gone
            self._spool.abandon()
            self._stop.stop_child()
            delivery.join()
            return UNDELIVERED, f"{self._settings.scratch} cannot keep the report: {error}"
        delivery.join()
        return self._verdict(status)

    def _collect(self) -> int:
        """Spool what the parser says until it ends, and complete or abandon the report; return how the parser ended."""
        last = b"\n"
        while True:
            if self._gave_up.is_set():
                self._stop.stop_child()
            if not select.select([self._child.report], [], [], 0.3)[0]:
                self._spool.flush()
                continue
            data = os.read(self._child.report, 1 << 18)
            if not data:
                break
            self._spool.write(data)
            last = data[-1:]
        status = self._child.wait()
        if self._stop.number or self._gave_up.is_set() or status not in {0, 1, 2}:
            if last == b"\n" and status < 0 and not self._stop.number and not self._gave_up.is_set():
                return self._fail("ParserKilled", f"the parser was killed by {signal.Signals(-status).name}", status)
            self._spool.abandon()
            return status
        if self._spool.empty:
            return self._fail("InternalError", f"the parser ended with exit code {status} before its report", status)
        self._spool.finish()
        return status

    def _fail(self, kind: str, message: str, status: int) -> int:
        """End the report for a parser that could not: nobody has to wait for it, or to guess."""
        hint = (
            ": if it ran out of memory, raise spec.pod.resources.limits.memory or lower spec.parser.processes; "
            "its log is the pod's"
        )
        line = json.dumps({"type": "fail", "kind": kind, "message": message + hint})
        self._spool.write(line.encode("ascii") + b"\n")
        self._spool.finish()
        return status

    def _deliver(self) -> None:
        """Send the report as it grows, again from its start whenever that breaks. The thread beside `_collect`."""
        try:
            while not self._spool.wait_for_more_than(0, 60.0):
                pass
            self._persist(
                lambda: self._server.post(f"{self._path}/report", self._spool.chunks()),
                lambda: self._spool.finished_at,
            )
        except Abandoned:
            pass
        except (RefusedError, RemoteError) as error:
            self._delivered = error
            self._gave_up.set()

    def _persist(self, attempt: Callable[[], _T], whole_since: Callable[[], float | None]) -> _T:
        """Try until it works.

        Args:
            attempt: what to try.
            whole_since: when all that is needed was there, by the monotonic clock; None means that it still grows.

        Raises:
            RefusedError: the server will not have it.
            RemoteError: it could not be done in time.
        """
        trouble, pause = None, FIRST_PAUSE
        while True:
            try:
                return attempt()
            except RemoteError as error:  # noqa: PERF203 - trying again is what the loop is for
                now = time.monotonic()
                trouble = trouble or now
                whole = whole_since()
                wait = max(random.uniform(pause / 2, pause), error.after if isinstance(error, BusyError) else 0.0)  # noqa: S311 - spreads load
                late = whole is not None and now + wait > max(trouble, whole) + self._settings.send_seconds
                if late or self._stop.number:
                    raise
                print(f"dagbundle_parser: {error}; trying again in {wait:.1f} s", file=sys.stderr, flush=True)  # noqa: T201 - the pod's log
                self._stop.event.wait(wait)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _verdict(self, status: int) -> tuple[int, str]:
        if stopped := self._stopped():
            return stopped
        if isinstance(self._delivered, RefusedError):
            return _refused(self._delivered, "the report was not taken")
        if self._delivered is not None:
            return UNDELIVERED, f"the report could not be delivered: {self._delivered}"
        if status < 0:
            return 1, f"the parser was killed by {signal.Signals(-status).name}"
        return status, "" if status == 0 else f"the parser ended with exit code {status}; its output is above"

    def _stopped(self) -> tuple[int, str] | None:
        if not self._stop.number:
            return None
        return 128 + self._stop.number, f"stopped by {signal.Signals(self._stop.number).name}"


def _refused(error: RefusedError, what: str) -> tuple[int, str]:
    if error.reason == "RunClosed":  # by another attempt: its result is kept, and this one is not missed
        return 0, "the run is closed already: there is nothing to do"
    return REFUSED, f"{what}: {error}"

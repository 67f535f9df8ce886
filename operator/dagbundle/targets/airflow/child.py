"""The child of `examining` as its parent sees it: a process with two pipes, of which no one can block this one."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from dagbundle import errors
from dagbundle.targets.airflow import limits, wire

_SECRET_PREFIXES = (
    "AIRFLOW_CONN_",
    "AIRFLOW_VAR_",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__SECRETS__",
    "DAGBUNDLE_",
)
_SECRET_WORDS = ("FERNET_KEY", "PASSWORD", "SECRET", "TOKEN")
_SHOWN = 2_000
"""Characters of what a child that does not start printed."""


class DocumentError(Exception):
    """A document cannot be decoded or computed from; the text says why, as a clause.

    Args:
        why: As above.
        ended: Whether it ended the child.
        cpu: Seconds of CPU time that it took; 0 where the child ended by itself.
        reason: As an error of a target has it.
        hint: What to do next, where that is not to mend the document.
    """

    def __init__(
        self, why: str, *, ended: bool = False, cpu: float = 0.0, reason: str = "NotReadable", hint: str = ""
    ) -> None:
        super().__init__(why)
        self.why = why
        self.ended = ended
        self.cpu = cpu
        self.reason = reason
        self.hint = hint


class Child:
    """A process that answers requests one after the other. For one thread at a time.

    After its end it takes no more requests: its descriptors may be another's by then.
    """

    def __init__(self) -> None:
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dagbundle.targets.airflow.examiner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env={name: value for name, value in os.environ.items() if not _is_secret(name)},
        )
        assert self._process.stdin is not None  # noqa: S101 - for mypy
        assert self._process.stdout is not None  # noqa: S101 - likewise
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._unsent = bytearray()
        self._unread = bytearray()
        self._ready = False
        self._ended = False

    def send(self, request: bytes) -> None:
        """Send a request, or as much of it as the pipe takes; `answer` sends the rest.

        Raises:
            RuntimeError: The child was ended.
        """
        self._refuse_ended()
        self._unsent += request
        self._write()

    def answer(self, number: int) -> Mapping[str, Any]:
        """Wait for the next answer.

        Args:
            number: Of the request that it must answer.

        Raises:
            DocumentError: The child ended while it computed it, took too long, or answered another request.
            RuntimeError: The child was ended.
            StoreUnavailableError: The child does not start.
        """
        self._refuse_ended()
        if not self._ready:
            if self._receive(limits.START_SECONDS) is None:
                raise self._not_started()
            self._ready = True
        received = self._receive(limits.WALL_SECONDS)
        if received is not None:
            found, answer = received
            if found == number:
                return answer
            self.end()
            raise DocumentError("the process that computes from it answers another request", ended=True)
        code = self.end()
        if code == -signal.SIGPROF:
            cpu = limits.CPU_SECONDS
            raise DocumentError(f"computing from it takes more than {cpu:g} s of CPU time", ended=True, cpu=cpu)
        if code is None:
            wall = limits.WALL_SECONDS
            raise DocumentError(f"computing from it takes more than {wall:g} s", ended=True, cpu=limits.CPU_SECONDS)
        raise DocumentError(f"it ends the process that computes from it ({code})", ended=True)

    def end(self) -> int | None:
        """End the child, and return with which code it ended by itself; None where it had not."""
        self._ended = True
        code: int | None = None
        try:
            code = self._process.wait(0.5)  # its pipe closes a moment before it is gone
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        return code

    def _refuse_ended(self) -> None:
        if self._ended:
            raise RuntimeError("the process that examines DAGs was ended and takes no more requests")

    def _receive(self, seconds: float) -> tuple[int, Mapping[str, Any]] | None:
        """Send and receive until there is an answer; None where the child ends, or does not answer in time."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._answers, selectors.EVENT_READ)
            if self._unsent:
                waiting.register(self._requests, selectors.EVENT_WRITE)
            while (found := self._next()) is None:
                ready = [key.fd for key, _ in waiting.select(max(0.0, deadline - time.monotonic()))]
                if not ready:
                    return None
                if self._requests in ready and not self._write():
                    waiting.unregister(self._requests)
                if self._answers in ready:
                    data = os.read(self._answers, 1 << 16)
                    if not data or len(self._unread) > limits.MAX_ANSWER_BYTES:
                        return None
                    self._unread += data
        return found

    def _next(self) -> tuple[int, Mapping[str, Any]] | None:
        """Take the next answer and its number, if all of it has come."""
        if len(self._unread) < wire.HEADER.size:
            return None
        length, number = wire.HEADER.unpack_from(self._unread)
        end = wire.HEADER.size + length
        if len(self._unread) < end:
            return None
        found: Mapping[str, Any] = wire.decode(self._unread[wire.HEADER.size : end])
        del self._unread[:end]
        return number, found

    def _write(self) -> bool:
        """Write what the pipe takes; return whether something is left."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self._requests, self._unsent[: 1 << 16])]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # reading says the rest
            self._unsent.clear()
        return bool(self._unsent)

    def _not_started(self) -> errors.StoreUnavailableError:
        self._printed.seek(0)
        printed = self._printed.read().decode(errors="replace")[-_SHOWN:].strip()
        return errors.StoreUnavailableError(
            f"The process that examines DAGs did not start ({self.end()}). It printed: {printed or 'nothing'}",
            hint="look whether this program's pod has the memory for it, and whether `import airflow` works there",
        )


def _is_secret(name: str) -> bool:
    return name.startswith(_SECRET_PREFIXES) or any(word in name for word in _SECRET_WORDS)

"""Carries out one run on a cluster: fetch the run request, parse in a process of its own, and send the report.

Two processes, because what runs DAG files is forked again and again and must hold neither threads nor the way to the
server. The child is forked first, parses as `run` does, and writes its report into a pipe; this process knows the
server and the token, imports nothing of the bundle's environment, and spools and sends what comes out of the pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType

from dagbundle_parser import environment, keeper
from dagbundle_parser.descent import PR_SET_DUMPABLE, end_descendants, prctl
from dagbundle_parser.environment import Settings
from dagbundle_parser.errors import RequestError

_MOST_MESSAGE = 4000
"""Kubernetes keeps 4096 bytes of a termination message."""

Parse = Callable[[int, int, int, "int | None", bool], int]
"""Carries out the run and returns its exit code; takes the descriptors of the request, of the report and of lookups,
which shard this is, and whether to import Airflow ahead."""


def work(parse: Parse) -> int:
    """Carry out the run that the environment names.

    Args:
        parse: carries out the run in the child.

    Returns:
        The exit code, as the command line documents it.
    """
    try:
        settings = Settings.take(os.environ)
    except (RequestError, OSError) as error:
        return _end(2, str(error), environment.last_words_of(os.environ))
    environment.hide()
    stop = _Stop()
    child = _Child.start(parse, settings, stop)
    prctl(PR_SET_DUMPABLE, 0)  # before it makes its key: its descriptors and memory are closed to who shares its user
    from dagbundle_parser.delivery import Errand  # noqa: PLC0415 - the child must hold nothing of it
    from dagbundle_parser.spool import Spool  # noqa: PLC0415 - likewise

    try:
        with contextlib.closing(Spool(settings.scratch)) as spool:
            status, message = Errand(settings, spool, child, stop).run()
    except OSError as error:
        status, message = 2, f"DAGBUNDLE_SCRATCH={settings.scratch!r} cannot be used: {error}"
    finally:
        child.end()
    return _end(status, message, settings.last_words)


class _Stop:
    """SIGTERM and SIGINT: the parser in the child is told, and nothing is tried again."""

    def __init__(self) -> None:
        self.number = 0
        self.event = threading.Event()
        self.child: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signal)

    def _signal(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self.event.set()
        self.stop_child()

    def stop_child(self) -> None:
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)


@dataclasses.dataclass
class _Child:
    """The process that parses."""

    pid: int
    request: int
    report: int
    lookups: socket.socket
    stop: _Stop
    status: int | None = None

    @classmethod
    def start(cls, parse: Parse, settings: Settings, stop: _Stop) -> _Child:
        request, asker = os.pipe()
        report, reporter = os.pipe()
        lookups, inquirer = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()

        def carried_out() -> int:
            status = 1
            try:
                status = parse(request, reporter, inquirer.detach(), settings.shard, settings.ahead)
            except BaseException:  # noqa: BLE001 - whatever it is, it ends here and is shown
                traceback.print_exc()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            return status

        stop.child = pid = keeper.start(carried_out, own=(asker, report, lookups.fileno()))
        os.close(request)
        os.close(reporter)
        inquirer.close()
        return cls(pid, asker, report, lookups, stop)

    def ask(self, request: bytes) -> None:
        with (
            contextlib.suppress(BrokenPipeError),
            os.fdopen(self.request, "wb") as pipe,
        ):  # it died: its status says how
            pipe.write(request)

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that killed it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.stop.child = None
            end_descendants()  # of a keeper that was killed
        return self.status

    def end(self) -> None:
        """Whatever happened, it is gone."""
        if self.status is None:
            self.stop.stop_child()
            self.wait()


def _end(status: int, message: str, last_words: str) -> int:
    """Say how it ended, in the pod's log and, where that is bad, to Kubernetes."""
    if message:
        print(f"dagbundle_parser: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the pod's log
    if status and message:
        with contextlib.suppress(OSError):  # there is none outside of Kubernetes, and none is made
            descriptor = os.open(last_words, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            with os.fdopen(descriptor, "wb") as file:
                file.write(message.encode("utf-8", "replace")[:_MOST_MESSAGE])
    return status

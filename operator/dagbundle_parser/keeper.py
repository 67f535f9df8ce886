"""Sees to it that no process of a run outlives it, on whatever way the run ends; also by a kill that nothing can catch.

What was started stays what it was, and waits. Below it is a keeper, and below that the parser, whose children run DAG
files. Each of the first two is a subreaper and ends all that descends from it when what it waits for has ended, or when
nobody wants the result any more. So whichever of the three is killed, and whoever waited for them, another one cleans
up. They are forked before anything is imported, so they take little memory, and hold no threads.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from dagbundle_parser.descent import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, end_descendants, inherit_orphans, prctl

_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_estate = -1
"""The pipe into which the process that parses writes the folders that the keeper removes at the end."""


def keep(parse: Callable[[], int], *, report: int) -> int:
    """Carry out a run in a process that is watched, and return when it and all that it started are gone.

    Args:
        parse: the run; returns an exit code.
        report: the descriptor that its result goes to. When nobody reads it any more, the run is ended.

    Returns:
        The exit code, or the negative number of the signal that ended the run; 128 + SIGPIPE where nobody reads it.
    """
    with _masked():
        keeper, lifeline = _start(parse)
        prctl(PR_SET_DUMPABLE, 0)  # likewise
        status = _watch(keeper, report)
    os.close(lifeline)
    end_descendants()
    return status


def start(parse: Callable[[], int], own: Sequence[int]) -> int:
    """Start a run, for a process that waits for the keeper by itself; all that is left then is its to end, too.

    Args:
        parse: the run; returns an exit code.
        own: descriptors that nobody else is to hold.

    Returns:
        The keeper's pid. The run ends, at the latest, with this process.
    """
    with _masked():
        return _start(parse, own)[0]


def bequeath(path: str) -> None:
    """Have a folder of this run, in the process that parses, removed when all its processes are gone."""
    if _estate >= 0:
        os.write(_estate, os.fsencode(path) + b"\0")


def end_as(status: int) -> NoReturn:
    """End this process as `keep` says that the run has ended."""
    if status < 0:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if -status != signal.SIGKILL:
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)


def _start(parse: Callable[[], int], own: Sequence[int] = ()) -> tuple[int, int]:
    inherit_orphans()
    hangup, lifeline = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            prctl(PR_SET_DUMPABLE, 0)  # it holds where the report goes, which files that run as its user must not open
            for descriptor in (lifeline, *own):
                os.close(descriptor)
            status = _keep_below(parse, hangup)
        finally:
            end_as(status)
    os.close(hangup)
    return pid, lifeline


def _keep_below(parse: Callable[[], int], hangup: int) -> int:
    """What the keeper does: start the parser and wait for it."""
    global _estate  # noqa: PLW0603 - one for the process that parses
    inherit_orphans()
    keeper = os.getpid()
    heir, estate = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(hangup)
            os.close(heir)
            _estate = estate
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == keeper:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
                status = parse()
        except BaseException:  # noqa: BLE001 - it ends here, and is shown as Python would
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(estate)
    status = _watch(pid, hangup)
    end_descendants()
    _remove(heir)
    return status


def _remove(heir: int) -> None:
    """Remove the folders that were bequeathed; nobody can change them any more."""
    os.set_blocking(heir, False)
    try:
        paths = os.read(heir, 1 << 16).split(b"\0")[:-1]
    except BlockingIOError:  # a process that cannot be killed holds the other end
        return
    if paths:
        from dagbundle_parser import scratch  # noqa: PLC0415 - most runs leave nothing

        for path in paths:
            scratch.remove(os.fsdecode(path))


@contextlib.contextmanager
def _masked() -> Iterator[None]:
    """Hold signals back until there is somebody to forward them to."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)


def _watch(pid: int, wanted: int) -> int:
    """Wait for a child, and forward signals to it; kill it when the other end of the descriptor `wanted` is gone."""
    read, write = os.pipe()
    for descriptor in (read, write):
        os.set_blocking(descriptor, False)

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(wanted, 0)  # errors and hang-ups are told unasked
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        for descriptor, event in poll.poll():
            if descriptor == read:
                with contextlib.suppress(BlockingIOError):
                    os.read(read, 4096)
            elif event & select.POLLNVAL:  # it was started without
                poll.unregister(descriptor)
            else:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 128 + signal.SIGPIPE

"""Finds and ends the processes that descend from this one, which is how all that a DAG file starts is found again.

A process that asks the kernel to be a subreaper inherits whatever its descendants leave behind: no fork, session or
daemon gets out of its tree. Used by the sandbox after each child, and by the keeper at the end of a run.
"""

# ruff: noqa: PTH112, PTH123, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
_PATIENCE_SECONDS = 10.0
"""How long a process that was killed may take to go: one that waits for a dead disk never does."""
_PAUSE_SECONDS = 0.001

# Looked up now: in a child the audit hook would take ctypes for the DAG file's doing.
LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def prctl(option: int, value: int) -> bool:
    """Set one attribute of this process; False where the kernel has none such."""
    return LIBC is not None and LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0


def inherit_orphans() -> None:
    """Become the parent of what any descendant leaves behind."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def children(spared: Collection[int] = ()) -> list[int]:
    """The children of this process, the dead ones aside, without those that are `spared`."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", encoding="ascii") as file:
            pids = [int(word) for word in file.read().split()]
    except OSError:
        pids = [pid for pid, parent, _ in processes() if parent == own]
    return [pid for pid in pids if pid not in spared]


def processes() -> Iterator[tuple[int, int, str]]:
    """Yield each process's pid, its parent's pid and its state, a letter; `Z` is dead and not yet reaped."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    words = file.read().rpartition(")")[2].split()
                yield int(name), int(words[1]), words[0]


def end_descendants(spared: Collection[int] = ()) -> None:
    """Kill and reap all that descends from this process, and return when it is gone.

    What is found is stopped before it is killed, until nothing new is found: what runs may start others meanwhile.

    Args:
        spared: children that stay, with all that descends from them.
    """
    stopped: set[int] = set()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if not spared and not _reap_any():
            return
        found = _living(spared)
        if not found:
            return
        fresh = found - stopped
        for pid in fresh or found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP if fresh else signal.SIGKILL)
        stopped |= fresh
        if not fresh:
            stopped.clear()
            time.sleep(_PAUSE_SECONDS)
            _reap(children(spared))


def _living(spared: Collection[int]) -> set[int]:
    """Who descends from this process and is not dead."""
    below: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for pid, parent, state in processes():
        below.setdefault(parent, []).append(pid)
        states[pid] = state
    waiting, found = [os.getpid()], set()
    while waiting:
        for pid in below.get(waiting.pop(), ()):
            if pid not in spared and pid not in found:
                waiting.append(pid)
                found.add(pid)
    return {pid for pid in found if states[pid] not in "ZX"}


def _reap_any() -> bool:
    """Reap what is dead; False when this process has no child any more, and so no descendant."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def _reap(pids: Collection[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

"""A bound for the CPU time of what a tenant's text makes the parser itself compute, in the process that lists files.

The kernel's timer counts CPU time and not the clock, so a busy machine changes nothing. Regular expressions look for
signals while they match, and so does Python code while it runs.
"""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType


class OutOfTimeError(Exception):
    """A step has used up its CPU time, or that of all steps.

    Attributes:
        seconds: how much it may use.
        is_one_step: whether a single step used that much.
    """

    def __init__(self, seconds: float, *, is_one_step: bool) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_one_step = is_one_step


class CpuBudget:
    """Steps, each a `with` block that raises OutOfTimeError; for the main thread.

    Args:
        each: seconds of CPU time that one step may use.
        total: seconds that all of them may use.
    """

    def __init__(self, each: float, total: float) -> None:
        self._each, self._total, self._left = each, total, total
        self._given = self._began = 0.0
        self._is_running = False
        self._before: object = None

    def __enter__(self) -> None:
        if self._left <= 0:
            raise OutOfTimeError(self._total, is_one_step=False)
        self._began, self._given = time.process_time(), min(self._each, self._left)
        self._before = signal.signal(signal.SIGPROF, self._expired)
        self._is_running = True
        signal.setitimer(signal.ITIMER_PROF, self._given)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        # not by what is left of the timer: kernels add up to a tick to it when it is set
        self._left -= time.process_time() - self._began
        signal.signal(signal.SIGPROF, self._before)  # type: ignore[arg-type]  # what `signal` gave

    def _expired(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_running:
            is_one_step = self._given >= self._each
            raise OutOfTimeError(self._each if is_one_step else self._total, is_one_step=is_one_step)

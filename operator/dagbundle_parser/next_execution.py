"""Computes when a serialized DAG would run next, with the installed Airflow: only it knows its timetables.

A child computes it, confined as one that loads a file: the DAG may be another team's, and need not end.
"""

# ruff: noqa: T201 - a command prints

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from dagbundle_parser.errors import RunError, bounded
from dagbundle_parser.loaders.airflow import AirflowAdapter
from dagbundle_parser.sandbox import Sandbox, Shared
from dagbundle_parser.warmup import quiet_descriptors

_MAX_COUNT = 1000
_CPU_SECONDS = 20
_WALL_SECONDS = 120
_MEMORY_BYTES = 1 << 30
_PROCESSES = 32
_MAX_ANSWER_BYTES = 1 << 20


def main() -> int:
    """Read `{"data": <serialized DAG>, "count": n}` from stdin, print `{"runs": [...]}`; returns the exit code.

    A run has `logical_date`, `data_interval_start`, `data_interval_end` and `run_after`, each in ISO 8601 or null.
    """
    try:
        question = json.load(sys.stdin)
        data, count = question["data"], int(question.get("count", 1))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f'dagbundle_parser: expected {{"data": …, "count": n}} on stdin: {error!r}', file=sys.stderr)
        return 2
    try:
        with quiet_descriptors():
            adapter = AirflowAdapter.get()
            shared = Shared("")
            sandbox = Sandbox(
                run_as_user=None, memory_bytes=_MEMORY_BYTES, processes=_PROCESSES, slots=1, shared=shared
            )
            try:
                answer = _in_child(sandbox, lambda: adapter.next_runs(data, max(1, min(count, _MAX_COUNT))))
            finally:
                shared.remove()
    except RunError as error:
        print(f"dagbundle_parser: {error}", file=sys.stderr)
        return 1
    if "runs" not in answer:
        print(f"dagbundle_parser: the schedule cannot be computed: {answer['error']}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


def _in_child(sandbox: Sandbox, compute: Callable[[], list[Any]]) -> dict[str, Any]:
    """Return `{"runs": [...]}`, or `{"error": why}`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sandbox.enter_view()
            sandbox.enter(0)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
            _tell(writing, compute)
        finally:
            os._exit(0)
    os.close(writing)
    told, status = _listen(reading, pid)
    sandbox.sweep(0, pid, ())
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        late = f"it takes more than {_CPU_SECONDS} s of CPU time, or {_WALL_SECONDS} s"
        return {"error": late if number in {signal.SIGPROF, signal.SIGKILL} else f"it ends with signal {number}"}
    try:
        answer: dict[str, Any] = json.loads(told)
    except ValueError:
        return {"error": f"it ends the process that computes it, or has more than {_MAX_ANSWER_BYTES:,} bytes"}
    return answer


def _tell(writing: int, compute: Callable[[], list[Any]]) -> None:
    try:
        answer: dict[str, Any] = {"runs": [_as_json(run) for run in compute()]}
    except Exception as error:  # noqa: BLE001 - a timetable is a plugin's code, which may raise anything
        answer = {"error": f"{type(error).__name__}: {bounded(str(error))}"}
    with open(writing, "w", encoding="utf-8") as out:
        json.dump(answer, out)


def _listen(reading: int, pid: int) -> tuple[bytes, int]:
    """Return what a child wrote, and how it ended; it is killed where it takes too long or writes too much."""
    told, deadline = b"", time.monotonic() + _WALL_SECONDS
    while len(told) <= _MAX_ANSWER_BYTES:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(reading, 1 << 16) if ready else b""
        if not data:
            break
        told += data
    os.close(reading)
    if time.monotonic() >= deadline:
        os.kill(pid, signal.SIGKILL)
    return told, os.waitpid(pid, 0)[1]


def _as_json(run: Any) -> dict[str, str | None]:
    interval = run.data_interval
    start, end = (interval.start, interval.end) if interval is not None else (None, None)
    return {
        "logical_date": start.isoformat() if start else None,
        "data_interval_start": start.isoformat() if start else None,
        "data_interval_end": end.isoformat() if end else None,
        "run_after": run.run_after.isoformat(),
    }

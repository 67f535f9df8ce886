"""The child that decodes and computes: `python -m dagbundle.targets.airflow.examiner`, started by `examining`.

The kernel ends this process when a document has used up its CPU time, in C code too; a document that fills its memory
gets a MemoryError. It has no database and no key. It reads requests from standard input until that ends:

    {"allowed": {…}}                       what documents may name from now on
    {"document": …, "last": null | …}      a whole document, and the run after which the next one is computed;
                                           with "vet": true it is vetted before
    {"refused": "why"}                     a document that cannot be written, in its turn

and answers each document on standard output with `{"info": …, "description": …, "partition_key": …, "cpu": seconds}`,
or `{"refused": "why", "reason": …, "hint": …, "cpu": …}`. With `"rest": true` in an answer it ends, and answers no
request that follows. An answer's header has the number of the request's (`wire`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import resource
import signal
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from dagbundle import errors
from dagbundle.targets.airflow import installed, limits, vetting, wire
from dagbundle.targets.airflow.adapter import Adapter
from dagbundle.targets.airflow.vetting import LIMITS

_STATM = pathlib.Path("/proc/self/statm")
_COLUMNS = {"description": "dag.timetable_description", "partition_key": "dag.next_dagrun_partition_key"}


def main() -> None:
    """Answer until the parent goes."""
    requests, answers = _pipes()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # where memory runs out all the same, this process goes and not its parent
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    adapter, allowed = Adapter(), vetting.Allowed()
    installed.notifiers()  # imports what the first deadline would be charged for
    start = _address_space()
    resource.setrlimit(resource.RLIMIT_AS, (start + limits.MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _silence()
    wire.write(answers, {"ready": True})
    while True:
        signal.setitimer(signal.ITIMER_PROF, limits.CPU_SECONDS)  # while it waits for a request it uses none
        began = time.process_time()
        header = wire.read_header(requests)
        if header is None:
            break
        length, number = header
        try:
            request = wire.read(requests, length)
            if request is None:
                break
            if "allowed" in request:
                allowed = wire.allowed_of(request["allowed"])
                continue
            answer = _answer(adapter, request, allowed)
        except MemoryError:
            answer = {"refused": f"it takes more than {limits.MEMORY_BYTES:,} bytes of memory", "rest": True}
        signal.setitimer(signal.ITIMER_PROF, 0)
        request = None  # its memory is needed for the next one
        gc.collect(0)
        if _address_space() > start + limits.GROWN_BYTES:
            answer["rest"] = True
        wire.write(answers, {**answer, "cpu": time.process_time() - began}, number)
        if "rest" in answer:
            break
    os._exit(0)  # nothing is to be finished


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the parent, and let nothing else read or write them: a plugin may print."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # until it is ready, the parent shows what this process prints
    os.close(nothing)
    return requests, answers


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


def _address_space() -> int:
    return int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _answer(adapter: Adapter, request: Mapping[str, Any], allowed: vetting.Allowed) -> dict[str, Any]:
    if "refused" in request:
        return {"refused": request["refused"], "reason": "NotAllowed", "hint": ""}
    try:
        if request["vet"]:
            vetting.check(request["document"], allowed)
        found = adapter.examine(request["document"], request["last"])
    except MemoryError:
        raise
    except errors.TargetError as error:
        return {"refused": error.message, "reason": error.reason, "hint": error.hint}
    except Exception as error:
        if any(isinstance(cause, MemoryError) for cause in causes(error)):
            raise MemoryError from error
        said = " from ".join(f"{type(cause).__name__}: {str(cause)[: limits.MAX_SAID]}" for cause in causes(error))
        return {"refused": f"Airflow {adapter.version} cannot read it: {said[: 3 * limits.MAX_SAID]}"}
    for name, column in _COLUMNS.items():
        text, most = found.get(name), LIMITS[column]
        if isinstance(text, str) and len(text) > most:
            what = name.replace("_", " ")
            return {
                "refused": f"its timetable's {what} has {len(text):,} characters; Airflow's {column} holds {most:,}"
            }
    return found


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised from: Airflow's own says that something went wrong, and no more."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(found) < 10:  # noqa: PLR2004 - enough to understand
        found.append(current)
        current = current.__cause__
    return found


if __name__ == "__main__":
    main()

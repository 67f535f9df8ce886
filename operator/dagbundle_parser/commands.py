"""What the parser's commands do in the process that parses: from a request to a report that has an end.

Apart from the command line, which forks that process before any of this is imported.
"""

# ruff: noqa: T201 - the commands of a command line print

from __future__ import annotations

import os
import signal
import sys
from typing import BinaryIO

from dagbundle_parser.errors import RequestError, RunError
from dagbundle_parser.fingerprint import Surroundings
from dagbundle_parser.pool import Stopped
from dagbundle_parser.protocol import ReportWriter
from dagbundle_parser.request import RunRequest
from dagbundle_parser.runner import carry_out, import_airflow_ahead
from dagbundle_parser.values import Line


def run(path: str, report: str | None, *, ahead: bool) -> int:
    """Carry out a run request that is in a file, or comes on stdin, and return the exit code.

    Args:
        path: the file; `-` is stdin.
        report: the number of the descriptor that the report goes to; None is stdout.
        ahead: import Airflow before the request is read.
    """
    sys.dont_write_bytecode = True
    surroundings = Surroundings.read()
    try:
        descriptor = _report_descriptor(report)
        asker = _take_stdin() if path == "-" else None
        if ahead:
            import_airflow_ahead()
        request = RunRequest.load(asker, "on stdin") if asker else RunRequest.read(path)
    except RequestError as error:
        print(f"dagbundle_parser: {error}", file=sys.stderr)
        return 2
    return _report(request, ReportWriter(descriptor), surroundings)


def parse_for_work(asker: int, reporter: int, lookups: int, shard: int | None, *, ahead: bool) -> int:
    """What `work` does in its child: the request comes from one descriptor, the report goes to another."""
    sys.dont_write_bytecode = True
    surroundings = Surroundings.read()
    writer = ReportWriter(reporter)
    if ahead:
        import_airflow_ahead()
    try:
        with os.fdopen(asker, "rb") as stream:
            request = RunRequest.load(stream, "of the server")
        request.require_shard(shard)
    except RequestError as error:
        writer.fail("RequestUnusable", str(error))
        print(f"dagbundle_parser: {error}", file=sys.stderr)
        return 2
    return _report(request, writer, surroundings, Line(lookups) if request.values else None)


def _report(request: RunRequest, writer: ReportWriter, surroundings: Surroundings, line: Line | None = None) -> int:
    """Carry out a run, and end its report whatever happens."""
    try:
        carry_out(request, writer, surroundings, line)
    except RunError as error:
        writer.fail(error.kind, str(error))
        print(f"dagbundle_parser: {error}", file=sys.stderr)
    except BrokenPipeError:
        print("dagbundle_parser: the reader of the report is gone", file=sys.stderr)
        return 128 + signal.SIGPIPE
    except Exception as error:
        writer.fail("InternalError", f"the parser failed, please report it: {type(error).__name__}: {error}")
        raise
    except Stopped as stopped:
        writer.abandon()
        return 128 + stopped.number
    return 0


def _report_descriptor(value: str | None) -> int:
    """The report's descriptor, which nothing else shares: not by number, not by inheritance."""
    if value is None:
        descriptor = os.dup(1)
        os.dup2(2, 1)  # what imports print must not get into the report
    else:
        try:
            descriptor = int(value)
            os.fstat(descriptor)
        except (ValueError, OSError) as error:
            raise RequestError(f"DAGBUNDLE_REPORT_FD={value!r} is not an open descriptor: {error}") from error
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, True)
    return descriptor


def _take_stdin() -> BinaryIO:
    """Standard input, which nothing that is imported can read from any more."""
    taken = os.fdopen(os.dup(0), "rb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    return taken

"""The command line of the parser: what the trusted side starts, as a zipapp or from an unpacked directory.

run REQUEST.json    carry out a run request; the report goes to the descriptor in DAGBUNDLE_REPORT_FD, else to stdout
run -               the same, with the request on stdin
run --ahead -       the same, and Airflow is imported before the request arrives: for who knows that it will be needed
work                carry out the run that DAGBUNDLE_RUN names: on a cluster, from and to the store's server
next-execution      read a serialized DAG on stdin, print when it would run next
version             print this package's version

Exit codes: 0 the report is whole (it ends with `close` or `fail`) and, of `work`, the server has it; 1 the parser
itself failed; 2 the request, the settings or the command line cannot be used; 3 the server could not be reached in
time, trying again can help; 4 the server refused, trying again cannot help; 143 or 130 stopped by SIGTERM or SIGINT and
the report is cut; 141 nobody reads it.
"""

# ruff: noqa: PTH100, PTH120, T201 - paths are text before anything is imported; a command line prints

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import BinaryIO, NoReturn

if __package__ in {None, ""}:  # started as a directory or as a zip file whose root is this package
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(_here), *(path for path in sys.path if os.path.abspath(path) != _here)]

import signal

from dagbundle_parser import __version__
from dagbundle_parser.errors import RequestError, RunError
from dagbundle_parser.fingerprint import Surroundings
from dagbundle_parser.pool import Stopped
from dagbundle_parser.protocol import ReportWriter
from dagbundle_parser.request import RunRequest
from dagbundle_parser.runner import carry_out, import_airflow_ahead
from dagbundle_parser.values import Line

REPORT_FD = "DAGBUNDLE_REPORT_FD"


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    The process ends at once: taking thousands of modules apart takes a tenth of a second, and nothing that the
    bundle's environment registered is to run after the report is closed.
    """
    try:
        status = _main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - shown as Python would, which os._exit leaves out
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or what was imported closed it
            stream.flush()
    os._exit(status)


def _main(arguments: list[str]) -> int:
    _forget_own_path()
    match arguments:
        case ["run", request] if not request.startswith("--"):
            return _run(request, ahead=False)
        case ["run", "--ahead", request]:
            return _run(request, ahead=True)
        case ["work"]:
            from dagbundle_parser.work import work  # noqa: PLC0415 - needed on a cluster only

            return work(_parse_for_work)
        case ["next-execution"]:
            from dagbundle_parser.next_execution import main as next_execution  # noqa: PLC0415 - imports Airflow

            return next_execution()
        case ["version"]:
            print(__version__)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


def _run(path: str, *, ahead: bool) -> int:
    sys.dont_write_bytecode = True
    surroundings = Surroundings.read()
    try:
        descriptor = _take_report_descriptor()
        asker = _take_stdin() if path == "-" else None
        if ahead:
            import_airflow_ahead()
        request = RunRequest.load(asker, "on stdin") if asker else RunRequest.read(path)
    except RequestError as error:
        print(f"dagbundle_parser: {error}", file=sys.stderr)
        return 2
    return _report(request, ReportWriter(descriptor), surroundings)


def _parse_for_work(asker: int, reporter: int, lookups: int, shard: int | None, ahead: bool) -> int:  # noqa: FBT001 - see work.Parse
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


def _take_report_descriptor() -> int:
    """The report's descriptor, which nothing else shares: not by number, not by inheritance."""
    value = os.environ.pop(REPORT_FD, None)
    if value is None:
        descriptor = os.dup(1)
        os.dup2(2, 1)  # what imports print must not get into the report
    else:
        try:
            descriptor = int(value)
            os.fstat(descriptor)
        except (ValueError, OSError) as error:
            raise RequestError(f"{REPORT_FD}={value!r} is not an open descriptor: {error}") from error
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


def _forget_own_path() -> None:
    """Take this package's place off sys.path: a tenant's `import` must not find what lies beside it."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.abspath(sys.path[0]) == own:
        del sys.path[0]


if __name__ == "__main__":
    main()

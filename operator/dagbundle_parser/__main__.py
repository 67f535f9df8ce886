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
from typing import NoReturn

if __package__ in {None, ""}:  # started as a directory or as a zip file whose root is this package
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(_here), *(path for path in sys.path if os.path.abspath(path) != _here)]

from dagbundle_parser import __version__, keeper

REPORT_FD = "DAGBUNDLE_REPORT_FD"


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    The process ends at once: taking thousands of modules apart takes a tenth of a second, and nothing that the
    bundle's environment registered is to run after the report is closed.
    """
    arguments = sys.argv[1:]
    _forget_own_path()
    if arguments[:1] == ["run"]:  # nothing was imported yet, so that who only waits takes little memory
        keeper.end_as(keeper.keep(lambda: _carried_out(arguments), report=_report_descriptor()))
    os._exit(_carried_out(arguments))


def _carried_out(arguments: list[str]) -> int:
    """Carry out a command and return its exit code, with everything said that there is to say."""
    try:
        status = _main(arguments)
    except Exception:  # noqa: BLE001 - shown as Python would, which os._exit leaves out
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or what was imported closed it
            stream.flush()
    return status


def _main(arguments: list[str]) -> int:
    match arguments:
        case ["run", request] if not request.startswith("--"):
            from dagbundle_parser.commands import run  # noqa: PLC0415 - in the process that parses, and no other

            return run(request, os.environ.pop(REPORT_FD, None), ahead=False)
        case ["run", "--ahead", request]:
            from dagbundle_parser.commands import run  # noqa: PLC0415 - likewise

            return run(request, os.environ.pop(REPORT_FD, None), ahead=True)
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


def _parse_for_work(asker: int, reporter: int, lookups: int, shard: int | None, ahead: bool) -> int:  # noqa: FBT001 - see work.Parse
    from dagbundle_parser.commands import parse_for_work  # noqa: PLC0415 - in the process that parses, and no other

    return parse_for_work(asker, reporter, lookups, shard, ahead=ahead)


def _report_descriptor() -> int:
    value = os.environ.get(REPORT_FD, "")
    return int(value) if value.isascii() and value.isdigit() else 1


def _forget_own_path() -> None:
    """Take this package's place off sys.path: a tenant's `import` must not find what lies beside it."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.abspath(sys.path[0]) == own:
        del sys.path[0]


if __name__ == "__main__":
    main()

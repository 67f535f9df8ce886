"""The entry point: gives the parser its head start, runs the program, and ends the process.

It imports next to nothing itself: Typer and the commands take a tenth of a second, in which the parser can come up.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from typing import NoReturn

from dagbundle.cli import headstart
from dagbundle.cli.exits import Exit

_LASTING = frozenset({"server", "controller"})
"""Commands that run for weeks, and whose memory is bounded."""


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def command() -> NoReturn:
    """Run `main` and end the process at once: taking all modules apart takes a tenth of a second."""
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it, or the disk is full; or the program saw that and closed it
            code = code or Exit.FAILED
    os._exit(code)


def main() -> NoReturn:
    """Run the command line; see `exits.Exit` for how it ends."""
    if not _LASTING.intersection(sys.argv[1:2]):
        gc.set_threshold(50_000, 20, 100)  # imports and reports make many objects and hardly any garbage
    # as Ctrl-C does: whatever was started is ended, and nothing that was begun is left half done
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale that lacks a character is no reason to fail
    try:
        with headstart.given(sys.argv[1:]):
            from dagbundle.cli import program  # noqa: PLC0415 - loaded while the parser comes up

            program.run()
        code = 0
    except BaseException as error:  # noqa: BLE001 - each gets its exit code; Python would end with 1 for all of them
        from dagbundle.cli import endings  # noqa: PLC0415 - most commands end well

        code = endings.end(error, sys.argv[1:])
    sys.exit(code)


if __name__ == "__main__":
    command()

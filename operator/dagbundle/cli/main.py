"""The entry point: gives the parser its head start, runs the program, and ends the process.

It imports next to nothing itself: Typer and the commands take a tenth of a second, in which the parser can come up.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from dagbundle.cli import headstart
from dagbundle.cli.exits import Exit


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def command() -> NoReturn:
    """Run `main` and end the process at once: taking all modules apart takes a tenth of a second."""
    try:
        main()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        sys.exit(code)  # a message, which Python prints
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):  # nobody reads it; or the program saw that and closed it
        code = code or Exit.FAILED
    os._exit(code or 0)


def main() -> None:
    """Run the command line; see `exits.Exit` for how it ends."""
    # as Ctrl-C does: whatever was started is ended, and nothing that was begun is left half done
    signal.signal(signal.SIGTERM, _interrupt)
    with headstart.given(sys.argv[1:]):
        from dagbundle.cli import program  # noqa: PLC0415 - loaded while the parser comes up

        program.run()


if __name__ == "__main__":
    command()

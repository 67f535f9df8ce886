"""Turns whatever ended a command into a message, an exit code and, with `-o json` or `yaml`, a document.

The entry point calls it for everything that is raised, so that no failure ends with 1, which says "different", and none
without a word. docs/cli.md has the table.
"""

from __future__ import annotations

import contextlib
import errno
import re
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import typer

from dagbundle import errors
from dagbundle.cli import interrupts, output
from dagbundle.cli.exits import Exit


class Ending(NamedTuple):
    """How a command ended that did not answer."""

    code: Exit
    kind: str
    """The error's class, or `Interrupted`, `Aborted` or `UsageError`."""
    message: str
    hint: str = ""
    is_shown: bool = False
    """True where the message was shown to people already, or nobody is there to read it."""


def end(error: BaseException, arguments: Sequence[str]) -> int:
    """Tell what ended a command, and return its exit code.

    Args:
        error: What was raised; a `SystemExit` of Typer's too.
        arguments: The command line without the program's name, which says how the answer was to be shown.
    """
    if isinstance(error, SystemExit) and isinstance(error.code, int | None) and _cause_of(error) is None:
        if error.code != Exit.INTERRUPTED:
            return error.code or 0  # the command chose its code itself, and has answered
        error = interrupts.of(error) or KeyboardInterrupt()
    ending = _ending_of(error, arguments)
    with contextlib.suppress(OSError, ValueError):  # the one who reads, or the disk, may be what is gone
        if not ending.is_shown:
            _show(error, ending)
    with contextlib.suppress(OSError, ValueError):
        wanted = asked_format(arguments)
        if wanted is not output.Format.TEXT:
            told = {"kind": ending.kind, "message": ending.message, "hint": ending.hint}
            output.document({"error": told}, wanted, ending.code)
    return ending.code


def code_of(error: errors.DagBundleError) -> Exit:
    """Return the exit code that an error on purpose ends a command with."""
    match error:
        case errors.UsageError() | errors.ResourceError() | errors.NotFoundError():
            return Exit.USAGE
        case errors.StoreUnusableError():
            return Exit.FAILED
        case errors.StoreUnavailableError() | errors.ConflictError() | errors.StaleError():
            return Exit.RETRY
        case _:
            return Exit.FAILED


def asked_format(arguments: Sequence[str]) -> output.Format:
    """Return how the answer was to be shown, as far as a glance at the arguments tells; else text."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        found = re.fullmatch(r"(?:--output=|-q?o)(.+)", argument)
        value = found[1] if found else following if argument in {"--output", "-o", "-qo"} else ""
        with contextlib.suppress(ValueError):
            return output.Format(value)
    return output.Format.TEXT


def _cause_of(end: SystemExit) -> BaseException | None:
    """Return what Typer turned into an exit; None where the command chose its code."""
    found = end.__context__
    return None if found is None or isinstance(found, typer.Exit) else found


_READING = frozenset({"crd", "dags", "diff", "get", "history", "parse"})
"""Commands that change nothing, however far they came; but for `dags reserialize`, which is an apply."""


def _ending_of(error: BaseException, arguments: Sequence[str]) -> Ending:
    match error:
        case errors.DagBundleError():
            return Ending(code_of(error), type(error).__name__, error.message, error.hint)
        case KeyboardInterrupt():
            only_reads = _READING.intersection(arguments[:1]) and list(arguments[:2]) != ["dags", "reserialize"]
            state = str(error) or (interrupts.UNCHANGED if only_reads else "nothing more was done")
            return Ending(Exit.INTERRUPTED, "Interrupted", f"interrupted: {state}")
        case SystemExit():
            return _ending_of_typer(error, arguments)
        case OSError():
            where = f"{error.filename}: " if error.filename else "input or output: "
            text = f"{where}{error.strerror or error}"
            return Ending(Exit.FAILED, "OSError", text, is_shown=error.errno == errno.EPIPE)
        case MemoryError():
            return Ending(Exit.FAILED, "MemoryError", "there is not enough memory for this command")
        case _:
            return Ending(
                Exit.INTERNAL,
                "InternalError",
                f"{type(error).__name__}: {error}",
                "this is a fault of dagbundle itself: please report it with the traceback",
            )


def _ending_of_typer(error: SystemExit, arguments: Sequence[str]) -> Ending:
    """Typer shows its own errors, and ends with 1 where a question is declined or nobody reads the output."""
    cause = _cause_of(error)
    if isinstance(cause, typer.Abort):
        return Ending(Exit.FAILED, "Aborted", "declined: nothing was changed", is_shown=True)
    if isinstance(cause, OSError):
        return _ending_of(cause, arguments)
    message = cause.format_message() if cause is not None and hasattr(cause, "format_message") else str(error.code)
    return Ending(Exit.USAGE, "UsageError", message, is_shown=cause is not None)


def _show(error: BaseException, ending: Ending) -> None:
    if ending.code is Exit.INTERNAL:
        traceback.print_exception(error)
    # messages quote what tenants wrote
    typer.secho(output.block(f"Error: {ending.message}", ""), err=True, fg=typer.colors.RED)
    if ending.hint:
        typer.echo(output.block(f"Hint: {ending.hint}", ""), err=True)

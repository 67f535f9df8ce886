"""Starts an apply's parser before the libraries of the command line are loaded, since it takes longer to come up.

Only a glance at the arguments is taken: what is not an apply beyond doubt gets no head start and loses nothing else.
Whether the parser is the one that the command wants is seen when it asks for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from dagbundle import errors
from dagbundle.cli import inputs
from dagbundle.runtime.process import ParserProcess
from dagbundle.store import peek

_FLAGS = frozenset({"--local", "--force", "--dry-run", "--quiet", "-q"})
_VALUED = frozenset(
    {"--file", "-f", "--folder", "--grants", "--output", "-o", "--bundle", "-b", "--python", "--database-url"}
)


_standing_by: dict[tuple[str | None, bool], ParserProcess] = {}
"""A parser by what makes another one as good: its interpreter, and whether it imports Airflow ahead."""


@contextlib.contextmanager
def given(arguments: Sequence[str]) -> Iterator[None]:
    """Start the parser if these arguments are an apply's; one that nobody took is ended with the block.

    Args:
        arguments: The command line without the program's name.
    """
    try:
        with contextlib.suppress(errors.DagBundleError):  # the command will find the same, and say so
            _begin(arguments)
        yield
    finally:
        while _standing_by:
            _standing_by.popitem()[1].close()


def parser(python: str | None, database_url: str | None, *, force: bool) -> ParserProcess:
    """Return a parser: the one that was started ahead, if it is what is asked for, else a new one.

    Args:
        python: Its interpreter; None is this one.
        database_url: As the option says; None is the default.
        force: Every file will be parsed, whatever the store remembers.

    Raises:
        UsageError: There is no such interpreter, or no place for the default database.
        RunError: It could not be started.
    """
    ahead = force or peek.remembers_nothing(inputs.database_url(database_url))
    return _standing_by.pop((python, ahead), None) or ParserProcess(python, ahead=ahead)


def _begin(arguments: Sequence[str]) -> None:
    found = _glance(arguments)
    if found is None or "--local" not in found:
        return
    python, force = inputs.interpreter(found.get("--python")), "--force" in found
    ahead = force or peek.remembers_nothing(inputs.database_url(found.get("--database-url")))
    _standing_by[python, ahead] = ParserProcess(python, ahead=ahead)


def _glance(arguments: Sequence[str]) -> dict[str, str] | None:
    """An apply's options with their values; None where the arguments are anything else."""
    if not arguments or arguments[0] != "apply":
        return None
    found: dict[str, str] = {}
    rest = iter(arguments[1:])
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument in _FLAGS:
            found[argument] = ""
        elif name in _VALUED and (name.startswith("--") or not equals):
            given_value = value if equals else next(rest, None)
            if given_value is None:
                return None
            found[name] = given_value
        else:
            return None
    return found

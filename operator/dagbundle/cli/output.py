"""Shows answers: aligned text for people, JSON or YAML for programs; colours only on a terminal.

Texts that came from a tenant's files are shown with control characters escaped, so that no DAG file can move the
cursor, change the title or hide a line in somebody's terminal.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from dagbundle import terminal
from dagbundle.cli.exits import Exit

_LAST_LINES, _LAST_WIDTH = 20, 200
"""How many lines are shown of the end of a text, and how much of each."""


class Format(enum.StrEnum):
    """How to show an answer."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


def plain(value: object) -> Any:
    """Turn any answer into what JSON can say: records to objects, times to RFC 3339, enums to their values."""
    if not isinstance(value, type) and (names := _field_names(value)):
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value


def _field_names(value: object) -> Sequence[str]:
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return getattr(value, "_fields", ())  # a named tuple's


def document(value: object, output: Format, outcome: Exit = Exit.OK) -> None:
    """Print an answer as JSON or YAML: an object, whose `outcome` is the exit code's name.

    Args:
        value: The answer; what is a list becomes the `items` of one.
        output: JSON or YAML.
        outcome: How the command ends.
    """
    answer = plain(value)
    if isinstance(answer, list):
        answer = {"items": answer, "next_cursor": None}
    answer = {"outcome": outcome.name, **answer}
    if output is Format.JSON:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=True))
    else:
        import yaml  # noqa: PLC0415 - most answers are text

        typer.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=False), nl=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under upper-case column names, aligned by spaces as kubectl does; if there are none, `empty`."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        typer.echo(empty)
        return
    lines = [[column.upper() for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for number, line in enumerate(lines):
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        typer.secho(text, bold=number == 0)


def printable(text: str) -> str:
    """Escape control characters, line ends included."""
    return terminal.printable(text)


def block(text: str, indent: str) -> str:
    """Escape control characters but line ends and tabs, and indent every line."""
    lines = text.expandtabs(4).splitlines() or [""]
    return "\n".join(f"{indent}{printable(line)}" for line in lines)


def end_of(text: str) -> str:
    """Return the last lines of a long text, and say how many there were before."""
    lines = text.rstrip().expandtabs(4).splitlines()
    shown = lines[-_LAST_LINES:]
    shown = [line if len(line) <= _LAST_WIDTH else f"{line[:_LAST_WIDTH]}…" for line in shown]
    left_out = len(lines) - len(shown)
    return "\n".join([f"… {counted(left_out, 'line')} before"] * bool(left_out) + shown)


def counted(number: int, noun: str) -> str:
    """`1 DAG`, `2 DAGs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

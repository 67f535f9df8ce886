"""Reads YAML documents of files and of standard input, bounded; an error names the line to mend.

The author of a file may be another person than the user of the command, so a file that would take minutes or much
memory is refused.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import sys
from typing import Any, NamedTuple

from dagbundle import errors
from dagbundle.resources import repeats

STDIN = "-"
"""What stands for standard input in place of a file."""
MAX_DEPTH = 100
"""Levels of lists and maps of one document."""
MAX_NUMBER = 100
"""Characters of a number."""
_LONG_NUMBER = re.compile(rf"[-+._0-9][0-9_:.eE+-]{{{MAX_NUMBER},}}\Z")
"""PyYAML computes 1:1:1:… to the base of 60, in time that grows with the square of its length, and drops each `_`."""
_SAID = 1_000
"""Characters of an error of PyYAML's that are shown: it may quote the document."""
_UNFIT = (AttributeError, IndexError, KeyError, OverflowError, TypeError)
"""What PyYAML's constructors raise for a tag that does not fit."""
_OPENED = {
    "while scanning a quoted scalar": "a quote",
    "while parsing a flow sequence": "a list's [",
    "while parsing a flow mapping": "a mapping's {",
}
"""What PyYAML was reading, by its words, that has an end of its own."""
_UNENDED = ("end of stream", "<stream end>", "document separator")
"""How PyYAML says that it came to the end of the document instead."""


class Document(NamedTuple):
    """One YAML document."""

    file: pathlib.Path
    line: int
    """Where it begins."""
    value: Any

    @property
    def place(self) -> str:
        """The file and the line, for people."""
        return f"{_name(self.file)}, line {self.line}"


def one(path: pathlib.Path, limit: int) -> object:
    """Read the one document of a file. Raises as `read`, and where there is another number of documents."""
    found = read(path, limit)
    if len(found) != 1:
        raise errors.ResourceError(f"{_name(path)} holds {len(found)} documents; exactly one is expected")
    return found[0].value


def read(path: pathlib.Path, limit: int) -> list[Document]:
    """Read YAML documents; anchors that multiply are refused as any too large document is.

    Args:
        path: A file, or STDIN.
        limit: How many bytes it may have.

    Raises:
        ResourceError: It cannot be read, is no YAML, or is over a bound.
    """
    import yaml  # noqa: PLC0415 - a command has work to start before it is loaded

    try:
        with contextlib.nullcontext(sys.stdin.buffer) if str(path) == STDIN else path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise errors.ResourceError(f"{_name(path)} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise errors.ResourceError(f"{_name(path)} is larger than {limit:,} bytes")
    glance = _Glance(_name(path), data)
    try:
        for event in yaml.parse(data, Loader=yaml.SafeLoader):  # one by one: PyYAML takes minutes over what nests
            glance.look(event)
        values = list(yaml.safe_load_all(data))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise errors.ResourceError(
            f"{_name(path)} is no YAML that can be read: {glance.said(error)[:_SAID]}"
        ) from error
    except (
        AttributeError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
    ) as error:  # of PyYAML's constructors, by a tag that does not fit
        raise errors.ResourceError(
            f"{_name(path)} is no YAML that can be read: a value does not fit its tag ({type(error).__name__})",
            hint="leave out tags such as !!timestamp and !!bool",
        ) from error
    return [Document(path, line, value) for line, value in zip(glance.lines, values, strict=True)]


def _name(path: pathlib.Path) -> str:
    return "standard input" if str(path) == STDIN else str(path)


class _Glance:
    """Looks at a file's events before anything is made of them.

    Args:
        name: The file's, for errors.
        data: The file's bytes.

    Attributes:
        lines: Where its documents begin.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._depth = 0
        self._repeats = repeats.Repeats()
        self._long_quote: Any = None  # the last text in quotes that goes over several lines
        self.lines: list[int] = []

    def look(self, event: Any) -> None:
        """Look at the next event. Raises `ResourceError` where it is over a bound, an alias, or a key given twice."""
        key = self._repeats.look(event)
        if key is not None:
            raise errors.ResourceError(
                f"{self._name}: the key {key[:_SAID]!r} in line {event.start_mark.line + 1} is in its mapping already",
                hint="keep one of the two",
            )
        match type(event).__name__:
            case "AliasEvent":
                raise errors.ResourceError(
                    f"{self._name}, {_place(event.start_mark)}: it uses YAML aliases, which are not accepted here",
                    hint="write it out",
                )
            case "DocumentStartEvent":
                self.lines.append(event.start_mark.line + 1)
            case "MappingStartEvent" | "SequenceStartEvent":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise errors.ResourceError(
                        f"{self._name} is no YAML that can be read: {_place(event.start_mark)}: lists and maps nest "
                        f"deeper than {MAX_DEPTH} levels"
                    )
            case "MappingEndEvent" | "SequenceEndEvent":
                self._depth -= 1
            case "ScalarEvent":
                self._look_at_text(event)
            case _:
                pass

    def _look_at_text(self, event: Any) -> None:
        if (not event.style or event.tag is not None) and _LONG_NUMBER.match(event.value):
            raise errors.ResourceError(
                f"{self._name} is no YAML that can be read: {_place(event.start_mark)}: a number has more than "
                f"{MAX_NUMBER} characters",
                hint="write it in quotes where it is a text",
            )
        if event.style in {"'", '"'} and event.start_mark.line != event.end_mark.line:
            self._long_quote = event

    def said(self, error: Exception) -> str:
        """Say what is wrong and in which line: of what is never closed the one where it was opened."""
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            return str(error)
        context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        if begun is not None and context in _OPENED and any(words in problem for words in _UNENDED):
            return f"{_place(begun)}: {_OPENED[context]} is opened here, and never closed"
        for place in (begun, mark):
            if place is not None and (copied := _copied(self._data, place.line)):
                return f"{_place(place)}: {copied}"
        text = f"{_place(mark)}: {problem}"
        if context:
            text += f" ({context}" + (f" that begins in line {begun.line + 1})" if begun is not None else ")")
        quote = self._long_quote
        if quote is not None and quote.end_mark.line == mark.line:
            text += f". The quote before it is opened in line {quote.start_mark.line + 1}: is its end missing there?"
        return text


def _copied(data: bytes, number: int) -> str:
    """Say what is wrong with a line that looks as if it were copied from a page's example; nothing of any other."""
    line = "".join(data.decode("utf-8", "replace").splitlines()[number : number + 1])
    if "\xa0" in line[: len(line) - len(line.lstrip())]:
        return "it is indented with no-break spaces, as text from a web page may be: write spaces"
    return "`...` stands for more in an example: leave it out" if line.strip() == "..." else ""


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"

"""The manifest's YAML: from the bytes of `dagbundle.yaml` to plain data, bounded, and where each part of it stands.

`dagbundle.cli.documents` reads the same file on the trusted side; tests/unit/house/test_manifest_readers.py holds the
two readers to each other. Both use PyYAML's own loader: libyaml's takes some texts that this one refuses.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from dagbundle_parser.errors import RunError

FILE_NAME = "dagbundle.yaml"
MAX_BYTES = 256 << 10
_MAX_DEPTH = 100
_MAX_NUMBER = 100
_LONG_NUMBER = re.compile(rf"[-+._0-9][0-9_:.eE+-]{{{_MAX_NUMBER},}}\Z")
"""PyYAML computes 1:1:1:… to the base of 60, in time that grows with the square of its length, and drops each `_`."""
_SHOWN = 200
"""Characters of the file that an error quotes."""
_SAID = 1_000
"""Characters of an error of PyYAML's."""
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


def invalid(what: str) -> RunError:
    """The error of a manifest that cannot be used."""
    # a key of the file is a tenant's text, and would move the terminal on which the error is shown
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in what)
    return RunError("ManifestInvalid", f"the manifest {FILE_NAME} cannot be used: {plain}")


class ManifestText:
    """The file's one document.

    Args:
        content: the file's bytes.

    Attributes:
        value: the document as plain data.

    Raises:
        RunError: `ManifestInvalid`: it is too large, no YAML, over a bound, or not one document.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) > MAX_BYTES:
            raise invalid(f"it is larger than {MAX_BYTES:,} bytes")
        try:
            yaml: Any = importlib.import_module("yaml")
        except ImportError as error:
            raise invalid("reading it needs PyYAML, which is not installed in this environment") from error
        glance = _Glance(content)
        try:
            for event in yaml.parse(content, Loader=yaml.SafeLoader):  # before anything is built of it
                glance.look(event)
            loader = yaml.SafeLoader(content)
            self._node = loader.get_single_node()
            self.value: Any = None if self._node is None else loader.construct_document(self._node)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise invalid(f"it is no YAML that can be read: {glance.said(error)[:_SAID]}") from error
        except (
            AttributeError,
            KeyError,
            IndexError,
            OverflowError,
            TypeError,
        ) as error:  # of PyYAML's constructors, by a tag that does not fit
            raise invalid(
                f"it is no YAML that can be read: a value does not fit its tag ({type(error).__name__}); leave out "
                "tags such as !!timestamp and !!bool"
            ) from error
        if self._node is None:
            raise invalid("it is empty; the least that it must hold is `version: v1beta`")

    def place(self, path: Sequence[str | int]) -> str:
        """Where a part of the document stands, for people: the key of a mapping's member, the beginning of an item."""
        node = self._node
        mark = node.start_mark
        for part in path:
            pairs = node.value if isinstance(node.value, list) else []
            if isinstance(part, int):
                found = [(item, item) for item in pairs[part : part + 1] if not isinstance(item, tuple)]
            else:
                found = [pair for pair in pairs if isinstance(pair, tuple) and pair[0].value == part]
            if not found:
                break
            mark, node = found[-1][0].start_mark, found[-1][1]
        return _place(mark)


class _Glance:
    """Looks at the events before anything is made of them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._open: list[_Keys | None] = []
        self._long_quote: Any = None

    def look(self, event: Any) -> None:
        """Look at the next event.

        Raises:
            RunError: `ManifestInvalid`: it is over a bound, an alias, or a key that its mapping has already.
        """
        name, place = type(event).__name__, _place(event.start_mark)
        if name in {"MappingEndEvent", "SequenceEndEvent"}:
            self._open.pop()
            return
        if name == "AliasEvent":
            raise invalid(f"{place}: it uses YAML aliases, which are not accepted here: write it out")
        if name not in {"ScalarEvent", "MappingStartEvent", "SequenceStartEvent"}:
            return
        keys = self._open[-1] if self._open else None
        if keys is not None and keys.repeats(event):
            raise invalid(f"{place}: the key {shown(event.value)} is in its mapping already: keep one of the two")
        if name == "ScalarEvent":
            self._look_at_text(event, place)
            return
        self._open.append(_Keys() if name == "MappingStartEvent" else None)
        if len(self._open) > _MAX_DEPTH:
            raise invalid(f"{place}: lists and maps nest deeper than {_MAX_DEPTH} levels")

    def _look_at_text(self, event: Any, place: str) -> None:
        if (not event.style or event.tag is not None) and _LONG_NUMBER.match(event.value):
            raise invalid(f"{place}: a number has more than {_MAX_NUMBER} characters: write it in quotes if it is text")
        if event.style in {"'", '"'} and event.start_mark.line != event.end_mark.line:
            self._long_quote = event

    def said(self, error: Exception) -> str:
        """What is wrong and where: of what is never closed the place where it was opened."""
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            return str(error)
        context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        if begun is not None and context in _OPENED and any(words in problem for words in _UNENDED):
            return f"{_place(begun)}: {_OPENED[context]} is opened here, and never closed"
        for place in (begun, mark):
            if place is not None and (copied := _copied(self._content, place.line)):
                return f"{_place(place)}: {copied}"
        text = f"{_place(mark)}: {problem}"
        if context:
            text += f" ({context}" + (f" that begins in line {begun.line + 1})" if begun is not None else ")")
        quote = self._long_quote
        if quote is not None and quote.end_mark.line == mark.line:
            text += f". The quote before it is opened in line {quote.start_mark.line + 1}: is its end missing there?"
        return text


class _Keys:
    """The keys that an open mapping has had."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, bool]] = set()
        self._is_at_key = True

    def repeats(self, event: Any) -> bool:
        """Whether the event is a key that the mapping has already; takes each of its keys and values in turn."""
        key = (event.value, bool(event.style)) if self._is_at_key and hasattr(event, "value") else None
        self._is_at_key = not self._is_at_key
        if key is None:
            return False
        known = key in self._seen
        self._seen.add(key)
        return known


def _copied(content: bytes, number: int) -> str:
    """What is wrong with a line that looks as if it were copied from a page about manifests; empty for any other."""
    line = "".join(content.decode("utf-8", "replace").splitlines()[number : number + 1])
    if "\xa0" in line[: len(line) - len(line.lstrip())]:
        return "it is indented with no-break spaces, as text from a web page may be: write spaces"
    return "`...` stands for more in an example: leave it out" if line.strip() == "..." else ""


def shown(value: object) -> str:
    """The beginning of a value of the file, for an error; the text of a large one is never made whole."""
    text = repr(value if not isinstance(value, str) else value[:_SHOWN]) if _is_small(value) else _name_of(value)
    return text[:_SHOWN]


def _is_small(value: object) -> bool:
    return value is None or isinstance(value, (bool, str, float)) or (isinstance(value, int) and abs(value) < 1 << 64)


def _name_of(value: object) -> str:
    return {dict: "a mapping", list: "a list", int: "a very large number"}.get(type(value), type(value).__name__)


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"

"""Bundle parsers, and how they are found: the built-in one always, third parties' through entry points."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dagbundle_parser.errors import RunError
from dagbundle_parser.parsers.base import AbstractBundleParser
from dagbundle_parser.parsers.single_pass import SinglePassBundleParser

GROUP = "dagbundle.parsers"
STANDARD = "Standard"
"""AIP-85's default. Here a version is parsed once, when it is rolled out: that is a single pass."""


def find_parser(name: str) -> type[AbstractBundleParser]:
    """The bundle parser called `name`.

    Raises:
        RunError: `UnknownParser`, which names those there are, or `ParserFailed` if it cannot be imported.
    """
    if name == SinglePassBundleParser.name:
        return SinglePassBundleParser
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name == STANDARD and name not in entries:
        return SinglePassBundleParser
    if name not in entries:
        there = ", ".join(sorted({SinglePassBundleParser.name, *entries}))
        raise RunError("UnknownParser", f"there is no bundle parser {name!r} in this environment; there are: {there}")
    try:
        found = entries[name].load()
    except Exception as error:  # a third party's module may raise anything while it is imported
        raise RunError(
            "ParserFailed", f"the bundle parser {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, AbstractBundleParser)):
        raise RunError("ParserFailed", f"the bundle parser {name!r} is no AbstractBundleParser")
    return found


def counted_of(parser: type[AbstractBundleParser], name: str, config: Mapping[str, Any]) -> Sequence[str]:
    """What files' results depend on of a parser: its name, version and settings, unless it is the built-in one."""
    if parser is SinglePassBundleParser:
        return ()
    version = getattr(parser, "version", "")
    return [f"parser {name} {version} {json.dumps(config, sort_keys=True)}"]

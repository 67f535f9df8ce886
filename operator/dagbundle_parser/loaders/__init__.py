"""Loaders, and how they are found: the built-in ones always, third parties' through entry points."""

from __future__ import annotations

import importlib.metadata

from dagbundle_parser.errors import RunError
from dagbundle_parser.loaders.base import AbstractDagLoader
from dagbundle_parser.loaders.python import PythonDagLoader
from dagbundle_parser.loaders.yaml import YamlDagLoader

GROUP = "dagbundle.loaders"
BUILT_IN = frozenset({PythonDagLoader.name, YamlDagLoader.name})


def find_loaders() -> list[AbstractDagLoader]:
    """All loaders: third parties' first, sorted by name, so that they can claim what a built-in one would.

    The built-in ones need no entry point's metadata, which a zipapp has none of, and their names are reserved.

    Raises:
        RunError: `LoaderFailed`: an installed loader cannot be imported.
    """
    built_in: list[AbstractDagLoader] = [PythonDagLoader(), YamlDagLoader()]
    others = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in BUILT_IN:
            continue
        try:
            loader = entry.load()()
        except Exception as error:  # a third party's module may raise anything while it is imported
            raise RunError(
                "LoaderFailed",
                f"the DAG loader {entry.name!r} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; "
                "repair or uninstall its distribution",
            ) from error
        if not isinstance(loader, AbstractDagLoader):
            raise RunError("LoaderFailed", f"the DAG loader {entry.name!r} ({entry.value}) is no AbstractDagLoader")
        others.append(loader)
    return [*others, *built_in]

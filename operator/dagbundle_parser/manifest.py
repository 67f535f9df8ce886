"""What the manifest, `dagbundle.yaml` in the bundle's root, says to loaders: `bundle_config.loaders`, by their names.

The parser reads it by itself, because on a cluster nobody else has the bundle's files. What else the manifest holds is
checked on the trusted side, where a folder is applied.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dagbundle_parser.errors import RunError

FILE_NAME = "dagbundle.yaml"
_MAX_BYTES = 256 << 10
_MAX_DEPTH = 100
_MAX_NUMBER = 100
_LONG_NUMBER = re.compile(rf"[-+.]?[0-9][0-9_:.eE+-]{{{_MAX_NUMBER},}}\Z")
"""PyYAML computes 1:1:1:… to the base of 60, in time that grows with the square of its length."""


def loader_settings(root: str, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """The settings of each loader that the manifest speaks of.

    Args:
        root: the bundle's root.
        names: the loaders that there are.

    Raises:
        RunError: `ManifestInvalid`.
    """
    path = Path(root, FILE_NAME)
    if path.is_symlink() or not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise invalid(f"it cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise invalid(f"it is larger than {_MAX_BYTES} bytes")
    if b"loaders" not in content:
        return {}  # PyYAML takes a tenth of what an unchanged pass does
    found = _mapping(_mapping(_mapping(_parsed(content), "it"), "it", "bundle_config"), "bundle_config", "loaders")
    unknown = sorted(set(map(str, found)) - set(names))
    if unknown:
        there = ", ".join(sorted(names))
        raise invalid(f"bundle_config.loaders.{unknown[0]} is no loader of this environment; there are: {there}")
    return {name: _mapping(found, "bundle_config.loaders", name) for name in found}


def invalid(what: str) -> RunError:
    """The error of a manifest that cannot be used."""
    return RunError("ManifestInvalid", f"the manifest {FILE_NAME} cannot be used: {what}")


def _mapping(value: Any, name: str, key: str | None = None) -> dict[str, Any]:
    if key is not None:
        value, name = value.get(key) or {}, key if name == "it" else f"{name}.{key}"
    if not isinstance(value, dict):
        raise invalid(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def _is_long_number(event: Any) -> bool:
    return (not event.style or event.tag is not None) and _LONG_NUMBER.match(event.value) is not None


def _parsed(content: bytes) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise invalid("bundle_config.loaders needs PyYAML, which is not installed in this environment") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(content, Loader=loader):  # before anything is built of it: little YAML can say much
            if isinstance(event, yaml.AliasEvent):
                raise invalid("it uses YAML aliases, which are not accepted here: write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise invalid(f"lists and maps nest deeper than {_MAX_DEPTH} levels")
            if isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
                raise invalid(f"a number has more than {_MAX_NUMBER} characters")
        return yaml.load(content, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise invalid(f"it is no YAML that can be read: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:  # of PyYAML's constructors, by a tag that does not fit
        raise invalid(
            f"it is no YAML that can be read: a value does not fit its tag ({type(error).__name__})"
        ) from error

"""What the two sides, which share no code, read of one manifest: for the tests that hold them together."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from dagbundle import errors
from dagbundle.cli import inputs
from dagbundle_parser.errors import RunError
from dagbundle_parser.loaders.yaml import YamlDagLoader
from dagbundle_parser.manifest import read_manifest


class Reading(NamedTuple):
    """All that a manifest decides."""

    parser: str | None
    processes: int | None
    directories: tuple[str, ...] | None
    loaders: tuple[str, ...]
    """The names of those that have settings, besides `yaml`."""


def of_trusted_side(folder: pathlib.Path) -> Reading | str:
    """What the trusted side reads in a folder, or why it refuses it."""
    try:
        manifest = inputs.manifest_of(folder)
    except errors.ResourceError as error:
        return f"{error.message} ({error.hint})"
    assert manifest is not None
    config = manifest.bundle_config
    directories = (
        None if config.directories_to_scan is None else tuple(item.path for item in config.directories_to_scan)
    )
    loaders = tuple(sorted(config.loaders.__pydantic_extra__ or {}))
    return Reading(manifest.parser_type, config.processes, directories, loaders)


def of_parser(folder: pathlib.Path) -> Reading | str:
    """What the parser reads there, or why it refuses it."""
    try:
        found = read_manifest(str(folder))
        with found.blamed("yaml"):
            YamlDagLoader().configure(found.loaders.get("yaml", {}))
    except RunError as error:
        return f"{error.kind}: {error}"
    loaders = tuple(sorted(found.loaders.keys() - {"yaml"}))
    return Reading(found.parser_type, found.processes, found.directories, loaders)

"""The manifest, `dagbundle.yaml` in the bundle's root (AIP-85, v1beta): how its authors want the bundle to be parsed.

The parser reads it, because on a cluster nobody else has the bundle's files. What the run request leaves open, the
manifest decides. `dagbundle.resources.manifest` has the same rules for the trusted side, which looks at a local folder
before anything is started; tests/unit/house/test_manifest_readers.py holds the two to each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagbundle_parser.errors import RunError
from dagbundle_parser.manifest_text import FILE_NAME, MAX_BYTES, ManifestText, invalid, shown
from dagbundle_parser.request import RunRequest

PARSER, PROCESSES = "parser", "processes"
"""What a run request can leave to the manifest."""
_PREFIX = str(invalid(""))
_VERSION = "v1beta"
_KEYS = ("version", "bundle_parser", "bundle_fetch_interval", "bundle_config")
_CONFIG_KEYS = ("processes", "loaders", "directories_to_scan")
_DIRECTORY_KEYS = ("path", "scan_interval", "min_file_parse_interval")
_ENDING = "BundleParser"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]*")
_MAX_NAME = 100
_MAX_INTERVAL = 100
_MAX_PROCESSES = 64
_MAX_DIRECTORIES = 1_000
_MAX_PATH = 1_024
_NO_BREAK = "it begins with a no-break space, as text from a web page may: write spaces"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a bundle's manifest holds; without arguments, what holds where there is none.

    Attributes:
        parser_type: the bundle parser, without the ending `BundleParser`; None leaves it open.
        processes: how many files are parsed at a time; None leaves it open.
        directories: the folders, relative to the root, that alone are scanned; None scans all.
        loaders: settings of loaders, by their names.
        digest: SHA-256 of the file, in hex; empty where there is none.
        places: where the folders and the settings of each loader stand in the file, for errors.
    """

    parser_type: str | None = None
    processes: int | None = None
    directories: tuple[str, ...] | None = None
    loaders: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    digest: str = ""
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def require_loaders(self, names: Collection[str]) -> None:
        """Make sure that the settings are of loaders that there are.

        Raises:
            RunError: `ManifestInvalid`.
        """
        for name in sorted(self.loaders.keys() - set(names)):
            there = ", ".join(sorted(names))
            what = f"bundle_config.loaders.{name} is no loader of this environment; there are: {there}"
            raise invalid(f"{self.places[name]}: {what}")

    def require_directories(self, root: str) -> None:
        """Make sure that the bundle has the folders that are to be scanned.

        Raises:
            RunError: `ManifestInvalid`.
        """
        for number, path in enumerate(self.directories or ()):
            if not os.path.isdir(os.path.join(root, path)):  # noqa: PTH112, PTH118 - pathlib raises where a name is too long
                what = f"bundle_config.directories_to_scan[{number}].path: the bundle has no folder {path!r}"
                raise invalid(f"{self.places[path]}: {what}")

    def scans(self, path: str) -> bool:
        """Whether a path, relative to the root, lies in a folder that is scanned."""
        return self.directories is None or any(
            folder in {".", path} or path.startswith(f"{folder}/") for folder in self.directories
        )

    @contextlib.contextmanager
    def blamed(self, loader: str) -> Iterator[None]:
        """Add to what a loader does not take where its settings stand."""
        try:
            yield
        except RunError as error:
            if error.kind != "ManifestInvalid" or loader not in self.places:
                raise
            raise invalid(f"{self.places[loader]}: {str(error).removeprefix(_PREFIX)}") from error


def read_manifest(root: str) -> Manifest:
    """Read the manifest in a bundle's root.

    Raises:
        RunError: `ManifestInvalid`.
    """
    path = Path(root, FILE_NAME)
    if path.is_symlink() or not path.is_file():
        return Manifest()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise invalid(f"it cannot be read: {error.strerror}") from error
    return dataclasses.replace(_Reader(ManifestText(content)).read(), digest=hashlib.sha256(content).hexdigest())


def decided(request: RunRequest, manifest: Manifest) -> tuple[RunRequest, dict[str, Any]]:
    """Let the manifest decide what a run request leaves open.

    Returns:
        The request with all decided, and what the report's `open` record adds about it: nothing where the request does
        not tell what it leaves open, as those of older versions do not.
    """
    if request.defaults is None:
        return request, {}
    found = {PARSER: manifest.parser_type, PROCESSES: manifest.processes}
    origins = {
        name: "spec" if name not in request.defaults else "default" if value is None else "manifest"
        for name, value in found.items()
    }
    if origins[PARSER] == "manifest" and manifest.parser_type is not None:
        request = dataclasses.replace(request, parser_type=manifest.parser_type)
    if origins[PROCESSES] == "manifest" and manifest.processes is not None:
        request = dataclasses.replace(request, processes=manifest.processes)
    return request, {"processes": request.processes, "origins": origins}


class _Reader:
    """Makes a manifest of the file's document."""

    def __init__(self, text: ManifestText) -> None:
        self._text = text

    def read(self) -> Manifest:
        found = self._members(self._text.value, (), _KEYS)
        if "version" not in found:
            raise invalid(f"version is missing: write `version: {_VERSION}`")
        version, place = found["version"]
        if version != _VERSION:
            raise self._wrong(place, f"must be {_VERSION}, and is {shown(version)}")
        self._interval(found, "bundle_fetch_interval")
        config = self._config(*found.get("bundle_config", ({}, ())))
        directories = self._directories(*config["directories_to_scan"]) if "directories_to_scan" in config else None
        loaders, places = self._loaders(config)
        places |= dict(directories or ())
        return Manifest(
            parser_type=self._parser_type(found),
            processes=self._processes(config),
            directories=None if directories is None else tuple(path for path, _ in directories),
            loaders=loaders,
            places=places,
        )

    def _parser_type(self, found: _Members) -> str | None:
        if "bundle_parser" not in found:
            return None
        value, place = found["bundle_parser"]
        if not isinstance(value, str) or len(value) > _MAX_NAME or not _NAME.fullmatch(value):
            raise self._wrong(
                place,
                f"must be the name of a parser: a letter, then letters, digits, _, . or -, at most {_MAX_NAME} "
                f"characters; it is {shown(value)}",
            )
        return value.removesuffix(_ENDING) or value

    def _processes(self, config: _Members) -> int | None:
        if "processes" not in config:
            return None
        value, place = config["processes"]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_PROCESSES:
            raise self._wrong(place, f"must be a whole number from 1 to {_MAX_PROCESSES}, and is {shown(value)}")
        return value

    def _config(self, value: Any, place: _Path) -> _Members:
        """The settings: a mapping, or, as the proposal writes them, a list of mappings."""
        if not isinstance(value, list):
            return self._members(value, place, _CONFIG_KEYS)
        found: _Members = {}
        for number, item in enumerate(value):
            members = self._members(item, (*place, number), _CONFIG_KEYS)
            for name in members.keys() & found.keys():
                raise self._wrong(members[name][1], "is given twice: keep one of the two")
            found |= members
        return found

    def _directories(self, value: Any, place: _Path) -> list[tuple[str, str]]:
        if not isinstance(value, list) or not 1 <= len(value) <= _MAX_DIRECTORIES:
            raise self._wrong(place, f"must be a list of 1 to {_MAX_DIRECTORIES:,} folders, and is {shown(value)}")
        found = []
        for number, item in enumerate(value):
            members = self._members(item, (*place, number), _DIRECTORY_KEYS)
            for name in ("scan_interval", "min_file_parse_interval"):
                self._interval(members, name)
            if "path" not in members:
                raise self._wrong((*place, number), "has no path")
            path, where = members["path"]
            found.append((self._folder(path, where), self._text.place(where)))
        return found

    def _folder(self, value: Any, place: _Path) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= _MAX_PATH or not value.isprintable():
            raise self._wrong(place, f"must be a folder's path, at most {_MAX_PATH:,} characters; it is {shown(value)}")
        parts = [part for part in value.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise self._wrong(place, f"must lie in the bundle, without '..'; it is {shown(value)}")
        return "/".join(parts) or "."

    def _loaders(self, config: _Members) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
        settings: dict[str, Mapping[str, Any]] = {}
        places: dict[str, str] = {}
        for name, (value, place) in self._members(*config.get("loaders", ({}, ()))).items():
            if not isinstance(value, dict):
                raise self._wrong(place, f"must be a mapping, and is {shown(value)}")
            settings[name], places[name] = value, self._text.place(place)
        return settings, places

    def _interval(self, found: _Members, name: str) -> None:
        value, place = found.get(name, ("-", ()))
        if not isinstance(value, str) or not 1 <= len(value) <= _MAX_INTERVAL or not value.isprintable():
            raise self._wrong(
                place, f"must be a text such as `5 minutes`, at most {_MAX_INTERVAL} characters; it is {shown(value)}"
            )

    def _members(self, value: Any, place: _Path, allowed: Sequence[str] = ()) -> _Members:
        """The members of a mapping, each with where it stands. One without a value counts as if it were not there."""
        if value is None and place:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(place, f"must be a mapping, and is {shown(value)}")
        for key in value:
            if not isinstance(key, str) or (allowed and key not in allowed):
                there = f"; there are: {', '.join(sorted(allowed))}" if allowed else ", and names are texts"
                name = key[:_MAX_NAME] if isinstance(key, str) else shown(key)
                spaces = f"; {_NO_BREAK}" if name.startswith("\xa0") else ""
                raise self._wrong((*place, name), f"is unknown{there}{spaces}")
        return {key: (item, (*place, key)) for key, item in value.items() if item is not None}

    def _wrong(self, place: _Path, what: str) -> RunError:
        return invalid(f"{self._text.place(place)}: {_dotted(place)} {what}")


_Path = tuple["str | int", ...]
"""Where something stands in the document: keys of mappings and numbers of items."""
_Members = dict[str, tuple[Any, _Path]]
"""Members of a mapping by their keys, each with where it stands."""


def _dotted(place: _Path) -> str:
    """The place as people write it; which item of `bundle_config` it is in, where that is a list, the line says."""
    named = place if place[1:2] == () or isinstance(place[1], str) else (place[0], *place[2:])
    text = ""
    for part in named:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the document"

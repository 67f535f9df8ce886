"""Which YAML files are left to the Python files that load them.

With dag-factory, a Python file beside the YAML loads it with defaults of its own. The DAGs belong to the Python file
then, as in stock Airflow, and the YAML loader does not load the YAML again. It does not load YAML either that lies
beside or below such a file and that the file does not read: stock Airflow publishes none of it. Children report which
files they opened. For files that are not parsed again, the stored closures say it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import posixpath
from collections.abc import Mapping, Sequence

from dagbundle_parser.discovery import ListedFile
from dagbundle_parser.request import KnownFile

READ_BY, BESIDE = "//read-by", "//beside"
"""Keys of a closure that name the file which a file was left to: it reads that one, or others around it."""


@dataclasses.dataclass(frozen=True)
class Left:
    """To which file another one is left.

    Attributes:
        key: READ_BY or BESIDE.
        reader: the file that it is left to.
    """

    key: str
    reader: str


def left_of(known: KnownFile | None) -> Left | None:
    """Return to which file this one was left in its last report."""
    for key in (READ_BY, BESIDE):
        reader = known.closure.get(key) if known is not None else None
        if isinstance(reader, str):
            return Left(key, reader)
    return None


class Readers:
    """Knows which files read which.

    Args:
        root: the bundle's root.
        known: what the store remembers of files.
        files: the listing.
    """

    def __init__(self, root: str, known: Mapping[str, KnownFile], files: Sequence[ListedFile]) -> None:
        self._known = known
        self._giving = {file.path for file in files if file.loader is not None and file.loader.gives_way(file.path)}
        self._others = {file.path for file in files} - self._giving
        self._told: dict[str, set[str]] = {}
        self._by_path: dict[str, str] | None = None
        self._by_folder: dict[str, str] = {}
        self.watched = {os.path.realpath(f"{root}/{path}"): path for path in sorted(self._giving)}
        """The files that may be left to others, by their real paths."""

    def gives_way(self, path: str) -> bool:
        """Whether a file is left to one that reads it."""
        return path in self._giving

    def hear(self, reader: str, body: bytes) -> None:
        """Take what a child tells of the watched files that it opened; a file may have it say anything."""
        try:
            opened = json.loads(body)
        except (ValueError, RecursionError):
            return
        if reader in self._others and isinstance(opened, list):
            self._told[reader] = self._giving.intersection(path for path in opened if isinstance(path, str))
            self._by_path = None

    def of(self, path: str) -> Left | None:
        """Return to which file this one is left; None where its own loader loads it.

        Where the reader's process died before it reported, the stored closure counts.
        """
        by_path = self._index()
        if path in by_path:
            return Left(READ_BY, by_path[path])
        left = left_of(self._known.get(path))
        if left is not None and left.reader in self._others and left.reader not in self._told:
            return left
        folder = path
        while folder:
            folder = posixpath.dirname(folder)
            if folder in self._by_folder:
                return Left(BESIDE, self._by_folder[folder])
        return None

    def _index(self) -> dict[str, str]:
        """Return the reader of each file that is read (the first by path), and fill the readers by folder."""
        if self._by_path is None:
            self._by_path, self._by_folder = {}, {}
            for reader in sorted(self._others):
                opened = self._told.get(reader)
                if opened is None:
                    opened = self._giving.intersection(self._known[reader].closure if reader in self._known else ())
                for path in opened:
                    self._by_path.setdefault(path, reader)
                if opened:
                    self._by_folder.setdefault(posixpath.dirname(reader), reader)
        return self._by_path

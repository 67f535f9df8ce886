"""Says what paths, variables and the environment are now, in the words of a closure (closure.py has the vocabulary).

The same words are written when a file has been parsed and compared before the next time it would be.
"""

# ruff: noqa: PTH115, PTH116, PTH118 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagbundle_parser import looks

ABSENT = "absent"
ALL_VARIABLES, WHOLE, PLACE = "//env", "//whole", "//place"
"""Keys of what is no path: the whole environment's variables; all that a broken file may have failed of; where the
bundle lies."""
VARIABLE, HOME, LIBRARY = "//env/", "//home/", "//path/"
"""Prefixes of keys: a variable, what lies in AIRFLOW_HOME, what lies in an importable folder by its number."""
STATUSES = "statuses"
_MAX_FILE_BYTES = 64 << 20
_VOLATILE = frozenset(
    {"PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME", "TERM", "COLUMNS", "LINES", "WINDOWID", "INVOCATION_ID",
     "JOURNAL_STREAM", "XDG_SESSION_ID", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"}
)  # fmt: skip
"""Variables that differ between runs of the same deployment: they count only where a file reads them by name."""
_VOLATILE_PREFIXES = ("DAGBUNDLE_", "SSH_")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where things lie on this machine, and what a closure calls them, which is the same on another.

    Attributes:
        root: the bundle's root.
        home: AIRFLOW_HOME.
        libraries: importable folders that no distribution owns, in the order of sys.path.
    """

    root: str
    home: str = ""
    libraries: Sequence[str] = ()

    def key(self, path: str) -> str:
        """What a closure calls an absolute path."""
        if path == self.root:
            return "."
        for inside, prefix in self._prefixes:
            if path.startswith(inside):
                return prefix + path[len(inside) :]
            if path == inside[:-1]:
                return prefix[:-1]
        return path

    def path(self, key: str) -> str:
        """The absolute path that a closure's key stands for."""
        if not key.startswith("/"):
            return self.root if key == "." else f"{self.root}/{key}"
        for inside, prefix in self._prefixes[1:]:
            if key.startswith(prefix):
                return inside + key[len(prefix) :]
            if key == prefix[:-1]:
                return inside[:-1]
        return key

    @functools.cached_property
    def _prefixes(self) -> list[tuple[str, str]]:
        """Folders, each with a trailing slash, and what a closure calls them."""
        found = [(f"{self.root}/", "")]
        found += sorted(
            ((f"{folder}/", f"{LIBRARY}{number}/") for number, folder in enumerate(self.libraries)),
            key=lambda named: -len(named[0]),
        )
        return [*found, (f"{self.home}/", HOME)] if self.home else found


class Prober:
    """Answers, and remembers its answers, since many closures name the same paths.

    Args:
        places: where things lie.
        digests: SHA-256 in hex of files that were read already, by path relative to the root.
        environ: the environment that the parser was started in.
        whole: says all that is known of the environment, for files that are broken.
    """

    def __init__(
        self,
        places: Places | str,
        digests: Mapping[str, str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        whole: str = "",
    ) -> None:
        self.places = Places(places.rstrip("/")) if isinstance(places, str) else places
        root = self.places.root
        self._environ = {} if environ is None else environ
        self._whole = whole
        self._words: dict[str, str | None] = {**(digests or {})}
        self._words[PLACE] = _digest(f"{root} {os.path.realpath(root)} {self.places.home}")

    def holds(self, closure: Mapping[str, Any]) -> bool:
        """Whether nothing that a closure names has changed; an empty closure never holds."""
        return bool(closure) and all(isinstance(word, str) and self.word(key) == word for key, word in closure.items())

    def word(self, key: str) -> str | None:
        """What a key's word is now; None for what cannot be judged."""
        if key not in self._words:
            self._words[key] = self._find(key)
        return self._words[key]

    def _find(self, key: str) -> str | None:
        if key == ALL_VARIABLES:
            return _digest("\0".join(f"{name}={value}" for name, value in lasting(self._environ)))
        if key == WHOLE:
            return self._whole or None
        if key.startswith(VARIABLE):
            names = key[len(VARIABLE) :].split(" ")
            return _digest("\0".join(f"{name}={self._environ.get(name)}" for name in names))
        what = key.rpartition("//")[2]
        if what in _FINDERS and len(key) > len(what) + 2:
            return _FINDERS[what](self.places.path(key[: -len(what) - 2]))
        if key.endswith("/"):
            return _listing_word(self.places.path(key[:-1]))
        return _file_word(self.places.path(key))


def lasting(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables of an environment that do not differ between runs of one deployment, sorted."""
    return sorted((name, value) for name, value in environ.items() if is_lasting(name))


def is_lasting(name: str) -> bool:
    """Whether a variable is none of those that differ between runs of one deployment."""
    return name not in _VOLATILE and not name.startswith(_VOLATILE_PREFIXES)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _file_word(path: str) -> str | None:
    """The SHA-256 of a file's content, ABSENT, or None for what is no file or too large to judge."""
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            return _listing_word(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE_BYTES:
            return None
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except (OSError, ValueError):
        return None


def _listing_word(path: str) -> str:
    """The SHA-256 of the names in a folder and of which are folders, or ABSENT."""
    try:
        with os.scandir(path) as scan:
            names = sorted(entry.name + "/" * entry.is_dir() for entry in scan if entry.name != "__pycache__")
    except (OSError, ValueError):
        return ABSENT
    return _digest("\0".join(names))


def _statuses_word(path: str) -> str:
    """The same, with the size and time of each, or ABSENT."""
    try:
        names = sorted(name for name in os.listdir(path) if name != "__pycache__")  # noqa: PTH208 - see above
    except (OSError, ValueError):
        return ABSENT
    return _digest("\0".join(f"{name} {_status(os.path.join(path, name), follow=True)}" for name in names))


def _kind_word(path: str) -> str:
    try:
        return _kind(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        return _why(error)


def _link_word(path: str) -> str:
    try:
        mode = os.lstat(path).st_mode
        return f"link {_digest(os.readlink(path))}" if stat.S_ISLNK(mode) else _kind(mode)
    except (OSError, ValueError) as error:
        return _why(error)


def _mode_word(path: str) -> str:
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        return _why(error)
    return f"{info.st_mode:o} {info.st_uid} {info.st_gid}"


def _status(path: str, *, follow: bool) -> str:
    try:
        info = os.stat(path, follow_symlinks=follow)
    except (OSError, ValueError) as error:
        return _why(error)
    return f"{info.st_mode:o} {info.st_size} {info.st_mtime_ns}"


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def _why(error: Exception) -> str:
    return ABSENT if isinstance(error, (FileNotFoundError, NotADirectoryError)) else "closed"


_FINDERS: dict[str, Callable[[str], str]] = {
    looks.KIND: _kind_word,
    looks.LINK: _link_word,
    looks.MODE: _mode_word,
    looks.STATUS: lambda path: _status(path, follow=True),
    looks.OWN_STATUS: lambda path: _status(path, follow=False),
    STATUSES: _statuses_word,
}

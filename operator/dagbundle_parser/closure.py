"""What a file's result depends on: recorded while it is parsed, checked before the next time it would be.

An audit hook sees every open, listing, socket and subprocess of the child. Its blind spots (a C library that reads by
itself, `os.path.exists`, the clock) are why a result is never trusted for longer than `maxUnchangedAge`.

A closure maps a path to a word. Under the bundle's root paths are relative, elsewhere absolute. `path: <sha256>` is a
file's content, `path: absent` an open that failed, `path/: <sha256>` the names in a folder that was listed.
"""

# ruff: noqa: PTH116, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ABSENT = "absent"
MAX_ENTRIES = 2000
_MAX_FILE_BYTES = 64 << 20

_DYNAMIC = {
    "socket": "socket",
    "ctypes": "ctypes",
    "subprocess": "subprocess",
    "urllib": "socket",
    "http": "socket",
    "ftplib": "socket",
    "smtplib": "socket",
    "sqlite3": "database",
    "os.system": "subprocess",
    "os.exec": "subprocess",
    "os.posix_spawn": "subprocess",
    "os.spawn": "subprocess",
    "os.startfile": "subprocess",
    "os.fork": "subprocess",
    "os.forkpty": "subprocess",
    "pty.spawn": "subprocess",
    "mmap.__new__": "mmap",
    "os.rename": "writing",
    "os.remove": "writing",
    "os.mkdir": "writing",
    "os.rmdir": "writing",
    "os.link": "writing",
    "os.symlink": "writing",
    "os.truncate": "writing",
    "shutil": "writing",
    "tempfile": "writing",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_UNSEEN = ("/dev/null", "/dev/urandom", "/dev/random")


def loaded_after(last: str) -> list[str]:
    """The names of modules that came after one. No others are touched: in a child that would copy their memory."""
    return list(itertools.takewhile(lambda name: name != last, reversed(sys.modules)))


class Recorder:
    """Records what the current process opens, lists and does from `start` to `finish`.

    An audit hook cannot be removed, so one recorder is made per child.

    Args:
        root: the bundle's root.
        ignored: prefixes of paths that the fingerprint covers: the standard library and installed distributions.
    """

    def __init__(self, root: str, ignored: Iterable[str]) -> None:
        self._root = root.rstrip("/")
        self._ignored = tuple(ignored)
        self._active = False
        self._opened: set[str] = set()
        self._listed: set[str] = set()
        self._dynamic: set[str] = set()
        self._last_module = ""
        self._getcwd, self._fspath, self._fsdecode = os.getcwd, os.fspath, os.fsdecode
        sys.addaudithook(self._hook)

    def start(self) -> None:
        """Forget what was recorded and record."""
        self._opened, self._listed, self._dynamic = set(), set(), set()
        self._last_module = next(reversed(sys.modules))
        self._active = True

    def finish(self) -> tuple[dict[str, str], set[str]]:
        """Stop and return the closure, and the reasons why the result depends on more than files.

        With any reason, or with more than MAX_ENTRIES entries, the closure is empty.
        """
        self._active = False
        for name in loaded_after(self._last_module):
            origin = getattr(sys.modules[name], "__file__", None)
            if isinstance(origin, str):
                self._opened.add(origin)
        paths = {path for path in self._opened if not self._is_covered(path)}
        listed = {path for path in self._listed if not self._is_covered(path + "/")}
        if len(paths) + len(listed) > MAX_ENTRIES:
            self._dynamic.add("too many files")
        if self._dynamic:
            return {}, self._dynamic
        prober = Prober(self._root)
        closure: dict[str, str] = {}
        for path in paths:
            word = prober.file(path)
            if word is None:
                return {}, {"device"}
            closure[self._key(path)] = word
        for path in listed:
            closure[self._key(path) + "/"] = prober.listing(path)
        return dict(sorted(closure.items())), set()

    def note(self, reason: str) -> None:
        """Add a reason why the result depends on more than files."""
        self._dynamic.add(reason)

    def _is_covered(self, path: str) -> bool:
        return path.startswith(self._ignored) and not path.startswith(self._root + "/")

    def _key(self, path: str) -> str:
        if path == self._root:
            return "."
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else path

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._open(*arguments)
        elif event in {"os.listdir", "os.scandir"}:
            path = arguments[0]
            if isinstance(path, int):
                self._dynamic.add("listing of a descriptor")
            else:
                self._listed.add(self._absolute("." if path is None else path))
        else:
            reason = _DYNAMIC.get(event) or _DYNAMIC.get(event.partition(".")[0])
            if reason is not None:
                self._dynamic.add(reason)

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        name = self._absolute(path)
        if name in _UNSEEN:
            return
        if isinstance(flags, int) and flags & _WRITING:
            self._dynamic.add("writing")
        elif mode is None and not name.startswith("/"):
            self._dynamic.add("open beside a descriptor")
        self._opened.add(name)

    def _absolute(self, path: Any) -> str:
        name = self._fsdecode(self._fspath(path))
        if not name.startswith("/"):
            try:
                name = f"{self._getcwd()}/{name}"
            except OSError:
                self._dynamic.add("no working directory")
        return os.path.normpath(name) if "/." in name or "//" in name or name.endswith("/") else name


class Prober:
    """Says what a path is now, in a closure's words; remembers, since many closures name the same paths.

    Args:
        root: the bundle's root.
        digests: SHA-256 in hex of files that were read already, by path relative to the root.
    """

    def __init__(self, root: str, digests: Mapping[str, str] | None = None) -> None:
        self._root = root.rstrip("/")
        self._files: dict[str, str | None] = {f"{self._root}/{path}": word for path, word in (digests or {}).items()}
        self._listings: dict[str, str] = {}

    def holds(self, closure: Mapping[str, Any]) -> bool:
        """Whether nothing that a closure names has changed; an empty closure never holds."""
        return bool(closure) and all(self._holds(key, word) for key, word in closure.items())

    def _holds(self, key: str, word: object) -> bool:
        path = key if key.startswith("/") else f"{self._root}/{key}"
        if key.endswith("/"):
            return self.listing(path.rstrip("/").removesuffix("/.")) == word
        return self.file(path) == word

    def file(self, path: str) -> str | None:
        """The SHA-256 of a file's content, ABSENT, or None for what is no file or too large to judge."""
        if path not in self._files:
            self._files[path] = _file_word(path)
        return self._files[path]

    def listing(self, path: str) -> str:
        """The SHA-256 of the names in a folder, or ABSENT."""
        if path not in self._listings:
            self._listings[path] = _listing_word(path)
        return self._listings[path]


def _file_word(path: str) -> str | None:
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
    try:
        names = sorted(name for name in os.listdir(path) if name != "__pycache__")
    except (OSError, ValueError):
        return ABSENT
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()

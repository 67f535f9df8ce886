"""What can be imported, in one hash for each folder: by content where no distribution owns it, else by stamps too.

A distribution's name and version do not say what its files are: a step of an image's build may mend one of them. So
each installed file counts by its size and time, and a text by its content where no distribution owns it, or where its
time says nothing. Images keep whole seconds, or one time for all files.
"""

# ruff: noqa: PTH110, PTH116, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_IMPORTABLE = (".py", ".so", ".pyc", ".zip", ".egg", ".pth")
_TEXTS = (".py", ".pth", ".json", ".yaml", ".yml", ".toml", ".cfg", ".txt", "METADATA")
_SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3"})
"""Folders of Python's own that hold other things, or nothing that a DAG file imports."""
_MOST_FILES = 20_000
_MOST_BYTES = 1 << 20
_LARGE_BYTES = 64 << 20
_SECOND = 1_000_000_000
_MOST_TREE_FILES = 2000


def installed(directory: str) -> str:
    """The hash of a folder of Python's own modules, or of installed distributions; `absent` where there is none.

    Args:
        directory: absolute.
    """
    digest = hashlib.sha256()
    owned = _owned(directory)
    count = 0
    for entry in _walk(directory, skip=_SKIPPED if owned is None else frozenset()):
        count += 1
        try:
            info = entry.stat()
        except OSError:
            continue  # it is gone by now
        name = entry.path[len(directory) + 1 :]
        word = f"{info.st_size} {info.st_mtime_ns}"
        if info.st_size <= _MOST_BYTES and name.endswith(_TEXTS):
            if not info.st_mtime_ns % _SECOND or (owned is not None and name not in owned):
                word = content_of(entry.path)
        elif owned is not None and name not in owned and info.st_size <= _LARGE_BYTES:
            word = content_of(entry.path)
        digest.update(f"{name} {word}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest() if count else "absent"


def importable(directory: str, *, without: str) -> str:
    """The hash of the content of all that could be imported from a folder, or of an archive.

    Args:
        directory: absolute; may be an archive.
        without: a folder in it that is left out, because closures say what counts there.
    """
    if not os.path.isdir(directory):  # noqa: PTH112 - see above
        return content_of(directory)
    digest = hashlib.sha256()
    for count, entry in enumerate(_walk(directory, without=without, only_packages=True)):
        if entry.name.endswith(_IMPORTABLE):
            word = content_of(entry.path) if count < _MOST_FILES else stamp_of(entry.path)
            digest.update(f"{entry.path[len(directory) :]} {word}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def tree(directory: str) -> Iterator[str]:
    """The names and contents of all files of a folder."""
    for count, entry in enumerate(_walk(directory)):
        word = content_of(entry.path) if count < _MOST_TREE_FILES else stamp_of(entry.path)
        yield f"file {entry.path[len(directory) :]} {word}"


def content_of(path: str) -> str:
    """The SHA-256 of a file's content, or `absent`."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "absent"


def stamp_of(path: str) -> str:
    """A file's size and time, or `absent`."""
    try:
        info = os.stat(path)
    except OSError:
        return "absent"
    return f"{info.st_size} {info.st_mtime_ns}"


def _owned(directory: str) -> set[str] | None:
    """The files that installed distributions say are theirs; None where there is no distribution."""
    found: set[str] = set()
    try:
        names = [name for name in os.listdir(directory) if name.endswith(".dist-info")]
    except OSError:
        return None
    for name in names:
        with contextlib.suppress(OSError):  # then all that it brought counts by content
            record = Path(directory, name, "RECORD").read_bytes().decode("utf-8", "surrogateescape")
            found.update(line.rsplit(",", 2)[0].strip('"') for line in record.splitlines())
    return found if names else None


def _walk(
    directory: str, *, without: str = "", skip: frozenset[str] = frozenset(), only_packages: bool = False
) -> Iterator[os.DirEntry[str]]:
    """The files below a folder, sorted by folder; a link to a folder is followed where no walk has been."""
    pending, seen = [directory], {os.path.realpath(directory)}
    while pending:
        for entry in _entries(pending.pop()):
            if not entry.is_dir():
                if entry.is_file():
                    yield entry
            elif (
                entry.name != "__pycache__"
                and entry.name not in skip
                and entry.path != without
                and (entry.name.isidentifier() or not only_packages)  # else nothing in it can be imported
                and not (entry.is_symlink() and os.path.realpath(entry.path) in seen)
            ):
                if entry.is_symlink():
                    seen.add(os.path.realpath(entry.path))
                pending.append(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if not entry.is_symlink() or os.path.exists(entry.path)]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)

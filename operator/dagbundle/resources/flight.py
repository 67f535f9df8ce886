"""Which files were being parsed when a run ended before its report did.

A parser that is killed says nothing any more, and neither does its pod. So it says beforehand which files a process
begins; those that were not reported by the end were in flight.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_NAMED = 5
_NUMBER_BYTES = 32
_LONGEST = 200
"""Characters of a path that are shown."""


class Flight:
    """The files that were begun and not reported yet, in the order that they were begun in."""

    def __init__(self) -> None:
        self._batch_of: dict[bytes, int] = {}
        """The number of each file's batch. Paths are kept as UTF-8: one emoji makes a text four times as large."""
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._batch_of)

    @property
    def size(self) -> int:
        """How many bytes of memory it takes."""
        return sys.getsizeof(self._batch_of) + self._bytes

    def begin(self, paths: Sequence[str]) -> None:
        """One process begins some files, one after the other; a file that was begun before is begun anew."""
        self._count += 1
        for path in dict.fromkeys(paths):
            self.end(path)
            key = _encoded(path)
            self._batch_of[key] = self._count
            self._bytes += _size(key)

    def end(self, path: str) -> None:
        """A file was reported."""
        key = _encoded(path)
        if self._batch_of.pop(key, None) is not None:
            self._bytes -= _size(key)

    @property
    def names(self) -> list[str]:
        """The files that processes were at: the first of each batch that has any left."""
        first: dict[int, bytes] = {}
        for key, number in self._batch_of.items():
            first.setdefault(number, key)
        return [key.decode("utf-8", "surrogatepass") for key in first.values()]


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _size(key: bytes) -> int:
    return sys.getsizeof(key) + _NUMBER_BYTES


def described(names: Sequence[str]) -> str:
    """Say it, for the end of a sentence; empty where there was none. Bounded and escaped: the names are hostile."""
    if not names:
        return ""
    shown = ", ".join(_shown(name) for name in names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"; in flight: {shown}{more}"


def _shown(path: str) -> str:
    text = path if len(path) <= _LONGEST else f"{path[: _LONGEST // 2]}…{path[-_LONGEST // 2 :]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

"""Which files were being parsed when a run ended before its report did.

A parser that is killed says nothing any more, and neither does its pod. So it says beforehand which files a process
begins; those that were not reported by the end were in flight.
"""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 5
_LONGEST = 200
"""Characters of a path that are shown."""


class Flight:
    """The files that were begun and not reported yet, in the batches that they were begun in."""

    def __init__(self) -> None:
        self._batches: dict[int, dict[str, None]] = {}
        self._batch_of: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._batch_of)

    def begin(self, paths: Sequence[str]) -> None:
        """One process begins some files, one after the other; a file that was begun before is begun anew."""
        for path in paths:
            self.end(path)
        if not paths:
            return
        self._count += 1
        self._batches[self._count] = dict.fromkeys(paths)
        self._batch_of.update(dict.fromkeys(paths, self._count))

    def end(self, path: str) -> None:
        """A file was reported."""
        number = self._batch_of.pop(path, None)
        if number is not None:
            del self._batches[number][path]
            if not self._batches[number]:
                del self._batches[number]

    @property
    def names(self) -> list[str]:
        """The files that processes were at: the first of each batch that has any left."""
        return [next(iter(batch)) for batch in self._batches.values()]


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

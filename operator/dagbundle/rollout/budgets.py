"""How much of one rollout's report is kept: errors, warnings and closures, whose number a tenant decides.

Called where reports are taken (`engine.collecting`) and where what is remembered is read again (`store.memory`). Each
bound is far above what an honest bundle sends. What is over it is left out in a way that its author sees, and that
never makes a broken file a good one.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from typing import Any

from dagbundle.rollout.model import ParseWarning, Problem, StagedFile

TEXT_BYTES = 16 << 20
"""Bytes of the errors and warnings that one rollout keeps in all, in memory or in the database."""
TEXTS = 20_000
"""How many errors and warnings one rollout keeps in all."""
LEAST_TEXT_BYTES = 16 << 10
LEAST_TEXTS = 20
"""What each run may send however many runs a rollout has; 2,048 runs (64 subdirs of 32 shards) send 32 MiB then."""
REMEMBERED_TEXT_BYTES = 1 << 20
"""Bytes of the outcomes of one subdir's files that have errors or warnings and are not parsed again."""
CLOSURE_BYTES = 2 << 20
"""Bytes of one file's closure as JSON."""
CLOSURES_BYTES = 64 << 20
"""Bytes of the closures of one subdir. A file whose closure is over it is parsed again at every run."""
_ENTRY_BYTES = 100
"""What an entry of a closure costs in memory besides its text."""
LOOKUPS = 2000
"""Variables and Connections that a run, with the passes that amend it, may have asked for: twice what one run may."""
_TEXT_ROOM = 64
"""What an error or a warning takes besides its text."""
_EMPTY = sys.getsizeof("")


def _size_of(text: str) -> int:
    """Return how many bytes a text takes, in memory or in the database: one emoji makes it four of each in memory."""
    return max(sys.getsizeof(text) - _EMPTY, len(text.encode()))


def flat(text: str) -> dict[str, str] | None:
    """Read a closure; None unless it is an object of strings that is small enough to be kept.

    An earlier version stored whatever a parser sent: what it would take as values is estimated before it is decoded.
    """
    if len(text) > CLOSURE_BYTES or text.count(",") + text.count("[") + text.count("{") > CLOSURE_BYTES // 16:
        return None
    found: Any = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
        return None
    return found


class Known:
    """Counts what is remembered of one subdir's files."""

    def __init__(self) -> None:
        self._left = CLOSURES_BYTES
        self._left_texts = REMEMBERED_TEXT_BYTES

    def copy(self) -> Known:
        """Return one that has counted the same."""
        return copy.copy(self)

    def takes_texts(self, size: int) -> bool:
        """Count an outcome with errors or warnings; False where its file must be parsed again."""
        if size > self._left_texts:
            return False
        self._left_texts -= size
        return True

    def takes(self, size: int, entries: int) -> bool:
        """Count a closure of `size` bytes; False where it is over the bound and must be left out."""
        cost = size + entries * _ENTRY_BYTES
        if cost > self._left:
            return False
        self._left -= cost
        return True


class Texts:
    """Counts the errors and warnings of one run.

    Args:
        runs: How many runs the rollout has: they share its bound.
    """

    def __init__(self, runs: int = 1) -> None:
        self._bytes = max(LEAST_TEXT_BYTES, TEXT_BYTES // max(1, runs))
        self._count = max(LEAST_TEXTS, TEXTS // max(1, runs))
        self._left_bytes = self._bytes
        self._left_count = self._count

    def keep(self, file: StagedFile) -> StagedFile:
        """Return the file with as many of its errors and warnings as there is room for.

        A file with an error keeps one at least, and both lists say how many are missing.
        """
        outcome = file.outcome
        if not outcome.problems and not outcome.warnings:
            return file
        problems = [item for item in outcome.problems if self._has_room(item.kind, item.message)]
        warnings = [item for item in outcome.warnings if self._has_room(item.category, item.message)]
        if missing := len(outcome.problems) - len(problems):
            problems.append(Problem("TooManyErrors", self._say(missing, "errors")))
        if missing := len(outcome.warnings) - len(warnings):
            warnings.append(ParseWarning("TooManyWarnings", self._say(missing, "warnings"), None))
        kept = outcome._replace(problems=tuple(problems), warnings=tuple(warnings))
        return dataclasses.replace(file, outcome=kept)

    def _has_room(self, kind: str, message: str) -> bool:
        size = _size_of(kind) + _size_of(message) + _TEXT_ROOM
        if not self._left_count or size > self._left_bytes:
            return False
        self._left_count -= 1
        self._left_bytes -= size
        return True

    def _say(self, missing: int, what: str) -> str:
        return (
            f"{missing:,} {what} of this file are left out: the run reported more than {self._count:,} errors and "
            f"warnings, or {self._bytes:,} bytes of them. Mend the first ones and apply again"
        )

"""`.airflowignore` as Airflow reads it: globs in the manner of .gitignore, or regular expressions.

Airflow does this with the pathspec library, which the parser may not use before Airflow is known to be needed.
The globs are written from the rules of gitignore(5); a test holds them to Airflow's own lister. A glob with few
wildcards becomes a regular expression. With many, that would try all ways to divide a path among them, so such a glob
is matched by an automaton, whose time grows with the product of the two lengths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

from dagbundle_parser.cpu import OutOfTimeError

IGNORE_FILE = ".airflowignore"
_UNBOUNDED = contextlib.nullcontext()

MAX_PATTERN_CHARACTERS = 4096
MAX_PATTERNS = 10_000
_MAX_WILDCARDS = 2
"""How many a regular expression may have between the first part of a path and its end."""
_ANY, _ANY_IN_FOLDER = ".", "[^/]"
_SOME_FOLDERS, _FOLDERS_BEFORE, _ALL_BELOW, _ALL, _MAYBE_BELOW = "(?:/.+)?", "(?:.+/)?", "/.*", ".+", "(?:/.*)?"
_STAR, _NAME = "[^/]*", "[^/]+"
_STEPS: dict[str, tuple[int, tuple[tuple[str, bool], ...]]] = {
    _SOME_FOLDERS: (3, (("/", False), (_ANY, False), (_ANY, True))),
    _FOLDERS_BEFORE: (3, ((_ANY, False), (_ANY, True), ("/", False))),
    _ALL_BELOW: (0, (("/", False), (_ANY, True))),
    _ALL: (0, ((_ANY, False), (_ANY, True))),
    _MAYBE_BELOW: (2, (("/", False), (_ANY, True))),
    _STAR: (0, ((_ANY_IN_FOLDER, True),)),
    _NAME: (0, ((_ANY_IN_FOLDER, False), (_ANY_IN_FOLDER, True))),
}
"""Of each part of a glob with a wildcard: how many of its steps may be left out, and the steps: the expression of a
character, and whether any number of such characters may stand there."""


class _Memory:
    """A bound for what all automata of a process remember; more is computed again, in the CPU time that there is."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, count: int) -> bool:
        """Whether so many bytes may be kept."""
        if count > self._left:
            return False
        self._left -= count
        return True


_MEMORY = _Memory(16 << 20)


class Automaton:
    """A glob with many wildcards.

    Args:
        parts: keys of `_STEPS`, and expressions of one character.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._steps: list[tuple[re.Pattern[str], bool]] = []
        self._leaps: dict[int, int] = {}
        for part in parts:
            leap, steps = _STEPS.get(part, (0, ((part, False),)))
            if leap:
                self._leaps[len(self._steps)] = len(self._steps) + leap
            self._steps += [(_one_character(expression), is_loop) for expression, is_loop in steps]
        self._known: dict[str, bytes] = {}

    def match(self, text: str) -> bool:
        """Whether it stands for the whole of a text."""
        places = self._with_leaps({0})
        for char in text:
            fits = self._fits(char)
            reached = set()
            for place in places:
                if place < len(fits) and fits[place]:
                    reached.add(place if self._steps[place][1] else place + 1)
            places = self._with_leaps(reached)
            if not places:
                return False
        return len(self._steps) in places

    def _fits(self, char: str) -> bytes:
        known = self._known.get(char)
        if known is None:
            known = bytes(pattern.match(char) is not None for pattern, _ in self._steps)
            if _MEMORY.take(len(known)):
                self._known[char] = known
        return known

    def _with_leaps(self, places: set[int]) -> set[int]:
        """What is reached from some places without a character."""
        found, waiting = set(places), list(places)
        while waiting:
            place = waiting.pop()
            further = [self._leaps[place]] if place in self._leaps else []
            if place < len(self._steps) and self._steps[place][1]:
                further.append(place + 1)
            for one in further:
                if one not in found:
                    found.add(one)
                    waiting.append(one)
        return found


@dataclasses.dataclass(frozen=True)
class IgnoreRule:
    """One line of an ignore file.

    Attributes:
        pattern: matched against a path relative to `base`, or against the name alone where `base` is None.
        base: the folder that paths are relative to, itself relative to the listing's root (empty: the root).
        ignore: False for a `!` line, which takes back what an earlier line ignored.
        directories_only: the line ended with `/`.
        regexp: the pattern is a regular expression, searched for instead of matched.
        directory: the folder that the ignore file lies in, relative to the listing's root.
        line: the line of the ignore file.
    """

    pattern: re.Pattern[str] | Automaton
    base: str | None
    ignore: bool = True
    directories_only: bool = False
    regexp: bool = False
    directory: str = ""
    line: str = ""


class SlowPatternError(Exception):
    """A pattern used up its CPU time.

    Args:
        directory: the folder that its ignore file lies in, relative to the listing's root.
        line: the pattern.
        path: what it was matched against; empty where it was compiled.
    """

    def __init__(self, directory: str, line: str, path: str) -> None:
        super().__init__(directory, line, path)
        self.directory, self.line, self.path = directory, line, path


def read_rules(
    text: str, *, directory: str, syntax: str, budget: AbstractContextManager[None] = _UNBOUNDED
) -> list[IgnoreRule]:
    """The rules of one ignore file.

    Args:
        text: the file's content.
        directory: the folder it lies in, relative to the listing's root (empty: the root itself).
        syntax: `glob` or `regexp`.
        budget: a `CpuBudget`, of which this is one step.

    Raises:
        ValueError: another syntax, a pattern that Airflow refuses, or more and longer lines than are allowed.
        SlowPatternError: the budget is used up; raised from OutOfTimeError.
    """
    if syntax not in {"glob", "regexp"}:
        raise ValueError(f"[core] dag_ignore_file_syntax must be glob or regexp, not {syntax!r}")
    compile_line = _glob_rule if syntax == "glob" else _regexp_rule
    rules = []
    lines = text.split("\n")
    if len(lines) > MAX_PATTERNS:
        raise ValueError(f"it has more than {MAX_PATTERNS:,} lines")
    pattern = ""
    try:
        with budget:
            for line in lines:
                before, hash_sign, _ = line.partition("#")
                pattern = before.rstrip() if hash_sign else line
                if len(pattern) > MAX_PATTERN_CHARACTERS:
                    raise ValueError(f"{line[:50]!r}… is longer than {MAX_PATTERN_CHARACTERS:,} characters")
                rule = compile_line(pattern, directory) if pattern else None
                if rule is not None:
                    rules.append(rule)
    except OutOfTimeError as error:
        raise SlowPatternError(directory, pattern, "") from error
    return rules


def is_ignored(
    path: str, rules: list[IgnoreRule], *, is_dir: bool, budget: AbstractContextManager[None] = _UNBOUNDED
) -> bool:
    """Whether the rules, of which later ones win, ignore `path` (relative to the listing's root).

    Args:
        path: of a file or a folder.
        rules: those of the folders above it.
        is_dir: whether it is a folder.
        budget: a `CpuBudget`, of which this is one step.

    Raises:
        SlowPatternError: the budget is used up; raised from OutOfTimeError.
    """
    name = path.rpartition("/")[2]
    if not rules:
        return False
    ignored, rule = False, rules[0]
    try:
        with budget:
            for rule in rules:
                if rule.regexp and isinstance(rule.pattern, re.Pattern):
                    if rule.pattern.search(path):
                        return True
                    continue
                if rule.directories_only and not is_dir:
                    continue
                candidate = path[len(rule.base) + 1 :] if rule.base else path if rule.base == "" else name
                if rule.pattern.match(candidate + "/" if is_dir else candidate):
                    ignored = rule.ignore
    except OutOfTimeError as error:
        raise SlowPatternError(rule.directory, rule.line, path) from error
    return ignored


def _regexp_rule(line: str, directory: str) -> IgnoreRule | None:
    try:
        return IgnoreRule(re.compile(line), None, regexp=True, directory=directory, line=line)
    except re.error:
        return None  # Airflow logs it and goes on, too
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"{line[:100]!r} is no pattern: {error}") from error


def _glob_rule(line: str, directory: str) -> IgnoreRule | None:
    if line.strip() == "/":
        return None
    anchored = line.startswith("/") or "/" in line.rstrip("/")
    text = line if line.endswith("\\ ") else line.rstrip()  # blanks in front are part of the pattern
    ignore = not text.startswith("!")
    text = text if ignore else text[1:]
    if ignore and not text:
        return None
    if not text:
        raise ValueError(f"{line!r} is no pattern: nothing follows the exclamation mark")
    try:
        parts = _glob_parts(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a bracket may mean in a later Python
            pattern = _compiled(parts) if parts is not None else None
    except (ValueError, re.error) as error:
        raise ValueError(f"{line!r} is no pattern: {error}") from error
    if pattern is None:
        return None
    return IgnoreRule(
        pattern,
        directory if anchored else None,
        ignore=ignore,
        directories_only=text.rstrip().endswith("/"),
        directory=directory,
        line=line,
    )


@functools.lru_cache(maxsize=10_000)
def _one_character(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def _compiled(parts: list[str]) -> re.Pattern[str] | Automaton:
    inner = parts[parts[0] == _FOLDERS_BEFORE : len(parts) - (parts[-1] in {_ALL_BELOW, _MAYBE_BELOW})]
    if sum(part in _STEPS for part in inner) > _MAX_WILDCARDS:
        return Automaton(parts)
    return re.compile("".join(parts) + r"\Z")


def _glob_parts(text: str) -> list[str] | None:
    """A gitignore glob as parts of a regular expression for a path, of which a directory ends with `/`.

    Returns:
        Keys of `_STEPS`, and expressions of one character; None where it matches nothing.

    Raises:
        ValueError: it ends with a backslash.
    """
    segments = text.split("/")
    if segments[0] == "":
        segments = segments[1:]  # a leading slash only anchors
    elif len(segments) == 1 or (len(segments) == 2 and segments[1] == ""):  # noqa: PLR2004 - `name` or `name/`
        segments = ["**", *segments]
    if segments and segments[-1] == "":
        segments[-1] = "**"  # `name/`: all that is below
    segments = [segment for i, segment in enumerate(segments) if segment != "**" or i == 0 or segments[i - 1] != "**"]
    out: list[str] = []
    slash, last = False, len(segments) - 1
    for i, segment in enumerate(segments):
        if segment == "**":
            if i == last:
                out.append(_ALL_BELOW if slash else _ALL)
            else:
                out.append(_SOME_FOLDERS if slash else _FOLDERS_BEFORE)
            continue
        own = [_NAME] if segment == "*" else _segment_parts(segment)
        if own is None:
            return None
        out += ["/", *own] if slash else own
        slash = True
        if i == last:
            out.append(_MAYBE_BELOW)
    return out


def _segment_parts(segment: str) -> list[str] | None:
    """What one folder's or file's name must match; None where a bracket is not closed, which git discards."""
    out: list[str] = []
    i = 0
    while i < len(segment):
        char = segment[i]
        i += 1
        if char == "\\":
            if i == len(segment):
                raise ValueError("nothing follows the backslash at its end")
            out.append(re.escape(segment[i]))
            i += 1
        elif char == "*":
            if out[-1:] != [_STAR]:
                out.append(_STAR)
        elif char == "?":
            out.append(_ANY_IN_FOLDER)
        elif char == "[":
            end = _class_end(segment, i)
            if end < 0:
                return None
            body = segment[i:end]
            negated = body[:1] in {"!", "^"}
            kept = (body[1:] if negated else body).replace("\\", "\\\\")
            out.append(f"[{'^' if negated else ''}{kept}]")
            i = end + 1
        else:
            out.append(re.escape(char))
    return out


def _class_end(segment: str, start: int) -> int:
    """Where the character class that begins before `start` ends, or -1."""
    i = start
    if segment[i : i + 1] in {"!", "^"}:
        i += 1
    if segment[i : i + 1] == "]":
        i += 1
    return segment.find("]", i)

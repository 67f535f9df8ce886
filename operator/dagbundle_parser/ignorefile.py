"""`.airflowignore` as Airflow reads it: globs in the manner of .gitignore, or regular expressions.

Airflow does this with the pathspec library, which the parser may not use before Airflow is known to be needed.
The globs are written from the rules of gitignore(5); a test holds them to Airflow's own lister.
"""

from __future__ import annotations

import dataclasses
import re
import warnings

IGNORE_FILE = ".airflowignore"

_COMMENT = re.compile(r"\s*#.*")


@dataclasses.dataclass(frozen=True)
class IgnoreRule:
    """One line of an ignore file.

    Attributes:
        pattern: matched against a path relative to `base`, or against the name alone where `base` is None.
        base: the folder that paths are relative to, itself relative to the listing's root (empty: the root).
        ignore: False for a `!` line, which takes back what an earlier line ignored.
        directories_only: the line ended with `/`.
        regexp: the pattern is a regular expression, searched for instead of matched.
    """

    pattern: re.Pattern[str]
    base: str | None
    ignore: bool = True
    directories_only: bool = False
    regexp: bool = False


def read_rules(text: str, *, directory: str, syntax: str) -> list[IgnoreRule]:
    """The rules of one ignore file.

    Args:
        text: the file's content.
        directory: the folder it lies in, relative to the listing's root (empty: the root itself).
        syntax: `glob` or `regexp`.

    Raises:
        ValueError: another syntax, or a glob that Airflow refuses.
    """
    if syntax not in {"glob", "regexp"}:
        raise ValueError(f"[core] dag_ignore_file_syntax must be glob or regexp, not {syntax!r}")
    compile_line = _glob_rule if syntax == "glob" else _regexp_rule
    rules = []
    for line in text.split("\n"):
        pattern = _COMMENT.sub("", line)
        rule = compile_line(pattern, directory) if pattern else None
        if rule is not None:
            rules.append(rule)
    return rules


def is_ignored(path: str, rules: list[IgnoreRule], *, is_dir: bool) -> bool:
    """Whether the rules, of which later ones win, ignore `path` (relative to the listing's root)."""
    name = path.rpartition("/")[2]
    ignored = False
    for rule in rules:
        if rule.regexp:
            if rule.pattern.search(path):
                return True
            continue
        if rule.directories_only and not is_dir:
            continue
        candidate = path[len(rule.base) + 1 :] if rule.base else path if rule.base == "" else name
        if rule.pattern.match(candidate + "/" if is_dir else candidate):
            ignored = rule.ignore
    return ignored


def _regexp_rule(line: str, _directory: str) -> IgnoreRule | None:
    try:
        return IgnoreRule(re.compile(line), None, regexp=True)
    except re.error:
        return None  # Airflow logs it and goes on, too


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
        regex = _glob_regex(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a bracket may mean in a later Python
            pattern = re.compile(regex) if regex is not None else None
    except (ValueError, re.error) as error:
        raise ValueError(f"{line!r} is no pattern: {error}") from error
    if pattern is None:
        return None
    return IgnoreRule(
        pattern, directory if anchored else None, ignore=ignore, directories_only=text.rstrip().endswith("/")
    )


def _glob_regex(text: str) -> str | None:
    """A gitignore glob as a regular expression for a path, of which a directory ends with `/`; None matches nothing.

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
    out, slash, last = "", False, len(segments) - 1
    for i, segment in enumerate(segments):
        if segment == "**":
            if i == last:
                out += "/.*" if slash else ".+"
            elif slash:
                out += "(?:/.+)?"
            else:
                out += "(?:.+/)?"
            continue
        own = "[^/]+" if segment == "*" else _segment_regex(segment)
        if own is None:
            return None
        out += ("/" if slash else "") + own
        slash = True
        if i == last:
            out += "(?:/.*)?"
    return out + r"\Z"


def _segment_regex(segment: str) -> str | None:
    """What one folder's or file's name must match; None where a bracket is not closed, which git discards."""
    out, i = "", 0
    while i < len(segment):
        char = segment[i]
        i += 1
        if char == "\\":
            if i == len(segment):
                raise ValueError("nothing follows the backslash at its end")
            out += re.escape(segment[i])
            i += 1
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            end = _class_end(segment, i)
            if end < 0:
                return None
            body = segment[i:end]
            negated = body[:1] in {"!", "^"}
            out += "[" + ("^" if negated else "") + (body[1:] if negated else body).replace("\\", "\\\\") + "]"
            i = end + 1
        else:
            out += re.escape(char)
    return out


def _class_end(segment: str, start: int) -> int:
    """Where the character class that begins before `start` ends, or -1."""
    i = start
    if segment[i : i + 1] in {"!", "^"}:
        i += 1
    if segment[i : i + 1] == "]":
        i += 1
    return segment.find("]", i)

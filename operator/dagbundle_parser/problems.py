"""Makes an error's text out of an exception: what a DAG's author needs, and no frame that is not theirs."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import sys
import traceback
from typing import TYPE_CHECKING

from dagbundle_parser.errors import FileProblem, FileTimeout
from dagbundle_parser.handing import is_closed
from dagbundle_parser.places import line_defining
from dagbundle_parser.sandbox import SPARE_UIDS

if TYPE_CHECKING:
    from dagbundle_parser.loaders.base import SourceFile

OWN_FRAMES = ("/dagbundle_parser/", "importlib", "/airflow/dag_processing/", "/airflow/models/dagbag.py")
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_KIND = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)
_FRAMES = 20
_DEEPEST_CAUSE = _DEEPEST_MODULE = 10
_MEMBERS, _DEEPEST_MEMBER = 20, 8


def problem_of(error: BaseException, file: SourceFile, *, doing: str = "", dag_id: str = "") -> FileProblem:
    """An exception that a file raised, as an error record.

    Args:
        error: what was raised.
        file: whose fault it is; its frames are the ones that stay in the traceback.
        doing: what was being done, when that was not importing the file.
        dag_id: of which DAG, where that is known.
    """
    found = _problem_of(error, file, doing, dag_id)
    return dataclasses.replace(found, message=_relative(found.message, file))


def _problem_of(error: BaseException, file: SourceFile, doing: str, dag_id: str) -> FileProblem:
    line = _line_of(error, file)
    if isinstance(error, MemoryError):
        return FileProblem(
            "MemoryLimit", _with_trace(f"{file.path} ran out of memory: {_MEMORY_HINT}", error, file), line
        )
    if isinstance(error, FileTimeout):
        return FileProblem("Timeout", _with_trace(str(error), error, file), line)
    if isinstance(error, RecursionError):
        text = f"{doing or file.path}: nested or recursive too deeply ({error}): flatten what nests"
        line = line_defining(dag_id, file) if line is None else line  # the compiler and the serializer leave no frame
        return FileProblem("RecursionError", _with_trace(text, error, file), line)
    if isinstance(error, SystemExit):
        text = (
            f"{file.path} called sys.exit({'' if error.code is None else repr(error.code)}) while it was imported, "
            "so its DAGs are unknown: a DAG file must not end its process"
        )
        return FileProblem("SystemExit", _with_trace(text, error, file), line)
    kind = type(error).__name__
    text = _text_of(error)
    text += _closed_below(error)
    if isinstance(error, (SyntaxError, UnicodeDecodeError)) or (isinstance(error, ValueError) and "null byte" in text):
        return FileProblem(kind, f"{file.path} is not valid Python: {text}", line)
    text += _members(error)
    return FileProblem(kind, _with_trace(f"{doing}: {kind}: {text}" if doing else f"{kind}: {text}", error, file), line)


_MEMORY_HINT = "read less at import time, move the work into a task, or raise spec.parser.fileMemory"


def problem_of_text(text: str, file: SourceFile) -> FileProblem:
    """An error of which Airflow only left a formatted traceback."""
    lines = [int(match["line"]) for match in _LINE.finditer(text) if match["file"] == file.absolute]
    kinds = [match["kind"] for match in _KIND.finditer(text)]
    kind = kinds[-1].rpartition(".")[2] if kinds else "ImportError"
    return FileProblem(kind, _relative(text.strip(), file), lines[-1] if lines else None)


def _relative(text: str, file: SourceFile) -> str:
    """Take the bundle's root out of the paths of a text: where the bundle lies is no part of what is wrong."""
    root = file.root.rstrip("/")
    return re.sub(rf"(?<![\w/.~-]){re.escape(root)}/", "", text) if root else text


def _foreign(place: object) -> str:
    """What to add where a file is of another user than the one that this process is, who are both no root."""
    try:
        path = os.path.realpath(os.fsdecode(place))  # type: ignore[arg-type]  # what else it may be is caught
        while not os.path.lexists(path):
            path = os.path.dirname(path)  # noqa: PTH120 - a text
        status, own = os.lstat(path), os.geteuid()
        owner = status.st_uid
    except (OSError, TypeError, ValueError):
        return ""
    if owner != own and is_closed(status):
        whose = "root" if owner == 0 else f"user {owner}"
        return (
            f" ({path} is closed to user {own}: it belongs to {whose}, its mode is {stat.S_IMODE(status.st_mode):04o}. "
            f"Open it (chmod o+rX {path}), or set the subdir's runAsUser to a user that may read it)"
        )
    if owner == 0 and own in SPARE_UIDS:
        return (
            f" ({path} belongs to root, and this file is parsed as user {own}: where the parser is root, files are "
            "parsed as other users. Set the subdir's runAsUser to a user that may use it)"
        )
    if owner in {own, 0}:
        return ""
    return (
        f" ({path} belongs to user {owner}, and this file is parsed as user {own}: where the parser is root, each file "
        "has a spare user. Set the subdir's runAsUser, and all its files are parsed as that one)"
    )


def _closed_below(error: BaseException) -> str:
    """What to add where a file or a folder that this process cannot read is why something failed."""
    current: BaseException | None = error
    for _ in range(_DEEPEST_CAUSE):
        if isinstance(current, PermissionError):
            return _foreign(current.filename)
        if isinstance(current, ImportError) and (words := _out_of_reach(current)):
            return words
        if current is None:
            break
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return ""


def _out_of_reach(error: ImportError) -> str:
    """What to add where a module is not found, and its folder, or one of `sys.path`, cannot be read.

    Python takes a package that it cannot look into for an empty one, and says nothing of the reason.
    """
    if error.path is not None and not isinstance(error, ModuleNotFoundError):
        return ""  # the module was found and read: it has no such name
    name = error.name if isinstance(error.name, str) else ""
    steps = name.split(".")[:_DEEPEST_MODULE]
    inner = ["/".join(steps[: count + 1]) for count in range(len(steps) if name else 0)]
    places = list(sys.path) if isinstance(error, ModuleNotFoundError) else []
    places += [f"{folder}/{path}" for folder in sys.path for path in inner]
    return next((words for words in map(_out_of_reach_in, places) if words), "")


def _out_of_reach_in(folder: str) -> str:
    try:
        os.close(os.open(folder, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return _foreign(folder)
    except (OSError, TypeError, ValueError):  # it is not there, or a file made it no path
        return ""
    return ""


def _members(error: BaseException, indent: str = "  ", most: int = _MEMBERS) -> str:
    """The exceptions that an ExceptionGroup holds, a line each; groups may hold groups."""
    members = (
        getattr(error, "exceptions", ()) if "ExceptionGroup" in {kind.__name__ for kind in type(error).__mro__} else ()
    )
    if not isinstance(members, (tuple, list)) or len(indent) > _DEEPEST_MEMBER:
        return ""
    lines = [f"\n{indent}{type(one).__name__}: {_text_of(one)}{_members(one, indent + '  ')}" for one in members[:most]]
    if len(members) > most:
        lines.append(f"\n{indent}and {len(members) - most} more")
    return "".join(lines)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a DAG file's exception may fail at being printed, too
        text = "(its message cannot be printed)"
    if isinstance(error, SyntaxError) and error.text:
        return f"{error.msg} in line {error.lineno}: {error.text.strip()[:200]}"
    return text


def _line_of(error: BaseException, file: SourceFile) -> int | None:
    """The innermost line of the DAG file that the exception, or what it was raised from, passed through."""
    if isinstance(error, SyntaxError):
        return error.lineno if error.filename in {file.absolute, None} else _frame_line(error, file)
    line = _frame_line(error, file)
    if line is None and isinstance(error, UnicodeDecodeError) and isinstance(error.object, bytes):
        return error.object.count(b"\n", 0, error.start) + 1
    return line


def _frame_line(error: BaseException, file: SourceFile) -> int | None:
    found, current, steps = None, error.__traceback__, 0
    while current is not None and steps < 100_000:  # noqa: PLR2004 - a bound, should a traceback be a circle
        if current.tb_frame.f_code.co_filename == file.absolute:
            found = current.tb_lineno
        current, steps = current.tb_next, steps + 1
    return found


def _with_trace(text: str, error: BaseException, file: SourceFile) -> str:
    try:
        frames = traceback.extract_tb(error.__traceback__)
    except Exception:  # noqa: BLE001 - reading sources for a traceback may fail in a damaged process
        return text
    own = [frame for frame in frames if not any(part in frame.filename for part in OWN_FRAMES)]
    first = next((i for i, frame in enumerate(own) if frame.filename == file.absolute), None)
    own = [] if first is None else own[first:]
    if len(own) > _FRAMES:
        own = [*own[: _FRAMES // 2], *own[-_FRAMES // 2 :]]
    if not own:
        return text
    shown = "".join(traceback.format_list(own))
    return f"{text}\nTraceback (most recent call last):\n{shown}".rstrip()

"""Makes an error out of how a child ended that left no record of its file.

A crash is placed by faulthandler, which writes into a pipe of its own: what a file prints is shown as what it printed,
whatever it looks like. The code of a file can find that pipe, as it can compile code under another file's name. So the
file and the line of the error are always those of the file that was loaded; frames of others are text below it.
"""

from __future__ import annotations

import os
import re
import signal

from dagbundle_parser.child import FAILED_STATUS, Assignment, timeout_text
from dagbundle_parser.errors import FileProblem
from dagbundle_parser.loaders.base import SourceFile
from dagbundle_parser.problems import OWN_FRAMES
from dagbundle_parser.request import Limits
from dagbundle_parser.running import Running

_FRAME = re.compile(r'  File "([^"]+)", line (\d+) in (.*)')
_DUMP = re.compile(r"Fatal Python error: |Timeout \(\d[\d:.]*\)!\n")
_PLACES = 5
_SHOWN_LINES, _SHOWN_CHARACTERS = 20, 2000


def problem_of_end(child: Running, assignment: Assignment, limits: Limits, printed: str) -> FileProblem:
    """The error of a file whose child ended without a record of it.

    Args:
        child: the child, which has ended.
        assignment: the file.
        limits: what held the child.
        printed: what may be shown of what it printed.
    """
    file, dump = assignment.file, _last_dump(child.dumped.decode("utf-8", "replace"))
    path, line, places = file.path, crash_line(dump, file.absolute), last_words(dump, printed, file)
    if child.late:
        text = f"{timeout_text(path, limits.file_seconds)}. It did not react to the time limit's signal either"
        return FileProblem("Timeout", text + places, line)
    if child.damage or child.buffer or child.status == FAILED_STATUS << 8:
        text = (
            f"what {path} sent back cannot be used: {child.damage or 'it is cut'}. A DAG file must not write to "
            "descriptors that it did not open, or close them"
        )
        return FileProblem("DamagedReport", text + places, line)
    status = child.status or 0
    if os.WIFSIGNALED(status):
        kind, text = signal_problem(path, os.WTERMSIG(status), limits.file_memory_bytes)
        return FileProblem(kind, text + places, line)
    text = (
        f"{path} ended its process with exit code {os.WEXITSTATUS(status)} while it was imported (os._exit, or a "
        "library that does so), so its DAGs are unknown: a DAG file must not end its process"
    )
    return FileProblem("ProcessExited", text + places, line)


def last_words(dump: str, printed: str, file: SourceFile) -> str:
    """What to add to an error of a file whose process ended.

    Args:
        dump: what faulthandler wrote.
        printed: the end of what the process printed.
        file: the file.
    """
    prefix = file.root.rstrip("/") + "/"
    printed = "\n".join(line for line in printed.splitlines() if not _is_noise(line, prefix))
    lines = printed.strip()[-_SHOWN_CHARACTERS:].splitlines()[-_SHOWN_LINES:]
    said = "\nIt printed last:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
    frames = [found for found in map(_FRAME.fullmatch, dump.splitlines()) if found and not _is_ours(found[1])]
    places = [frame for frame in frames if frame[1].startswith(prefix)] or frames
    shown = [f"  {frame[1].removeprefix(prefix)}, line {frame[2]}, in {frame[3]}" for frame in places[:_PLACES]]
    return ("\nIts process reported these calls, innermost first:\n" + "\n".join(shown) if shown else "") + said


def crash_line(dump: str, absolute: str) -> int | None:
    """The innermost line of the file that faulthandler named before the child ended."""
    found = re.search(rf'  File "{re.escape(absolute)}", line (\d{{1,9}}) in ', dump)
    return int(found[1]) if found else None


def signal_problem(path: str, number: int, memory: int) -> tuple[str, str]:
    """Kind and message of the error of a file whose process died of a signal; `memory` is what a file may use."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        text = (
            f"{path}: its process was killed (SIGKILL), most likely because the machine or the container ran out of "
            f"memory; a file may use {memory} bytes. Read less at import time, or give the parser more memory"
        )
        return "ProcessKilled", text
    text = (
        f"{path}: its process died of {name} while the file was imported, so its DAGs are unknown: a library written "
        "in C crashed, or the file sent itself that signal"
    )
    return "ProcessCrashed", text


def _last_dump(dump: str) -> str:
    """A process that the file forked may have written one before."""
    starts = [found.start() for found in _DUMP.finditer(dump)]
    return dump[starts[-1] :] if starts else dump


def _is_noise(line: str, prefix: str) -> bool:
    """Whether a line is of a dump that the interpreter prints where it aborts, and names nothing of the bundle."""
    frame = _FRAME.fullmatch(line)
    return line.startswith("Extension modules: ") or (frame is not None and not frame[1].startswith(prefix))


def _is_ours(filename: str) -> bool:
    return any(own in filename for own in OWN_FRAMES)

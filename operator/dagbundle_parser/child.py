"""What a child does: confine itself, load its files, and send one frame per file to the parent.

Everything that a file could rewrite and a frame needs is looked up here, before any file runs. The parent believes
nothing that a child sends: a frame that does not check out is an error of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import fcntl
import gc
import importlib
import importlib.util
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from dagbundle_parser import looks
from dagbundle_parser.ahead import MAX_TOLD_BYTES
from dagbundle_parser.closure import RECORDER
from dagbundle_parser.errors import FileProblem, FileTimeout, bounded
from dagbundle_parser.loaders.base import AbstractDagLoader, LoadedDag, LoadedWarning, LoadResult, SourceFile
from dagbundle_parser.problems import problem_of
from dagbundle_parser.request import Limits
from dagbundle_parser.sandbox import Sandbox
from dagbundle_parser.unpatched import JSONEncoder
from dagbundle_parser.values import VALUES, Line

HEADER = struct.Struct(">16scIQ")
"""A frame's header: the child's token, its kind, the file's place in the batch, the body's length in bytes."""
RESULT, GIVEN_BACK, IMPORTED, OPENED = b"R", b"G", b"I", b"O"

GRACE_SECONDS = 1.0
"""How long after its time limit a file's child is killed, so that it can first report where it hangs."""
FAILED_STATUS = 70
"""The exit code of a child that could not send a frame."""
MAX_DEPTH = 200
"""How deeply a serialized DAG may nest lists and objects."""
_MAX_ENTRIES = 200
_MAX_DAGS = 20_000
_MAX_DESCRIPTORS = 4096
_DUMP_DESCRIPTOR = 200
"""Far up: where a file closes it, a file that is opened next does not get its number, and with it the dump."""
_UNSKIPPABLE = frozenset({"Timeout", "MemoryLimit", "ReportTooLarge"})


@dataclasses.dataclass(frozen=True)
class Work:
    """What all children of a run share.

    Attributes:
        watched: files of which a child tells that it opened them, by their real paths.
    """

    limits: Limits
    sandbox: Sandbox
    fingerprint: str
    line: Line | None = None
    watched: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A file and who loads it."""

    file: SourceFile
    loader: AbstractDagLoader


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """What a child holds.

    Attributes:
        results: where it sends frames to.
        output: what becomes its stdout and stderr.
        values: on which it asks for Variables and Connections; -1 where nobody is to be asked.
        dump: where faulthandler writes, apart from what files print; -1 where nobody reads it.
    """

    results: int
    output: int
    values: int = -1
    dump: int = -1


def run_child(
    work: Work, batch: Sequence[Assignment], *, slot: int, token: bytes, descriptors: Descriptors, shared: bool
) -> NoReturn:
    """Load a batch; never returns and never raises.

    Args:
        work: what all children share.
        batch: one file, or several plain ones if `shared`.
        slot: which of the children that run at once this is.
        token: what the parent knows this child's frames by.
        descriptors: what it holds.
        shared: give a file back instead of reporting anything but a clean result.
    """
    status = FAILED_STATUS
    try:
        work.sandbox.enter_view()
        own = _arrange_descriptors(descriptors)
        VALUES.connect(own.values)
        _reset_signals()
        faulthandler.enable(own.dump, all_threads=False)  # a crash in C then tells in which line of the file it was
        work.sandbox.enter(slot)
        root = batch[0].file.root
        child = _Child(work, token, own)
        _distrust_bytecode(root)
        if root not in sys.path:
            sys.path.append(root)  # at the end, as stock Airflow does
        gc.set_threshold(50_000, 20, 100)  # a collection makes a child copy the parent's memory
        for place, assignment in enumerate(batch):
            if not child.handle(place, assignment, shared=shared):
                break
        status = 0
    except BaseException as error:  # noqa: BLE001 - the child must end here; the parent sees that a frame is missing
        os.write(2, f"\ndagbundle: the child failed: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)


class _Child:
    """Loads files and sends frames, with functions looked up before any file ran."""

    def __init__(self, work: Work, token: bytes, own: Descriptors) -> None:
        self._work, self._token, self._results, self._dump = work, token, own.results, own.dump
        self._encode: Callable[[object], str] = JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
        self._write, self._clock, self._pack = os.write, time.monotonic, HEADER.pack
        self._setitimer, self._timer = signal.setitimer, signal.ITIMER_REAL
        self._usage, self._self = resource.getrusage, resource.RUSAGE_SELF
        self._pid, self._own, self._exit = os.getpid, os.getpid(), os._exit
        self._stand_down = faulthandler.cancel_dump_traceback_later
        self._recorder = RECORDER
        self._variables = looks.variables
        self._traces: tuple[object, ...] = ()

    def handle(self, place: int, assignment: Assignment, *, shared: bool) -> bool:
        """Load one file and send its frame; False if the batch must not go on."""
        file, loader = assignment.file, assignment.loader
        started, before = self._clock(), self._usage(self._self).ru_maxrss
        if shared and place == 0:
            self._traces = loader.traces()
        environ = () if shared else self._variables()
        VALUES.begin()
        self._recorder.start()
        result = _told(self._load(file, loader, shared=shared), file)
        result.errors = [_limited(error, self._work.limits.file_memory_bytes) for error in result.errors]
        closure, dynamic = self._finish_recording(is_broken=bool(result.errors))
        if not shared and self._work.watched:
            self._tell(OPENED, place, lambda: self._recorder.opened(self._work.watched))
        if not shared and environ == self._variables():  # else they may be as only this file wants them
            self._tell(IMPORTED, place, self._recorder.imported)
        if shared:
            traces, before_traces = loader.traces(), self._traces
            printed = _flush_and_tell()
            if result.errors or dynamic or result.dynamic or printed or traces != before_traces:
                self._send(GIVEN_BACK, place, b"")
                return False
        if len(result.dags) > _MAX_DAGS:
            text = f"{file.path} holds {len(result.dags)} DAGs, more than the {_MAX_DAGS} that one file may: split it"
            result = LoadResult(errors=[FileProblem("TooManyDags", text)])
        if result.dynamic or any(error.kind in _UNSKIPPABLE for error in result.errors):
            closure = {}
        record: dict[str, Any] = {
            "path": file.path,
            "status": "parsed",
            "loader": loader.name,
            "duration": round(self._clock() - started, 6),
            "memory": max(0, self._usage(self._self).ru_maxrss - before) * 1024,
            "dags": [_dag_record(dag) for dag in sorted(result.dags, key=lambda dag: dag.dag_id)],
            "errors": [error.as_record() for error in result.errors[:_MAX_ENTRIES]],
            "warnings": [_warning_record(warning) for warning in result.warnings[:_MAX_ENTRIES]],
            "sources": result.sources,
            "fingerprint": self._work.fingerprint,
            "closure": closure,
            "dynamic": sorted(dynamic | result.dynamic),
        }
        self._send(RESULT, place, self._body(record, file))
        return True

    def _tell(self, kind: bytes, place: int, names: Callable[[], Sequence[str]]) -> None:
        """Tell which installed modules the file imported, so that the next files need not, or what it opened."""
        try:
            body = self._encode(names()).encode("ascii")
        except Exception:  # noqa: BLE001 - a file may have rewritten what this needs
            return
        if len(body) <= most_told(kind, self._work.limits) and (kind == OPENED or body != b"[]"):
            self._send(kind, place, body)

    def _finish_recording(self, *, is_broken: bool) -> tuple[dict[str, str], set[str]]:
        try:
            return self._recorder.finish(is_broken=is_broken)
        except Exception:  # noqa: BLE001 - a file may have rewritten what hashing its closure needs
            return {}, {"damaged process"}

    def _load(self, file: SourceFile, loader: AbstractDagLoader, *, shared: bool) -> LoadResult:
        seconds = self._work.limits.file_seconds
        try:
            try:
                signal.signal(signal.SIGALRM, _timer(file, seconds))
                if not shared:
                    # Says where a file hangs that does not let the signal through; a thread does it, before the kill.
                    with contextlib.suppress(RuntimeError):  # no thread can be had: another file took them all
                        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS / 2, file=self._dump)
                self._setitimer(self._timer, seconds)
                return loader.load(file)
            finally:
                if self._pid() != self._own:  # the file forked, and this is the copy: nobody waits for its result
                    self._exit(_code_of(sys.exc_info()[1]))
                self._setitimer(self._timer, 0)
                if not shared:
                    self._stand_down()
        except BaseException as error:  # noqa: BLE001 - a DAG file may raise anything, SystemExit too
            return LoadResult(errors=[problem_of(error, file)])

    def _body(self, record: dict[str, Any], file: SourceFile) -> bytes:
        limit = self._work.limits.report_bytes
        try:
            body = self._encode(record).encode("ascii")
            _check_depth(record["dags"])
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            deepest = _deepest(record["dags"]) if isinstance(error, RecursionError) else ""
            doing = f"the DAGs of {file.path} cannot be written as JSON"
            problem = _clean(problem_of(error, file, doing=doing, dag_id=deepest))
        else:
            if len(body) <= limit:
                return body
            problem = FileProblem(
                "ReportTooLarge",
                f"the DAGs of {file.path} take {len(body)} bytes when serialized, more than the {limit} that one file "
                "may report: split the file, move large literals out of its DAGs, or raise the limit",
            )
        broken = {"dags": [], "errors": [problem.as_record()], "warnings": [], "sources": {}, "closure": {}}
        return self._encode({**record, **broken}).encode("ascii")

    def _send(self, kind: bytes, place: int, body: bytes) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # noqa: BLE001, S110 - a file may have put anything in their place
            pass
        for part in (self._pack(self._token, kind, place, len(body)), body):
            view = memoryview(part)
            while view:
                view = view[self._write(self._results, view) :]


def most_told(kind: bytes, limits: Limits) -> int:
    """How many bytes a frame of what a file imported, or opened, may have."""
    return MAX_TOLD_BYTES if kind == IMPORTED else limits.report_bytes


def _code_of(error: BaseException | None) -> int:
    """The exit code of a process that ends by `error`, as Python has it."""
    code = error.code if isinstance(error, SystemExit) else error and 1
    return code & 0xFF if isinstance(code, int) else int(code is not None)


def _flush_and_tell() -> int:
    """How much a shared child has printed, into what is a file in memory there."""
    sys.stdout.flush()
    sys.stderr.flush()
    return os.lseek(1, 0, os.SEEK_CUR)


def _check_depth(dags: list[dict[str, Any]]) -> None:
    """Refuse what readers of JSON, which recurse, might not get through.

    Raises:
        RecursionError: lists and objects are nested deeper than MAX_DEPTH.
    """
    if not _is_too_deep([dag["data"] for dag in dags]):
        return
    raise RecursionError(f"more than {MAX_DEPTH} lists and objects inside of each other")


def _is_too_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return False
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
    return True


def _deepest(dags: list[dict[str, Any]]) -> str:
    """The dag_id of the first DAG that nests too deeply."""
    return next((str(dag["dag_id"]) for dag in dags if _is_too_deep([dag["data"]])), "")


def _dag_record(dag: LoadedDag) -> dict[str, Any]:
    return {
        "dag_id": dag.dag_id,
        "relative_fileloc": dag.relative_fileloc,
        "dag_hash": dag.dag_hash,
        "data": dag.data,
    }


def _warning_record(warning: LoadedWarning) -> dict[str, Any]:
    return {"category": warning.category[:200], "message": bounded(warning.message, 4096), "line": warning.line}


def _limited(problem: FileProblem, memory: int) -> FileProblem:
    """Name the limit where it was gone over."""
    if problem.kind != "MemoryLimit":
        return problem
    found, named = "ran out of memory: ", f"ran out of memory, of which a file may use {memory >> 20} MiB: "
    return dataclasses.replace(problem, message=problem.message.replace(found, named, 1))


def _timer(file: SourceFile, seconds: float) -> Callable[[int, FrameType | None], None]:
    def expired(_signal: int, frame: FrameType | None) -> None:
        text = timeout_text(file.path, seconds)
        while frame is not None:
            if frame.f_code.co_name == "add_dags" and "dagbundle_parser" in frame.f_code.co_filename:
                raise FileTimeout(
                    f"{text}. It was imported by then, and its DAGs were being serialized: make them smaller"
                )
            frame = frame.f_back
        raise FileTimeout(text)

    return expired


def timeout_text(path: str, seconds: float) -> str:
    """What is said of a file that took too long."""
    return (
        f"{path} was not done after {seconds:g} seconds and was stopped: move slow work (queries, downloads, loops) "
        "into tasks, or raise spec.parser.fileTimeout"
    )


def _told(result: LoadResult, file: SourceFile) -> LoadResult:
    """Add what became of lookups, and take values out of what is said about the file."""
    result.dynamic |= {kind.capitalize() for kind in VALUES.asked}
    if VALUES.failure:  # whatever the file made of it
        result.errors = [FileProblem("ValueUnavailable", f"{file.path}: {VALUES.failure}")]
    result.errors = [_clean(error) for error in result.errors]
    result.warnings = [dataclasses.replace(item, message=VALUES.cleaned(item.message)) for item in result.warnings]
    result.warnings += [LoadedWarning("ValueRefused", why) for why in sorted(VALUES.refused)]
    return result


def _clean(problem: FileProblem) -> FileProblem:
    return dataclasses.replace(problem, message=VALUES.cleaned(problem.message))


def _arrange_descriptors(given: Descriptors) -> Descriptors:
    """Stdin from nowhere, stdout and stderr to `output`; of the others only what is returned, by new numbers."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    results = fcntl.fcntl(given.results, fcntl.F_DUPFD_CLOEXEC, 10)
    values = -1 if given.values < 0 else fcntl.fcntl(given.values, fcntl.F_DUPFD_CLOEXEC, 10)
    dump = 2 if given.dump < 0 else fcntl.fcntl(given.dump, fcntl.F_DUPFD_CLOEXEC, _DUMP_DESCRIPTOR)
    os.dup2(nowhere, 0)
    os.dup2(given.output, 1)
    os.dup2(given.output, 2)
    first = 3
    for kept in sorted({results, values, dump} - {-1, 2}):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, _MAX_DESCRIPTORS)
    return Descriptors(results, 2, values, dump)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _distrust_bytecode(root: str) -> None:
    """Neither read nor write .pyc files of the bundle: a stale one hides its source, from Python and from the hook."""
    sys.dont_write_bytecode = True
    external: Any = importlib._bootstrap_external  # noqa: SLF001 - no public way
    original, prefix = external.cache_from_source, root.rstrip("/") + "/"

    def cache_from_source(path: Any, *args: Any, **kwargs: Any) -> Any:
        if os.fspath(path).startswith(prefix):
            raise NotImplementedError  # importlib takes it for an implementation without bytecode files
        return original(path, *args, **kwargs)

    external.cache_from_source = cache_from_source

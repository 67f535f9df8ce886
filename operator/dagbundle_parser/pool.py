"""The pool: forks children of the warmed process, watches them, and makes a record of whatever becomes of each file.

Event-driven, by one selector: results and output of every child, and a signal descriptor for children's deaths.
Nothing that a child does may end or block it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

from dagbundle_parser.ahead import Lessons
from dagbundle_parser.child import (
    GIVEN_BACK,
    GRACE_SECONDS,
    HEADER,
    IMPORTED,
    OPENED,
    RESULT,
    Assignment,
    Descriptors,
    Work,
    most_told,
    run_child,
)
from dagbundle_parser.endings import problem_of_end
from dagbundle_parser.errors import RunError
from dagbundle_parser.protocol import encode
from dagbundle_parser.running import FileRecord, Running, close_all, pipe_of_dump

_CHUNK = 1 << 18
_SLACK = 1 << 20


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived; all children are gone."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Pool:
    """Runs files in children.

    Args:
        work: what all children share.
        processes: how many children run at once.
        lessons: takes what children tell that they imported, and imports it here.
        hear_opened: takes a file's path, and what its child tells of the watched files that it opened.
        begun: takes the paths of files that a child was started for.
    """

    def __init__(
        self,
        work: Work,
        processes: int,
        lessons: Lessons,
        *,
        hear_opened: Callable[[str, bytes], None],
        begun: Callable[[Sequence[str]], None],
    ) -> None:
        self._work = work
        self._lessons = lessons
        self._begun = begun
        self._hear_opened = hear_opened
        self._slots = list(range(processes))
        self._running: dict[int, Running] = {}
        self._selector = selectors.DefaultSelector()
        self._stop = 0

    def run(self, batches: Iterable[Sequence[Assignment]]) -> Iterator[FileRecord]:
        """Load every file of every batch and yield its record, in the order in which they get done.

        Args:
            batches: one file each, or several plain ones that may share a child.

        Raises:
            Stopped: SIGTERM or SIGINT arrived.
        """
        waiting: deque[tuple[Sequence[Assignment], bool]] = deque((batch, len(batch) > 1) for batch in batches)
        with self._signals():
            try:
                while waiting or self._running:
                    if len(waiting) > 1:  # else it is not worth while
                        self._learn()
                    while waiting and self._slots and self._fork(*waiting[0]):
                        waiting.popleft()
                    ended = self._wait()
                    for child in [child for child in self._running.values() if child.shared]:
                        yield from self._take_records(child)  # the reader works on them while the child goes on
                    for child in ended:
                        yield from self._settle(child, waiting)
            finally:
                self._kill_all()

    def _learn(self) -> None:
        began = time.monotonic()
        if self._lessons.learn():
            for child in self._running.values():  # nobody has read what they sent meanwhile
                child.deadline += time.monotonic() - began

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)

        def stop(number: int, _frame: FrameType | None) -> None:
            self._stop = number

        old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._selector.register(read, selectors.EVENT_READ, None)
        try:
            yield
        finally:
            self._selector.unregister(read)
            signal.set_wakeup_fd(wakeup)
            for number, handler in old.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)

    def _fork(self, batch: Sequence[Assignment], shared: bool) -> bool:  # noqa: FBT001 - a pair from the queue
        """Start a child; False if that must wait until another one has ended."""
        results, results_end = os.pipe()
        if shared:  # a plain file prints nothing: what it prints all the same, the child sees by itself
            output, output_end = -1, _file_in_memory()
            dump = dump_end = -1  # a file whose process dies is tried alone
        else:
            output, output_end = os.pipe()
            dump, dump_end = pipe_of_dump()
        values = -1 if self._work.line is None else self._work.line.open()
        token, slot = os.urandom(16), self._slots.pop()
        sys.stdout.flush()
        sys.stderr.flush()
        theirs = Descriptors(results_end, output_end, values, dump_end)
        try:
            pid = os.fork()
        except OSError as error:
            close_all(results, output, dump, *dataclasses.astuple(theirs))
            self._slots.append(slot)
            if self._running:
                return False
            raise RunError("CannotFork", f"no process can be started for a file: {error.strerror}") from error
        if pid == 0:
            run_child(self._work, batch, slot=slot, token=token, descriptors=theirs, shared=shared)
        close_all(*dataclasses.astuple(theirs))
        deadline = time.monotonic() + self._work.limits.file_seconds + GRACE_SECONDS
        child = Running(pid, slot, batch, shared, token, results, output, dump, deadline)
        self._running[pid] = child
        for descriptor in (results, output):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
                self._selector.register(descriptor, selectors.EVENT_READ, child)
        self._begun([assignment.file.path for assignment in batch])
        return True

    def _wait(self) -> list[Running]:
        """Wait for an event; return the children that have ended."""
        now = time.monotonic()
        timeout = max(0.0, min(child.deadline for child in self._running.values()) - now)
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
            else:
                self._read(key.data, key.fd)
        if self._stop:
            raise Stopped(self._stop)
        now = time.monotonic()
        for child in self._running.values():
            if child.deadline <= now and not child.complete:
                child.late = True
                _kill(child.pid)
            elif child.complete or child.damage:
                _kill(child.pid)
        return self._reap()

    def _reap(self) -> list[Running]:
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._running.pop(pid, None)
            if child is not None:
                child.status = status
                ended.append(child)
        for child in ended:
            self._work.sandbox.sweep(child.slot, child.pid, self._running)
            for descriptor in (child.results, child.output):
                if descriptor >= 0:
                    while self._read(child, descriptor):
                        pass
                    self._forget(descriptor)
            child.take_dump()
            self._slots.append(child.slot)
        return ended

    def _read(self, child: Running, descriptor: int) -> bool:
        """Take what there is; False when there is nothing more for now."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            if child.status is None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(descriptor)
            return False
        if descriptor == child.output:
            child.printed += len(data)
            child.tail += data
            del child.tail[: max(0, len(child.tail) - self._work.limits.output_bytes)]
        else:
            child.buffer += data
            self._take_frames(child)
        return True

    def _take_frames(self, child: Running) -> None:
        while not child.damage and len(child.buffer) >= HEADER.size and not child.complete:
            token, kind, place, length = HEADER.unpack_from(child.buffer)
            told = kind in {IMPORTED, OPENED}
            if token != child.token or not (told or kind in {RESULT, GIVEN_BACK}) or place != len(child.frames):
                child.damage = "something else wrote into its report"
                return
            if length > (most_told(kind, self._work.limits) if told else self._work.limits.report_bytes + _SLACK):
                child.damage = f"its report claims to have {length} bytes"
                return
            end = HEADER.size + length
            if len(child.buffer) < end:
                return
            body = bytes(child.buffer[HEADER.size : end])
            del child.buffer[:end]
            if kind == IMPORTED:
                self._lessons.hear(body)
            elif kind == OPENED:
                self._hear_opened(child.batch[place].file.path, body)
            if told:
                continue
            child.frames.append((kind, body))
            child.deadline = time.monotonic() + self._work.limits.file_seconds + GRACE_SECONDS
        if child.buffer and child.complete:
            child.buffer.clear()

    def _settle(self, child: Running, waiting: deque[tuple[Sequence[Assignment], bool]]) -> Iterator[FileRecord]:
        """Make records of what a child that has ended left, and queue again what it could not do."""
        yield from self._take_records(child)
        rest = child.batch[child.done :]
        if not rest:
            return
        if child.shared:  # whoever failed is tried alone, the others without it
            waiting.appendleft((rest[1:], len(rest) > 2)) if rest[1:] else None  # noqa: PLR2004
            waiting.appendleft((rest[:1], False))
        else:
            yield self._broken(child, rest[0])

    def _take_records(self, child: Running) -> Iterator[FileRecord]:
        """Make records of the frames that have come and are in order; the child may still be running."""
        while child.done < len(child.frames):
            kind, body = child.frames[child.done]
            record = None if kind == GIVEN_BACK else self._checked(child, child.batch[child.done], body)
            if record is None:
                return
            child.frames[child.done] = (kind, b"")
            child.done += 1
            yield record

    def _checked(self, child: Running, assignment: Assignment, body: bytes) -> FileRecord | None:
        """The record that a frame's body is, or None if it is none."""
        try:
            record: Any = json.loads(body)
        except (ValueError, RecursionError):
            child.damage = child.damage or "its report is not JSON"
            return None
        lists = ("dags", "errors", "warnings", "dynamic")
        if (
            not isinstance(record, dict)
            or not body.isascii()
            or b"\n" in body
            or record.get("path") != assignment.file.path
            or record.get("status") != "parsed"
            or not _UNCLAIMED.isdisjoint(record)
            or not all(isinstance(record.get(name), list) for name in lists)
        ):
            child.damage = child.damage or "its report is not what the parser writes"
            return None
        looked_up = "Variable" in record["dynamic"] or "Connection" in record["dynamic"]
        whole = body[:-1] + b',"output":' + encode(self._output(child, may_tell=looked_up)) + b"}"
        return FileRecord(assignment.file.path, whole, len(record["dags"]), len(record["errors"]))

    def _output(self, child: Running, *, may_tell: bool) -> dict[str, object]:
        """What a child printed. It `may_tell` a value that the server gave; then only how much it was is said."""
        text = "" if may_tell and self._work.line is not None else child.tail.decode("utf-8", "replace")
        return {"bytes": child.printed, "text": text}

    def _broken(self, child: Running, assignment: Assignment) -> FileRecord:
        """The record of a file whose child did not send one."""
        path = assignment.file.path
        output = self._output(child, may_tell=True)
        problem = problem_of_end(child, assignment, self._work.limits, str(output["text"]))
        record = {
            "path": path,
            "status": "parsed",
            "loader": assignment.loader.name,
            "duration": 0.0,
            "memory": 0,
            "dags": [],
            "errors": [problem.as_record()],
            "warnings": [],
            "sources": {},
            "fingerprint": self._work.fingerprint,
            "closure": {},
            "dynamic": [],
            "output": output,
        }
        return FileRecord(path, encode(record), 0, 1)

    def _kill_all(self) -> None:
        for child in self._running.values():
            _kill(child.pid)
        while self._running:
            pid = next(iter(self._running))
            os.waitpid(pid, 0)
            child = self._running.pop(pid)
            self._work.sandbox.sweep(child.slot, pid, self._running)
            for descriptor in (child.results, child.output):
                if descriptor >= 0:
                    self._forget(descriptor)
            child.take_dump()
            self._slots.append(child.slot)

    def _forget(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError):  # at its end it was taken out of the selector already
            self._selector.unregister(descriptor)
        os.close(descriptor)


_UNCLAIMED = frozenset({"type", "seq", "output"})


def _file_in_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("output")
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

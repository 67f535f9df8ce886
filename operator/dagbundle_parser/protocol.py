"""Writing the report: records as lines of ASCII JSON, numbered, counted and digested as they go out.

The writer is the only thing that holds the report's descriptor. It writes each line whole, so a run that is
killed leaves a stream without a `close`, which the reader sees.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from dagbundle_parser import PROTOCOL

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def encode(value: object) -> bytes:
    """One JSON value as ASCII without a newline.

    Raises:
        ValueError: an integer too large for Python to print, or a cycle.
        TypeError: a value that JSON does not have.
        RecursionError: nested too deeply.
    """
    return _encode(value).encode("ascii")


class ReportWriter:
    """Writes one run's report to a file descriptor.

    Args:
        descriptor: an open, blocking descriptor; the writer closes it at the end of the report.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._paths: list[str] = []
        self._dags = 0
        self._errors = 0
        self._is_open = False

    def open(self, *, run: str, attempt: str, parser: dict[str, str], facts: dict[str, Any], files: int) -> None:
        """Write the `open` record; `facts` are `python`, `airflow`, `fingerprint`, and what was left open."""
        record = {"type": "open", "protocol": PROTOCOL, "run": run, "attempt": attempt, "parser": parser}
        self._line(encode({**record, **facts, "files": files}))
        self._is_open = True

    def begin(self, paths: Sequence[str]) -> None:
        """Say that a process begins some files, so that it is known which were in flight if this is the last word."""
        if self._is_open:
            self._line(encode({"type": "begin", "paths": paths}))

    def file(self, path: str, body: bytes, *, dags: int = 0, errors: int = 0) -> None:
        """Write one file's record.

        Args:
            path: the file's path relative to the root.
            body: the record as an encoded JSON object, without `type` and `seq`, which are put in front.
            dags: how many DAGs it holds, for the counts.
            errors: how many errors it holds.
        """
        self._paths.append(path)
        self._dags += dags
        self._errors += errors
        self._line(b'{"type":"file","seq":%d,' % len(self._paths) + body[1:])

    def close(self) -> None:
        """Write the `close` record and close the descriptor."""
        counts = {"files": len(self._paths), "dags": self._dags, "errors": self._errors}
        digest = self._digest.hexdigest()
        self._line(encode({"type": "close", "files": sorted(self._paths), "counts": counts, "digest": digest}))
        os.close(self._descriptor)

    def fail(self, kind: str, message: str) -> None:
        """Write the `fail` record, instead of `close`, and close the descriptor."""
        self._line(encode({"type": "fail", "kind": kind, "message": message}))
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Close the descriptor without a `close` record: the reader sees a cut report."""
        os.close(self._descriptor)

    def _line(self, body: bytes) -> None:
        line = memoryview(body + b"\n")
        self._digest.update(line)
        while line:
            line = line[os.write(self._descriptor, line) :]

"""Reports as a parser would send them, and as none should: for tests of what the trusted side makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from dagbundle.resources import protocol
from support import serialized

Script = Callable[[protocol.RunRequest], Iterator[bytes]]


def dag(dag_id: str, path: str, *task_ids: str, **fields: Any) -> dict[str, Any]:
    """A DAG of a file record."""
    tasks = [serialized.task(task_id) for task_id in task_ids or ("t",)]
    data = serialized.dag(dag_id, tasks, **{"relative_fileloc": path, **fields})
    return {"dag_id": dag_id, "relative_fileloc": path, "dag_hash": f"hash-of-{dag_id}", "data": data}


def parsed(path: str, *dag_ids: str, **fields: Any) -> dict[str, Any]:
    """A file that defines some DAGs."""
    return {"path": path, "status": "parsed", "dags": [dag(dag_id, path, **fields) for dag_id in dag_ids]}


def broken(path: str, kind: str = "SyntaxError") -> dict[str, Any]:
    """A file that does not parse."""
    return {"path": path, "status": "parsed", "errors": [{"kind": kind, "message": "invalid syntax", "line": 3}]}


def unchanged(path: str) -> dict[str, Any]:
    """A file that the parser skipped."""
    return {"path": path, "status": "unchanged"}


def lines(request: protocol.RunRequest, files: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """A whole, right report, line by line."""
    opening = {
        "type": "open", "protocol": 1, "run": request.run, "attempt": request.attempt,
        "parser": {"name": "SinglePass", "version": "1"}, "python": "3.11.7", "airflow": "3.3.2", "fingerprint": "f",
        "files": len(files),
    }  # fmt: skip
    records = [opening, *({"type": "file", "seq": seq, **file} for seq, file in enumerate(files, 1))]
    encoded = [json.dumps(record).encode() + b"\n" for record in records]
    counts = {
        "files": len(files),
        "dags": sum(len(file.get("dags", ())) for file in files),
        "errors": sum(len(file.get("errors", ())) for file in files),
    }
    close = {
        "type": "close",
        "files": sorted(file["path"] for file in files),
        "counts": counts,
        "digest": hashlib.sha256(b"".join(encoded)).hexdigest(),
    }
    return [*encoded, json.dumps(close).encode() + b"\n"]


def whole(*files: Mapping[str, Any]) -> Script:
    """A script that reports these files and closes."""

    def script(request: protocol.RunRequest) -> Iterator[bytes]:
        yield from lines(request, files)

    return script


class ScriptedRuntime:
    """A runtime whose parser says what a test wants: the one part that real files cannot be made to do on demand."""

    root = "/bundle"

    def __init__(self, scripts: Mapping[str, Script] | Script, version: str = "v1") -> None:
        self._scripts = scripts
        self._version = version
        self.requests: list[protocol.RunRequest] = []

    def resolve_version(self) -> str:
        return self._version

    def stop(self) -> None:
        """A script cannot be interrupted."""

    def report(self, request: protocol.RunRequest) -> Generator[bytes]:
        self.requests.append(request)
        script = self._scripts if callable(self._scripts) else self._scripts[request.subdir]
        yield from script(request)

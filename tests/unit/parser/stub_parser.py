"""The parser with a loader that needs no Airflow: a stub DAG file binds DAGS, a mapping of dag_id to data.

Run as a script, by any interpreter, so that what the pool does to its process stays out of pytest's. Files below
`shared/` count as plain, whatever they hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from dagbundle_parser import handing, keeper, mounts, sandbox, scratch
from dagbundle_parser.fingerprint import Surroundings
from dagbundle_parser.loaders.base import AbstractDagLoader, Candidate, LoadedDag, LoadedWarning, LoadResult, SourceFile
from dagbundle_parser.loaders.traces import Tracer
from dagbundle_parser.parsers.base import BundleAccess
from dagbundle_parser.parsers.single_pass import SinglePassBundleParser
from dagbundle_parser.pool import Stopped
from dagbundle_parser.protocol import ReportWriter
from dagbundle_parser.request import RunRequest
from dagbundle_parser.runner import Run
from dagbundle_parser.store_client import DagStoreClient


class StubLoader(AbstractDagLoader):
    """Runs Python files."""

    name = "stub"
    suffixes = (".py",)

    def __init__(self) -> None:
        self._tracer = Tracer((), ())

    def claims(self, candidate: Candidate) -> bool:
        return b"DAGS" in candidate.content()

    def warm_up(self, files: object) -> None:  # noqa: ARG002 - as the base has it
        self._tracer.begin()

    def load(self, file: SourceFile) -> LoadResult:
        source = Path(file.absolute).read_bytes()
        namespace: dict[str, object] = {"__file__": file.absolute, "__name__": "stub_dag"}
        with warnings.catch_warnings(record=True) as caught:
            exec(compile(source, file.absolute, "exec"), namespace)  # noqa: S102 - what loaders do
        result = LoadResult(sources={file.path: source.decode()})
        result.warnings = [LoadedWarning(w.category.__name__, str(w.message), w.lineno) for w in caught]
        dags = namespace["DAGS"]
        assert isinstance(dags, dict)
        for dag_id, data in dags.items():
            digest = hashlib.sha256(json.dumps(data).encode()).hexdigest() if file.path.startswith("shared/") else ""
            result.dags.append(LoadedDag(dag_id, file.path, digest, data))
        return result

    def is_plain(self, file: SourceFile) -> bool:
        return file.path.startswith("shared/")

    def traces(self) -> tuple[object, ...]:
        return self._tracer.snapshot()


def become(uid: int, root: str) -> None:
    """Go on as a user who reaches the interpreter and the bundle, wherever they lie."""
    folder, _ = scratch._fresh(tempfile.gettempdir())
    keeper.bequeath(folder)
    mounts.separate()
    handing.Handing(root, handing.needed_by_python(), str(Path.cwd())).cover(uid, folder)
    sandbox._become(uid, uid)


def main() -> int:
    request = RunRequest.from_json(json.loads(Path(sys.argv[1]).read_text()))
    if uid := os.environ.get("STUB_UID"):
        become(int(uid), request.root)
    run = Run(request, Surroundings.read(), loaders=[StubLoader()])
    report = os.dup(1)
    os.dup2(2, 1)
    writer = ReportWriter(report)
    access = BundleAccess(run.list_files, run.is_unchanged, run.load, run.facts, {})
    try:
        SinglePassBundleParser(access, DagStoreClient(request, writer)).run()
    except Stopped as stopped:
        return 128 + stopped.number
    return 0


if __name__ == "__main__":
    keeper.end_as(keeper.keep(main, report=1))

"""The parser's view of the store (AIP-85's DagStore): what it remembers, and where results go.

Parsers are written against this and know nothing of pipes and records. The memory comes with the run request and
results go into the report; whether that report ends in a pipe or, on a cluster, at the store's server (`delivery`) is
nothing that a parser sees.
"""

from __future__ import annotations

from typing import Any

from dagbundle_parser.protocol import ReportWriter, encode
from dagbundle_parser.request import KnownFile, RunRequest
from dagbundle_parser.running import FileRecord


class DagStoreClient:
    """The store, for one run.

    Args:
        request: carries what the store remembers.
        writer: takes what is submitted.
    """

    def __init__(self, request: RunRequest, writer: ReportWriter) -> None:
        self._request = request
        self._writer = writer

    def known(self, path: str) -> KnownFile | None:
        """What the store remembers of a file: hashes of what it depended on and how long ago it was parsed."""
        return self._request.known.get(path)

    def open(self, *, parser: dict[str, str], facts: dict[str, Any], files: int) -> None:
        """Begin: `files` is how many files will be submitted or confirmed."""
        self._writer.open(run=self._request.run, attempt=self._request.attempt, parser=parser, facts=facts, files=files)

    def submit(self, record: FileRecord) -> None:
        """Hand in what a file holds."""
        self._writer.file(record.path, record.body, dags=record.dags, errors=record.errors)

    def confirm_unchanged(self, path: str) -> None:
        """Say that what the store remembers of a file still holds."""
        self._writer.file(path, encode({"path": path, "status": "unchanged"}))

    def close(self) -> None:
        """End the pass. The listing it ends with deactivates what is not in it."""
        self._writer.close()

    def fail(self, kind: str, message: str) -> None:
        """End a pass that could not be carried out; nothing is published or removed."""
        self._writer.fail(kind, message)

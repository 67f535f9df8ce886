"""Reports that no parser sends: whatever is taken of them can be stored, and costs little."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.engine import collecting
from dagbundle.resources import protocol
from dagbundle.rollout import content, plan
from dagbundle.rollout.model import KnownFile, StagedFile
from fuzz import fuzzing
from support import reports

WHOLE = plan.RunPlan(".", (), None, None)
MEMORY = 512 << 20
CPU = 20.0
CHUNK = 64 << 10
MOST = 16 << 20
"""Bytes of an input: larger ones are for the tests of memory, which know what they send."""
TEXT_BYTES = 64 << 20
"""Bytes of texts that one run may leave behind."""


class Kept:
    """A sink that keeps what came, as the store does."""

    def __init__(self) -> None:
        self.files: list[StagedFile] = []
        self.opening: protocol.Open | None = None

    def known(self, subdir: str) -> Mapping[str, KnownFile]:  # noqa: ARG002 - a sink's signature
        return {}

    def opened(self, subdir: str, attempt: str, record: protocol.Open) -> None:  # noqa: ARG002 - likewise
        self.opening = record

    def staged(self, subdir: str, files: Sequence[StagedFile]) -> None:  # noqa: ARG002 - likewise
        self.files += files

    def closed(self, subdir: str, listing: Sequence[str]) -> None: ...

    def failed(self, subdir: str, failure: str) -> None:
        assert storable(failure), subdir


def a_report() -> list[dict[str, Any]]:
    """All that a parser can say, as records of which the numbers and the digest are made right again."""
    opening = {
        "type": "open", "protocol": 1, "run": "r", "attempt": "a", "parser": {"name": "SinglePass", "version": "1"},
        "python": "3.11.7", "airflow": "3.3.2", "fingerprint": "f", "files": 3,
    }  # fmt: skip
    good = {
        **reports.parsed("a.py", "a", "b"), "type": "file", "seq": 1, "duration": 0.5, "fingerprint": "f", "memory": 5,
        "closure": {"a.py": "0" * 64, "b.py": "absent"}, "sources": {"a.py": "x = 1\n"}, "loader": "PythonLoader",
        "warnings": [{"category": "DeprecationWarning", "message": "old", "line": 3}],
    }  # fmt: skip
    zipped = {**reports.parsed("c.zip", "c"), "type": "file", "seq": 2}
    zipped["dags"] = [reports.dag("c", "c.zip/dags/c.py")]
    bad = {**reports.broken("d.py"), "type": "file", "seq": 3, "output": {"bytes": 7, "text": "printed"}}
    return [opening, good, zipped, bad, {"type": "close"}]


def encoded(records: Any) -> bytes:
    """Write records; a close record that lacks them gets the counts, the listing and the digest that are right."""
    if not isinstance(records, list):
        return json.dumps(records).encode() + b"\n"
    found = bytearray()
    files = [item for item in records if isinstance(item, dict) and item.get("type") == "file"]
    for item in records:
        record = item
        if isinstance(item, dict) and item.get("type") == "close" and "digest" not in item:
            counts = {
                "files": len(files),
                **{kind: sum(len(file.get(kind) or ()) for file in files if isinstance(file.get(kind) or [], list))
                   for kind in ("dags", "errors")},
            }  # fmt: skip
            listing = [file.get("path") for file in files]
            record = {"files": listing, "counts": counts, "digest": hashlib.sha256(found).hexdigest(), **item}
        found += json.dumps(record).encode() + b"\n"
    return bytes(found)


def storable(value: object, most: int = 2**63) -> bool:
    """Whether every database takes it, wherever it stands; in a column of JSON, integers may be larger than `most`."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, list | tuple):
            waiting += found
        elif not _is_plain(found, most):
            return False
    return True


def _is_plain(value: object, most: int) -> bool:
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, float):
        return value - value == 0.0
    return value is None or isinstance(value, bool) or (isinstance(value, int) and -most <= value < most)


def check(records: Any) -> None:
    data = encoded(records)
    if len(data) > MOST:
        return
    sink = Kept()
    with fuzzing.budget(CPU, MEMORY):
        taker = collecting.Taker(WHOLE, sink, run_id="r", attempt="a")
        try:
            for chunk in (data[:7], *(data[start : start + CHUNK] for start in range(7, len(data), CHUNK))):
                for _ in taker.feed(chunk):
                    pass
            for _ in taker.finish():
                pass
        except errors.ProtocolError as error:
            assert len(error.message) < 4_000  # noqa: PT017 - most inputs raise nothing
    for file in sink.files:
        check_file(file)


def check_file(file: StagedFile) -> None:
    outcome = file.outcome
    texts = [(item.kind, item.message) for item in outcome.problems]
    texts += [(item.category, item.message) for item in outcome.warnings]
    assert storable([outcome.path, texts, file.sources, file.loader, file.fingerprint, file.closure, file.memory])
    assert sum(len(text) for pair in texts for text in pair) < TEXT_BYTES
    for item in (*outcome.problems, *outcome.warnings):
        assert item.line is None or 0 < item.line < 2**31
    assert all(type(word) is str for word in file.closure.values())
    for found in file.contents:
        place = found.relative_fileloc or outcome.path
        assert place == outcome.path or place.startswith(f"{outcome.path}/")
        assert not {"", ".", ".."} & set(place.split("/"))
        assert storable(content.join(found), most=10**content.MAX_INTEGER_DIGITS)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_report_as_this_suite_writes_it_is_taken(packed: bool) -> None:
    data = encoded(a_report())
    decoder = protocol.ReportDecoder(run="r", attempt="a")
    assert len(list(decoder.feed(gzip.compress(data) if packed else data))) == 5
    assert decoder.closed


def test_whatever_is_taken_of_a_report_can_be_stored_and_costs_little() -> None:
    assert fuzzing.drive("reports", [a_report()], check) > 1

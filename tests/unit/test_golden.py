"""Golden files hold the two ends of the wire protocol together: neither side's code can change them unnoticed."""

from __future__ import annotations

import json
import os
import pathlib

from dagbundle.resources import protocol
from dagbundle_parser.protocol import ReportWriter, encode
from dagbundle_parser.request import RunRequest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def golden_report() -> bytes:
    return (GOLDEN / "report.v1.ndjson").read_bytes()


def test_the_trusted_side_writes_the_golden_request() -> None:
    request = protocol.RunRequest(
        run="rollout:ingest",
        attempt="attempt",
        bundle="team-sales.sales",
        root="/bundle",
        subdir="ingest",
        exclude=["ingest/other"],
        parser={"type": "SinglePass", "config": {}},
        processes=2,
        limits={
            "fileSeconds": 30,
            "fileMemoryBytes": 1073741824,
            "outputBytes": 65536,
            "reportBytes": 67108864,
            "processesPerFile": 64,
        },
        run_as_user=50010,
        force=False,
        max_unchanged_age=3600,
        known={"ingest/a.py": {"fingerprint": "f", "closure": {"any": "thing"}, "age": 12.5}},
        shard=1,
        shards=3,
        values=True,
        defaults=["processes"],
    )
    golden = json.loads((GOLDEN / "request.v1.json").read_text())
    assert json.loads(request.model_dump_json(by_alias=True)) == golden


def test_the_parser_reads_the_golden_request() -> None:
    request = RunRequest.read(str(GOLDEN / "request.v1.json"))
    assert (request.run, request.subdir, request.exclude) == ("rollout:ingest", "ingest", ("ingest/other",))
    assert (request.limits.file_seconds, request.limits.processes_per_file) == (30, 64)
    assert (request.run_as_user, request.max_unchanged_age) == (50010, 3600)
    assert request.known["ingest/a.py"].age == 12.5
    assert (request.shard, request.shards, request.values) == (1, 3, True)
    assert request.defaults == {"processes"}


def test_the_parser_writes_the_golden_report() -> None:
    read, write = os.pipe()
    writer = ReportWriter(write)
    facts = {"python": "3.11.7", "airflow": "3.3.2", "fingerprint": "f"}
    facts |= {"processes": 4, "origins": {"parser": "spec", "processes": "manifest"}}
    writer.open(
        run="rollout:ingest", attempt="attempt", parser={"name": "SinglePass", "version": "1"}, facts=facts, files=3
    )
    writer.begin(["ingest/a.py", "ingest/b.py"])
    writer.file("ingest/a.py", encode(PARSED), dags=1)
    writer.file("ingest/b.py", encode(BROKEN), errors=1)
    writer.file("ingest/c.py", encode({"path": "ingest/c.py", "status": "unchanged"}))
    writer.close()
    with os.fdopen(read, "rb") as stream:
        assert stream.read() == golden_report()


def test_the_trusted_side_reads_the_golden_report() -> None:
    decoder = protocol.ReportDecoder(run="rollout:ingest", attempt="attempt")
    records = list(decoder.feed(golden_report()))
    decoder.finish()
    assert decoder.closed
    assert [type(record) for record in records] == [
        protocol.Open, protocol.Begin, protocol.File, protocol.File, protocol.File, protocol.Close
    ]  # fmt: skip
    opened = records[0]
    assert isinstance(opened, protocol.Open)
    assert opened.origins is not None
    assert (opened.processes, opened.origins.parser, opened.origins.processes) == (4, "spec", "manifest")
    parsed, broken, unchanged = (record for record in records if isinstance(record, protocol.File))
    assert parsed.dags[0].dag_id == "ingest.a"
    assert parsed.output is not None
    assert broken.errors[0].line == 3
    assert unchanged.status == "unchanged"


PARSED = {
    "path": "ingest/a.py",
    "status": "parsed",
    "loader": "python",
    "duration": 0.012,
    "memory": 123456,
    "dags": [
        {
            "dag_id": "ingest.a",
            "relative_fileloc": "ingest/a.py",
            "dag_hash": "0123456789abcdef0123456789abcdef",
            "data": {"__version": 3, "dag": {"dag_id": "ingest.a", "tasks": [], "doc_md": "Grüße 🜁"}},
        }
    ],
    "errors": [],
    "warnings": [{"category": "DeprecationWarning", "message": "old", "line": 1}],
    "sources": {"ingest/a.py": "from airflow.sdk import DAG\n"},
    "fingerprint": "f",
    "closure": {"any": "thing"},
    "dynamic": [],
    "output": {"bytes": 3, "text": "hi\n"},
}
BROKEN = {
    "path": "ingest/b.py",
    "status": "parsed",
    "loader": "python",
    "duration": 0.001,
    "memory": 0,
    "dags": [],
    "errors": [{"kind": "SyntaxError", "message": "invalid syntax", "line": 3}],
    "warnings": [],
    "sources": {},
    "fingerprint": "f",
    "closure": {},
    "dynamic": ["socket"],
    "output": {"bytes": 0, "text": ""},
}

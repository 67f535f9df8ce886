from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagbundle_parser.errors import RequestError
from dagbundle_parser.request import KnownFile, RunRequest
from unit.parser.conftest import Parse, request_for

ROOT = Path("/bundle")
GOLDEN = Path(__file__).parents[2] / "golden"


def test_the_request_of_the_protocol_is_understood() -> None:
    request = RunRequest.from_json({
        "protocol": 1, "run": "id", "attempt": "id", "bundle": "team-sales.sales", "root": "/abs/bundle/root",
        "subdir": "ingest", "exclude": ["ingest/other"], "parser": {"type": "SinglePass", "config": {"a": 1}},
        "processes": 2, "limits": {"fileSeconds": 30, "fileMemoryBytes": 1073741824, "outputBytes": 65536,
        "reportBytes": 67108864, "processesPerFile": 64}, "runAsUser": 50010, "force": True, "maxUnchangedAge": 3600,
        "known": {"a.py": {"fingerprint": "f", "closure": {"a.py": "x"}, "age": 12.5}}, "files": ["ingest/./a.py"],
    })  # fmt: skip
    assert (request.subdir, request.exclude, request.run_as_user, request.force) == (
        "ingest",
        ("ingest/other",),
        50010,
        True,
    )
    assert request.known == {"a.py": KnownFile("f", {"a.py": "x"}, 12.5)}
    assert request.limits.file_seconds == 30
    assert request.files == {"ingest/a.py"}


def test_the_golden_request_of_both_sides_is_understood() -> None:
    request = RunRequest.read(str(GOLDEN / "request.v1.json"))
    assert (request.run, request.subdir, request.run_as_user) == ("rollout:ingest", "ingest", 50010)


def test_records_have_the_fields_of_the_golden_report(parse: Parse) -> None:
    golden = [json.loads(line) for line in (GOLDEN / "report.v1.ndjson").read_text().splitlines()]
    files: dict[str, str | bytes] = {
        "a.py": "DAGS = {'a': {}}",
        "b.py": "DAGS = {}\n1 / 0",
        "c.py": "import os\nDAGS={}\nos._exit(1)",
    }
    first = parse(files)
    known = {
        "a.py": {"fingerprint": first.files["a.py"]["fingerprint"], "closure": first.files["a.py"]["closure"], "age": 1}
    }
    again = parse(known=known)
    left_open = {"processes", "origins"}  # of carrying out a request: see test_manifest.py
    assert set(first.records[0]) | left_open == set(golden[0])
    assert {frozenset(record) for record in first.files.values()} == {frozenset(golden[2])}
    assert set(again.files["a.py"]) == set(golden[4])
    assert set(first.records[-1]) == set(golden[5])
    assert set(first.files["a.py"]["dags"][0]) == set(golden[2]["dags"][0])
    assert set(first.files["b.py"]["errors"][0]) == set(golden[3]["errors"][0])


def test_what_may_be_left_out_has_a_default() -> None:
    request = RunRequest.from_json(request_for(ROOT))
    assert (request.subdir, request.exclude, request.run_as_user, request.known) == (".", (), None, {})
    assert request.limits.processes_per_file == 64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"protocol": 2}, "uses protocol 2"),
        ({"root": "relative"}, "absolute path"),
        ({"subdir": "../up"}, "subdir must be a path inside the bundle"),
        ({"subdir": "/etc"}, "subdir must be a path inside the bundle"),
        ({"exclude": ["../x"]}, "exclude must be a path inside the bundle"),
        ({"exclude": [1]}, "list of strings"),
        ({"processes": 0}, "at least 1"),
        ({"processes": True}, "whole number"),
        ({"processes": "2"}, "whole number"),
        ({"limits": {"fileSeconds": 0}}, "more than 0"),
        ({"limits": {"fileSeconds": float("nan")}}, "number"),
        ({"limits": []}, "object"),
        ({"force": "yes"}, "true or false"),
        ({"runAsUser": -1}, "at least 0"),
        ({"known": {"a.py": []}}, "known['a.py'] must be a JSON object"),
        ({"run": None}, "lacks 'run'"),
        ({"parser": {"type": 1}}, "string"),
    ],
)
def test_a_request_that_cannot_be_used_names_the_field(change: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=r".") as caught:
        RunRequest.from_json(request_for(ROOT, **change))
    assert text in str(caught.value)


@pytest.mark.parametrize("document", [[], 1, None, "x"])
def test_a_request_is_an_object(document: object) -> None:
    with pytest.raises(RequestError, match="JSON object"):
        RunRequest.from_json(document)


def test_a_request_that_is_no_json_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RequestError, match="is not JSON"):
        RunRequest.read(str(tmp_path / "a.json"))
    with pytest.raises(RequestError, match="cannot be read"):
        RunRequest.read(str(tmp_path / "b.json"))


def test_a_request_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(request_for(ROOT)))
    assert RunRequest.read(str(tmp_path / "a.json")).root == "/bundle"

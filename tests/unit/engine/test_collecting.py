"""Runs that are carried out side by side, and interrupted."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest

from dagbundle.engine import collecting
from dagbundle.resources import bundle as bundle_models
from dagbundle.resources import protocol
from dagbundle.rollout import plan

WHOLE = plan.RunPlan(".", (), None, None)
SETTINGS = collecting.RunSettings("rollout", "team.sales", bundle_models.Parser())


class Endless:
    """A parser that reports nothing until it is stopped: the interrupt cannot be timed with a real one."""

    root = "/bundle"

    def __init__(self) -> None:
        self.began = threading.Event()
        self.stopped = threading.Event()

    def resolve_version(self) -> str:
        return "v1"

    def report(self, _request: protocol.RunRequest) -> Generator[bytes]:
        self.began.set()
        self.stopped.wait()
        yield from ()

    def stop(self) -> None:
        self.stopped.set()


def test_an_interrupt_while_the_first_run_is_being_started_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Endless()
    submit = concurrent.futures.ThreadPoolExecutor.submit

    def interrupted(*arguments: Any, **named: Any) -> Any:
        submit(*arguments, **named)
        runtime.began.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", interrupted)
    seen: list[object] = []
    sink = collecting.MemorySink({}, {})
    with pytest.raises(KeyboardInterrupt):
        collecting.carry_out([WHOLE], SETTINGS, runtime=runtime, sink=sink, watch=seen.append)
    assert runtime.stopped.is_set()
    assert (seen, sink.outcomes()) == ([], ())  # a parser that was ended on purpose is no failure to tell of


def test_what_is_kept_to_the_end_of_a_report_counts_as_held_after_its_files_are_staged() -> None:
    """One emoji makes a path take four bytes a character."""
    paths = [f"\U0001f600{'x' * 1000}{number}" for number in range(600)]
    opening = {
        "type": "open", "protocol": 1, "run": "r", "attempt": "a", "parser": {"name": "p", "version": "1"},
        "python": "3", "airflow": "3.3", "fingerprint": "f", "files": len(paths),
    }  # fmt: skip
    files = [{"type": "file", "seq": seq, "path": path, "status": "parsed"} for seq, path in enumerate(paths, 1)]
    before = b"".join(json.dumps(record).encode() + b"\n" for record in (opening, *files))
    counts = {"files": len(paths), "dags": 0, "errors": 0}
    digest = hashlib.sha256(before).hexdigest()
    close = json.dumps({"type": "close", "files": paths, "counts": counts, "digest": digest}).encode() + b"\n"
    taker = collecting.Taker(WHOLE, collecting.MemorySink(), run_id="r", attempt="a", batch_bytes=1)
    list(taker.feed(before))
    assert taker.held > len(paths) * 64
    list(taker.feed(close))
    assert taker.held > sum(map(sys.getsizeof, paths))


@pytest.mark.parametrize(
    ("spec", "parser", "processes", "left_open"),
    [
        ({}, "SinglePass", 2, ["parser", "processes"]),
        ({"type": "Mine"}, "Mine", 2, ["processes"]),
        ({"processes": 5}, "SinglePass", 5, ["parser"]),
        ({"type": "SinglePass", "processes": 2}, "SinglePass", 2, []),
    ],
)
def test_a_request_tells_what_the_spec_leaves_open_beside_what_an_older_parser_takes(
    spec: dict[str, Any], parser: str, processes: int, left_open: list[str]
) -> None:
    settings = collecting.RunSettings("rollout", "team.sales", bundle_models.Parser(**spec))
    request = collecting.request_for(WHOLE, settings, attempt="a", root="/bundle", known={})
    assert (request.parser["type"], request.processes, request.defaults) == (parser, processes, left_open)

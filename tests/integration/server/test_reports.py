"""Reports as parsers send them and as none should: what is taken, what is refused, and that nothing half counts."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dagbundle.store.records import RunState
from integration.server.conftest import Answer, Caller, Serve, World
from integration.server.helpers import head, raw, wait_for, wait_until_cut, wait_until_open
from support import reports
from support.store_process import Process

pytestmark = pytest.mark.postgres
A, B = reports.parsed("a.py", "a"), reports.parsed("b.py", "b")


def closed(world: World, rollout_id: str) -> bool:
    return world.store.outcomes(rollout_id)[0].closed


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_report_may_come_compressed_or_not_and_in_chunks_of_any_size(
    world: World, server: Process, encoding: str
) -> None:
    job = world.job()
    pod = world.pod(job)
    body = pod.lines(A, B) if encoding == "gzip" else gzip.decompress(pod.lines(A, B))
    assert pod.send(server, (body[i : i + 7] for i in range(0, len(body), 7)), Content_Encoding=encoding).status == 200
    assert closed(world, job.rollout_id)


def test_a_report_sent_again_counts_once_even_after_the_rollout_is_over(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    for _ in range(2):
        assert pod.report(server, A, B).document == {"state": "Closed"}
    world.rollout()
    assert pod.report(server, A, B).document == {"state": "Closed"}
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.files, state.dags) == (2, 2)


@pytest.mark.parametrize("files", [(A,), (A, reports.parsed("b.py", "other")), (A, B, reports.parsed("c.py", "c"))])
def test_another_report_of_a_closed_run_is_refused(
    world: World, server: Process, files: tuple[dict[str, Any], ...]
) -> None:
    job = world.job()
    pod = world.pod(job)
    assert pod.report(server, A, B).status == 200
    answer = pod.report(server, *files)
    assert (answer.status, answer.reason) in {(400, "BadReport"), (409, "RunOver")}
    (outcome,) = world.store.outcomes(job.rollout_id)
    assert (outcome.closed, [file.path for file in outcome.files]) == (True, ["a.py", "b.py"])


def test_a_run_that_says_that_it_failed_has_failed(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    body = json.dumps({"type": "fail", "kind": "AirflowNotInstalled", "message": "no Airflow"}).encode() + b"\n"
    for _ in range(2):
        assert pod.send(server, body).document == {"state": "Failed"}
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.state, state.failure) == (RunState.FAILED, "AirflowNotInstalled: no Airflow")
    assert world.pod(job).report(server, A).status == 200
    assert closed(world, job.rollout_id)


def test_a_newer_attempt_fences_the_older(world: World, server: Process) -> None:
    job = world.job()
    old, new = world.pod(job), world.pod(job)
    lines = reports.lines(old.request, [A, B])

    def interrupted() -> Iterator[bytes]:
        yield from lines[:2]
        wait_until_open(world, job.rollout_id)
        assert new.report(server, reports.parsed("new.py", "new")).status == 200
        yield from lines[2:]

    answer = old.send(server, interrupted())
    assert (answer.status, answer.reason) == (409, "Fenced")
    assert old.report(server, A, B).reason == "RunClosed"
    assert [file.path for file in world.store.outcomes(job.rollout_id)[0].files] == ["new.py"]


def test_an_attempt_that_comes_late_does_not_undo_what_its_successor_closed(world: World, server: Process) -> None:
    job = world.job()
    old, new = world.pod(job), world.pod(job)

    def late() -> Iterator[bytes]:
        yield b"\x1f"  # let in, and nothing opened yet
        wait_for(server, "dagbundle_server_reports_open", 1)
        assert new.report(server, reports.parsed("new.py", "new")).status == 200
        yield old.lines(A, B)[1:]

    answer = old.send(server, late())
    assert (answer.status, answer.reason) == (409, "RunClosed")
    (outcome,) = world.store.outcomes(job.rollout_id)
    assert (outcome.closed, [file.path for file in outcome.files]) == (True, ["new.py"])


def test_a_rollout_that_is_superseded_while_it_reports_is_told_so(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    lines = reports.lines(pod.request, [A, B])

    def interrupted() -> Iterator[bytes]:
        yield from lines[:2]
        world.rollout()
        yield from lines[2:]

    assert pod.send(server, interrupted()).reason == "RunOver"


def test_the_closed_attempts_pod_may_not_open_another_run_of_its_job(world: World, server: Process) -> None:
    rollout = world.rollout(subdirs=("a", "b"))
    first, second = world.job(rollout, "a"), world.job(rollout, "b")
    assert world.pod(first).ask(server, run=second.run_id).reason == "WrongPod"


# --- Hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../a.py", "/etc/passwd", "in/../a.py", "in//a.py", "in/./a.py", "", "in/a\n.py"])
def test_a_path_that_leaves_the_bundle_is_refused(world: World, server: Process, path: str) -> None:
    job = world.job()
    answer = world.pod(job).report(server, {**A, "path": path})
    assert (answer.status, answer.reason) == (400, "BadReport")
    assert not closed(world, job.rollout_id)


@pytest.mark.parametrize("path", ["a.py", "other/a.py", "into/a.py", "in/nested/a.py", "in"])
def test_a_file_of_another_subdir_is_refused(world: World, server: Process, path: str) -> None:
    job = world.job(world.rollout(subdirs=("in", "in/nested")), "in", exclude=("in/nested",))
    answer = world.pod(job).report(server, reports.parsed(path, "a"))
    if path == "in":
        assert answer.status == 200  # a subdir that is one file
        return
    assert (answer.status, answer.reason) == (400, "BadReport")
    assert "does not belong to subdir in" in answer.document["detail"]
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.state, "does not belong" in state.failure) == (RunState.FAILED, True)


def test_the_identity_in_a_report_decides_nothing_but_must_be_right(world: World, server: Process) -> None:
    mine, theirs = world.pod(world.job()), world.pod(world.job(world.rollout()))
    answer = mine.send(server, theirs.lines(A))
    assert answer.reason in {"BadReport", "RunOver"}
    job = world.job(world.rollout())
    pod, other = world.pod(job), world.pod(job)
    assert pod.send(server, other.lines(A)).reason == "BadReport"
    assert not closed(world, job.rollout_id)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body.replace(b'"protocol": 1', b'"protocol": 99'),
        lambda body: body.replace(b'"seq": 2', b'"seq": 3'),
        lambda body: body.replace(b'"files": 2, "dags"', b'"files": 3, "dags"'),
        lambda body: body.replace(b'"dag_hash": "hash', b'"dag_hash": "hush'),
        lambda body: body + body,
        lambda body: b"\n" + body,
        lambda _: b"\x00" * 100 + b"\n",
        lambda _: b"[" * 100_000 + b"\n",
        lambda _: b"{}\n",
        lambda _: b'{"type": "file"}\n',
        lambda body: gzip.compress(body) + b"more",
    ],
)
def test_a_damaged_report_is_refused_and_nothing_of_it_counts(world: World, server: Process, damage: Any) -> None:
    job = world.job()
    pod = world.pod(job)
    body = b"".join(reports.lines(pod.request, [{**A}, {**B}]))
    changed = damage(body)
    assert changed != body
    answer = pod.send(server, changed)
    assert (answer.status, answer.reason) == (400, "BadReport")
    assert not closed(world, job.rollout_id)


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_a_report_that_ends_too_early_is_cut_and_can_be_sent_again(world: World, server: Process, keep: int) -> None:
    job = world.job()
    pod = world.pod(job)
    lines = reports.lines(pod.request, [A, B])
    answer = pod.send(server, b"".join(lines[:keep]))
    assert (answer.status, answer.reason) == (400, "CutReport")
    assert not closed(world, job.rollout_id)
    assert pod.report(server, A, B).status == 200
    assert closed(world, job.rollout_id)


def test_a_report_that_breaks_off_leaves_a_note_of_the_files_in_flight_until_it_comes_again(
    world: World, server: Process
) -> None:
    job = world.job()
    pod = world.pod(job)
    opening, first, *_ = reports.lines(pod.request, [A, B])
    begun = json.dumps({"type": "begin", "paths": [A["path"], B["path"]]}).encode() + b"\n"
    body = opening + begun + first
    with raw(pod, server) as connection:
        connection.sendall(head(pod, "Content-Length: 100000") + body)
        wait_until_open(world, job.rollout_id)
    wait_until_cut(world, job.rollout_id)
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.state, state.failure) == (RunState.OPEN, f"; in flight: {B['path']}")
    assert pod.report(server, A, B).status == 200
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.state, state.failure) == (RunState.CLOSED, "")


def test_a_connection_that_breaks_leaves_nothing_closed_and_the_report_can_be_sent_again(
    world: World, server: Process
) -> None:
    job = world.job()
    pod = world.pod(job)
    body = pod.lines(A, B)
    with raw(pod, server) as connection:
        connection.sendall(head(pod, f"Content-Length: {len(body)}") + body[: len(body) // 2])
    server.wait_for(lambda line: line.get("reason") == "CutReport")
    assert not closed(world, job.rollout_id)
    assert pod.report(server, A, B).status == 200


def test_a_gzip_bomb_is_refused_early(world: World, server: Process) -> None:
    job = world.job()
    for bomb in (b"\x00", b"[", b'{"type":"open",'):
        answer = world.pod(job).send(server, gzip.compress(bomb * (200_000_000 // len(bomb))))
        assert (answer.status, answer.reason) == (400, "BadReport"), bomb
        assert "gzip bomb" in answer.document["detail"] or "a record is longer" in answer.document["detail"]
    assert all(line["bytes"] < 200_000 for line in server.requests(job.run_id))


def test_a_record_with_more_values_than_memory_is_worth_is_refused(world: World, serve: Serve) -> None:
    server = serve(record_values=10_000)
    pod = world.pod(world.job())
    answer = pod.report(server, {**A, "closure": {"x": [[]] * 20_000}})
    assert (answer.reason, "10,000 values" in answer.document["detail"]) == ("BadReport", True)


def test_a_report_that_is_too_long_is_refused(world: World, serve: Serve) -> None:
    server = serve(report_bytes=50_000, record_bytes=20_000, inflated_bytes=40_000)
    job = world.job()
    assert world.pod(job).ask(server).document["limits"]["reportBytes"] == 20_000
    many = [reports.parsed(f"{number}.py", f"d{number}") for number in range(200)]
    for files, reason, detail in (
        ([{**A, "sources": {"a.py": "x" * 30_000}}], "BadReport", "a record is longer than 20,000 bytes"),
        (many, "BadReport", "the report is longer than 40,000 bytes"),
    ):
        answer = world.pod(job).report(server, *files)
        assert (answer.reason, answer.document["detail"]) == (reason, detail)
    assert world.pod(job).send(server, b"", Content_Encoding="br").reason == "UnknownEncoding"
    assert world.pod(job).report(server, A).status == 200


def test_a_report_with_more_bytes_than_are_taken_is_refused_as_such(world: World, serve: Serve) -> None:
    server = serve(report_bytes=1000)
    pod = world.pod(world.job())
    noisy = {**A, "sources": {"a.py": os.urandom(4000).hex()}}
    answer = pod.report(server, noisy)
    assert (answer.status, answer.reason) == (413, "ReportTooLarge")
    assert pod.report(server, A).status == 200


def test_requests_that_are_none_are_answered_as_problems(world: World, server: Process) -> None:
    pod = world.pod(world.job())
    assert pod.ask(server, "/nothing").reason == "NotFound"
    assert pod.ask(server, method="DELETE").reason == "MethodNotAllowed"
    assert pod.ask(server, "/report").reason == "MethodNotAllowed"
    with raw(pod, server) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    with raw(pod, server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")


# --- Anything at all ------------------------------------------------------------------------------------------------


@hypothesis.settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_no_bytes_whatever_close_a_run_that_did_not_report_so(
    world: World, server: Process, data: st.DataObject
) -> None:
    job = world.job(world.rollout())
    pod = world.pod(job)
    body = bytearray(b"".join(reports.lines(pod.request, [A, B])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 10_000)) % len(body)
        match data.draw(st.sampled_from(["flip", "cut", "insert", "drop"])):
            case "flip":
                body[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del body[place:]
            case "insert":
                body[place:place] = data.draw(st.binary(max_size=20))
            case "drop":
                del body[place : place + data.draw(st.integers(1, 50))]
        if not body:
            break
    sent = bytes(body)
    if data.draw(st.booleans()):
        sent = zlib.compress(sent, wbits=31)
        if data.draw(st.booleans()):
            sent = sent[: data.draw(st.integers(0, 10_000)) % (len(sent) + 1)]
    answer: Answer = pod.send(server, sent)
    whole = decodable(sent, b"".join(reports.lines(pod.request, [A, B])))
    assert answer.status == (200 if whole else 400), (answer, sent)
    assert closed(world, job.rollout_id) == whole


def decodable(sent: bytes, right: bytes) -> bool:
    """Whether what was sent is, decompressed, the right report; its digest covers every byte but the last line's."""
    if sent.startswith(b"\x1f\x8b"):
        try:
            sent = zlib.decompressobj(wbits=31).decompress(sent)
        except zlib.error:
            return False
    try:
        lines, theirs = sent.splitlines(keepends=True), right.splitlines(keepends=True)
        same = lines[:-1] == theirs[:-1] and json.loads(lines[-1]) == json.loads(theirs[-1])
        return same and lines[-1].endswith(b"\n")
    except (ValueError, IndexError):
        return False


def test_the_digest_of_the_helper_is_the_protocols() -> None:
    lines = reports.lines(Caller("r", "t", "p", None).request, [A])  # type: ignore[arg-type] # no server is asked
    assert json.loads(lines[-1])["digest"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()

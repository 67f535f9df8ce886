"""`work`: the request from a server, the report to it, whatever happens to the connection in between."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagbundle.resources import protocol
from dagbundle_parser import spool as spooling
from dagbundle_parser.spool import Abandoned, Spool
from support.store_server import Answer, Exchange, Script, ScriptedServer, problem, scripted_server
from unit.parser.conftest import ROOT, request_for, stub_environment

PACKAGE = ROOT / "operator" / "dagbundle_parser"


class Pod:
    """A parser as the operator would start it, on this machine."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.token = folder / "token"
        self.token.write_text("first\n")
        self.last_words = folder / "termination-log"
        self.last_words.write_text("")
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.bundle = bundle

    def start(self, server: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(PACKAGE), "work"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **stub_environment(), "DAGBUNDLE_SERVER_URL": server, "DAGBUNDLE_RUN": "abc",
                "DAGBUNDLE_TOKEN_FILE": str(self.token), "DAGBUNDLE_SCRATCH": str(self.scratch),
                "DAGBUNDLE_TERMINATION_LOG": str(self.last_words), "DAGBUNDLE_SEND_TIMEOUT": "20", **env,
            },
        )  # fmt: skip

    def work(self, server: str, **env: str) -> tuple[int, str]:
        with self.start(server, **env) as process:
            _, said = process.communicate(timeout=60)
        return process.returncode, said

    def request(self, **changes: Any) -> dict[str, Any]:
        return request_for(self.bundle, **{"run": "abc", "attempt": "pod-uid", **changes})


@pytest.fixture
def pod(tmp_path: Path, bundle: Path) -> Pod:
    for number in range(20):
        (bundle / f"{number}.py").symlink_to("/etc/hostname")  # reported without Airflow: a link that leaves the bundle
    return Pod(tmp_path, bundle)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], ScriptedServer]]:
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(scripted_server(script))


def script(pod: Pod, *answers: Answer, **changes: Any) -> Script:
    """Hand out the request, and answer the reports in turn, with 200 at the end."""
    waiting = list(answers)

    def answer(exchange: Exchange) -> Answer:
        if exchange.method == "GET":
            return Answer(document=pod.request(**changes))
        return waiting.pop(0) if waiting else Answer()

    return answer


def decoded(exchange: Exchange) -> list[protocol.Record]:
    decoder = protocol.ReportDecoder(run="abc", attempt="pod-uid")
    records = list(decoder.feed(exchange.body))
    decoder.finish()
    return records


def test_the_report_of_the_servers_run_arrives_whole(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    server = serve(script(pod))
    assert pod.work(server.url) == (0, "")
    asked, told = server.heard
    assert (asked.method, asked.path, told.method, told.path) == (
        "GET", "/v1/runs/abc", "POST", "/v1/runs/abc/report",
    )  # fmt: skip
    assert told.headers["Content-Encoding"] == "gzip"
    records = decoded(told)
    assert isinstance(records[-1], protocol.Close)
    assert len(records[-1].files) == 20
    assert pod.last_words.read_text() == ""
    assert list(pod.scratch.iterdir()) == []


def test_the_token_is_read_for_every_request(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    answers = script(pod, Answer(503, headers={"Retry-After": "0"}))

    def rotate(exchange: Exchange) -> Answer:
        pod.token.write_text(exchange.token + "+")
        return answers(exchange)

    server = serve(rotate)
    assert pod.work(server.url)[0] == 0
    assert [exchange.token for exchange in server.heard] == ["first", "first+", "first++"]


@pytest.mark.parametrize(
    "answer",
    [
        problem(429, "TooMany", Retry_After="1"),
        problem(503, "StoreUnavailable"),
        Answer(502),
        Answer(504, before_body=True),
        Answer(429, before_body=True, headers={"Retry-After": "0"}),
        Answer(cut_after=0),
        Answer(cut_after=100),
    ],
    ids=lambda answer: f"{answer.status}-{answer.before_body}-{answer.cut_after}",
)
def test_what_is_not_taken_for_now_is_sent_again_whole(
    pod: Pod, serve: Callable[[Script], ScriptedServer], answer: Answer
) -> None:
    server = serve(script(pod, answer, answer))
    status, said = pod.work(server.url)
    assert status == 0
    assert said.count("trying again") == 2
    assert isinstance(decoded(server.heard[-1])[-1], protocol.Close)
    assert len(server.heard) == 4


def test_a_request_that_cannot_be_had_at_once_is_asked_for_again(
    pod: Pod, serve: Callable[[Script], ScriptedServer]
) -> None:
    answers = script(pod)
    refusals = [problem(503, "NotYet", Retry_After="0"), Answer(502)]
    server = serve(lambda exchange: refusals.pop() if refusals else answers(exchange))
    assert pod.work(server.url)[0] == 0


@pytest.mark.parametrize("before_body", [True, False])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 301])
def test_a_report_that_is_refused_ends_it_at_once_with_the_servers_words(
    pod: Pod, serve: Callable[[Script], ScriptedServer], status: int, before_body: bool
) -> None:
    refusal = problem(status, "RunOver", "a newer rollout took its place")
    refusal.before_body = before_body
    server = serve(script(pod, refusal))
    code, said = pod.work(server.url)
    assert code == 4
    assert "RunOver: a newer rollout took its place" in said
    assert "RunOver: a newer rollout took its place" in pod.last_words.read_text()
    assert len(server.heard) == 2


def test_a_run_that_is_refused_is_not_parsed(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    server = serve(lambda _: problem(403, "WrongAccount", "the token is another account's"))
    code, said = pod.work(server.url)
    assert (code, len(server.heard)) == (4, 1)
    assert "WrongAccount: the token is another account's" in said


def test_a_run_that_is_closed_already_needs_nothing(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    server = serve(lambda _: problem(409, "RunClosed"))
    assert pod.work(server.url)[0] == 0


def test_who_cannot_be_reached_in_time_is_given_up(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    code, said = pod.work("http://127.0.0.1:1", DAGBUNDLE_SEND_TIMEOUT="1")
    assert code == 3
    assert "cannot be reached: Connection refused" in said
    server = serve(script(pod, *[Answer(503)] * 50))
    code, said = pod.work(server.url, DAGBUNDLE_SEND_TIMEOUT="1")
    assert code == 3
    assert "could not be delivered: the server answered 503" in pod.last_words.read_text()


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"DAGBUNDLE_SERVER_URL": ""}, "DAGBUNDLE_SERVER_URL is not set"),
        ({"DAGBUNDLE_SERVER_URL": "http://store.dagbundle.svc"}, "over https"),
        ({"DAGBUNDLE_SERVER_URL": "http://127.0.0.1.example"}, "over https"),
        ({"DAGBUNDLE_SERVER_URL": "ftp://x"}, "must be an https URL"),
        ({"DAGBUNDLE_SERVER_URL": "https://"}, "must be an https URL"),
        ({"DAGBUNDLE_RUN": "../x"}, "no run's name"),
        ({"DAGBUNDLE_TOKEN_FILE": "/nonexistent"}, "DAGBUNDLE_TOKEN_FILE"),
        ({"DAGBUNDLE_TOKEN_FILE": "/dev/null"}, "holds no token"),
        ({"DAGBUNDLE_SCRATCH": "/nonexistent"}, "DAGBUNDLE_SCRATCH"),
        ({"DAGBUNDLE_SEND_TIMEOUT": "soon"}, "whole number"),
        ({"JOB_COMPLETION_INDEX": "-1"}, "whole number"),
    ],
)
def test_settings_that_cannot_be_used_are_named(pod: Pod, env: dict[str, str], text: str) -> None:
    code, said = pod.work(env.pop("DAGBUNDLE_SERVER_URL", "http://127.0.0.1:1"), **env)
    assert code == 2
    assert text in said
    assert text in pod.last_words.read_text()


def test_a_certificate_that_nobody_vouches_for_is_not_believed(pod: Pod) -> None:
    code, said = pod.work("https://127.0.0.1:1", DAGBUNDLE_SERVER_CA="no certificate", DAGBUNDLE_SEND_TIMEOUT="1")
    assert code == 3
    assert "cannot be reached" in said


@pytest.mark.parametrize(
    ("changes", "env", "text"),
    [
        ({"protocol": 99}, {}, "protocol 99"),
        ({"shard": 1, "shards": 2}, {"JOB_COMPLETION_INDEX": "0"}, "for shard 1 of 2, this pod is 0"),
    ],
)
def test_a_request_that_cannot_be_used_is_told_to_the_server(
    pod: Pod, serve: Callable[[Script], ScriptedServer], changes: dict[str, Any], env: dict[str, str], text: str
) -> None:
    server = serve(script(pod, **changes))
    code, said = pod.work(server.url, **env)
    assert (code, len(server.heard)) == (2, 2)
    assert text in said
    (record,) = decoded(server.heard[1])
    assert isinstance(record, protocol.Fail)
    assert (record.kind, text in record.message) == ("RequestUnusable", True)


def test_a_run_that_fails_as_a_whole_is_delivered_as_such(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    server = serve(script(pod, root="/nonexistent"))
    assert pod.work(server.url)[0] == 0
    record = decoded(server.heard[1])[-1]
    assert isinstance(record, protocol.Fail)
    assert record.kind == "BundleNotFound"


def test_every_shard_reports_its_own_files_and_together_they_are_all(
    pod: Pod, serve: Callable[[Script], ScriptedServer]
) -> None:
    listings = []
    for shard in range(3):
        server = serve(script(pod, shard=shard, shards=3))
        assert pod.work(server.url, JOB_COMPLETION_INDEX=str(shard))[0] == 0
        close = decoded(server.heard[1])[-1]
        assert isinstance(close, protocol.Close)
        listings.append(close.files)
    assert all(listings)
    assert sorted(path for listing in listings for path in listing) == sorted(f"{number}.py" for number in range(20))


def test_a_parser_that_is_stopped_leaves_a_cut_report(pod: Pod, serve: Callable[[Script], ScriptedServer]) -> None:
    (pod.bundle / "slow").mkdir()
    server = serve(script(pod, *[Answer(503, headers={"Retry-After": "2"})] * 3))
    with pod.start(server.url) as process:
        server.wait_for(2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said


def test_a_server_that_never_heard_of_asking_first_is_sent_to_all_the_same(
    pod: Pod, serve: Callable[[Script], ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagbundle_parser import remote  # noqa: PLC0415 - only here in this process

    monkeypatch.setattr(remote, "_CONTINUE_SECONDS", 0.0)
    server = serve(script(pod))
    told = remote.Server(server.url, str(pod.token))
    told.post("/v1/runs/abc/report", iter([zlib.compress(b"x", wbits=31)]))
    assert server.heard[0].text == b"x"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(str(tmp_path))) as opened:
        yield opened


# --- The spool ------------------------------------------------------------------------------------------------------


def test_a_spool_is_read_from_its_start_as_often_as_wanted(spool: Spool) -> None:
    assert spool.empty
    for number in range(1000):
        spool.write(b"%d\n" % number)
        if number % 7 == 0:
            spool.flush()
    assert not spool.empty
    spool.finish()
    whole = [zlib.decompress(b"".join(spool.chunks()), wbits=31) for _ in range(2)]
    assert whole == [b"".join(b"%d\n" % number for number in range(1000))] * 2


def test_signs_of_life_change_nothing_of_what_is_sent(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "STILL_THERE_SECONDS", 0.001)
    sent, signs, chunks = b"", 0, spool.chunks()
    for number in range(50):
        spool.write(b"line %d\n" % number)
        spool.flush()
        chunk = next(chunks)
        while True:
            sent += chunk
            signs += chunk == spooling.STILL_THERE
            if chunk == spooling.STILL_THERE:
                break
            chunk = next(chunks)
    spool.finish()
    sent += b"".join(chunks)
    assert signs >= 50
    inflater = zlib.decompressobj(wbits=31)
    assert inflater.decompress(sent) == b"".join(b"line %d\n" % number for number in range(50))
    assert inflater.eof
    assert inflater.unused_data == b""


def test_a_spool_that_is_abandoned_breaks_off_whoever_reads_it(spool: Spool) -> None:
    spool.write(b"x" * 10)
    spool.flush()
    chunks = spool.chunks()
    next(chunks)
    spool.abandon()
    with pytest.raises(Abandoned):
        next(chunks)

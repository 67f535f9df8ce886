"""Lookups: the line between a file's process and the one that has the token, and what is said of values afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagbundle_parser import answering
from dagbundle_parser.answering import Answering
from dagbundle_parser.errors import RunError
from dagbundle_parser.remote import Server
from dagbundle_parser.values import CONNECTION, VARIABLE, Line, LookupFailed, Values
from support.store_server import Answer, Exchange, Script, ScriptedServer, problem, scripted_server

SECRET = 'it\'s a "horse"\n/battery'


@dataclasses.dataclass
class Stop:
    event: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass
class Pod:
    """Both ends, in one process."""

    server: ScriptedServer
    line: Line
    descriptors: list[int] = dataclasses.field(default_factory=list)

    def process(self) -> Values:
        """What a process of a file has."""
        values = Values()
        self.descriptors.append(self.line.open())
        values.connect(self.descriptors[-1])
        return values

    def end(self) -> None:
        """What the end of all processes does."""
        self.line._control.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    @property
    def paths(self) -> list[str]:
        return [exchange.path for exchange in self.server.heard]


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Callable[[Script], Pod]]:
    (tmp_path / "token").write_text("token")
    stop = Stop()
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> Pod:
            server = stack.enter_context(scripted_server(script))
            ours, theirs = socket.socketpair()
            answering_ = Answering(Server(server.url, str(tmp_path / "token")), "run-1", theirs, stop)
            thread = threading.Thread(target=answering_._listen)
            thread.start()
            stack.callback(thread.join)
            pod = Pod(server, Line(ours.detach()))
            stack.callback(pod.end)
            return pod

        yield start
        stop.event.set()


def always(answer: Answer) -> Script:
    return lambda _: answer


def test_each_key_is_asked_for_once_whichever_process_asks(pods: Callable[[Script], Pod]) -> None:
    pod = pods(always(Answer(document={"value": "north"})))
    first, second = pod.process(), pod.process()
    assert [values.ask(VARIABLE, "region/a b") for values in (first, first, second)] == ["north"] * 3
    assert second.ask(VARIABLE, "other") == "north"
    assert pod.paths == ["/v1/runs/run-1/variables/region%2Fa%20b", "/v1/runs/run-1/variables/other"]
    assert pod.server.heard[0].token == "token"
    assert first.asked == {VARIABLE}


@pytest.mark.parametrize("reason", ["NoSuchValue", "NoTarget"])
def test_what_is_missing_is_asked_for_once_as_well(pods: Callable[[Script], Pod], reason: str) -> None:
    pod = pods(always(problem(404, reason)))
    values = pod.process()
    assert [values.ask(VARIABLE, "region") for _ in range(3)] == [None] * 3
    assert (len(pod.paths), values.refused, values.failure) == (1, set(), "")


def test_what_is_refused_is_missing_with_the_servers_reason(pods: Callable[[Script], Pod]) -> None:
    pod = pods(always(problem(403, "NotGranted", "ask for tenants[].variables")))
    values = pod.process()
    assert values.ask(VARIABLE, "payroll") is None
    assert values.refused == {"the variable 'payroll' was refused: ask for tenants[].variables"}
    values.begin()
    assert (values.refused, values.asked) == (set(), set())


@pytest.mark.parametrize(
    "answer", [problem(409, "RunOver"), problem(401, "TokenRefused"), Answer(200, {"no": "value"})]
)
def test_any_other_answer_is_a_failure_and_no_missing_value(pods: Callable[[Script], Pod], answer: Answer) -> None:
    values = pods(always(answer)).process()
    with pytest.raises(LookupFailed):
        values.ask(VARIABLE, "region")
    assert values.failure


def test_a_server_that_is_away_is_asked_again_and_then_given_up(
    pods: Callable[[Script], Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "LOOKUP_SECONDS", 1.0)
    turns = iter([problem(503, "StoreUnavailable"), Answer(document={"value": "north"})])
    pod = pods(lambda exchange: next(turns) if "region" in exchange.path else problem(503, "StoreUnavailable"))
    values = pod.process()
    assert values.ask(VARIABLE, "region") == "north"
    with pytest.raises(LookupFailed, match="'other' cannot be looked up: the server answered 503 StoreUnavailable"):
        values.ask(VARIABLE, "other")
    before = len(pod.paths)
    with pytest.raises(LookupFailed):
        pod.process().ask(VARIABLE, "other")
    assert len(pod.paths) == before


@pytest.mark.parametrize("key", ["", "x" * 251, "new\nline", "\ud800"])
def test_a_name_that_cannot_be_is_missing_without_a_question(pods: Callable[[Script], Pod], key: str) -> None:
    pod = pods(always(Answer(document={"value": "never"})))
    assert pod.process().ask(VARIABLE, key) is None
    assert pod.paths == []


def test_the_longest_name_is_asked_for_whatever_its_characters(pods: Callable[[Script], Pod]) -> None:
    pod = pods(always(Answer(document={"value": "found"})))
    assert pod.process().ask(VARIABLE, "\U0001f40e" * 250) == "found"


def test_without_a_line_everything_is_missing() -> None:
    values = Values()
    assert values.ask(VARIABLE, "region") is None
    assert values.asked == {VARIABLE}


@pytest.mark.parametrize(
    "question", [b"no json\n", b'{"kind":"secret","key":"a"}\n', b'{"kind":["variable"],"key":"a"}\n', b"x" * 5000,
                 b'{"kind":"variable","key":7}\n', b"[" * 4000 + b"\n", b'"text"\n'],
)  # fmt: skip
def test_a_process_that_asks_nonsense_is_not_heard_any_more_and_the_others_are(
    pods: Callable[[Script], Pod], question: bytes
) -> None:
    pod = pods(always(Answer(document={"value": "north"})))
    hostile = socket.socket(fileno=pod.line.open())
    with hostile:
        hostile.sendall(question)
        hostile.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert hostile.recv(10) == b""
    assert pod.process().ask(VARIABLE, "region") == "north"
    assert len(pod.paths) == 1


def test_a_large_value_arrives_whole(pods: Callable[[Script], Pod]) -> None:
    text = "0123456789" * 90_000
    assert pods(always(Answer(document={"value": text}))).process().ask(VARIABLE, "large") == text


def test_a_lookup_that_was_interrupted_ends_all_others_of_its_process(pods: Callable[[Script], Pod]) -> None:
    arrived, released = threading.Event(), threading.Event()

    def answer(_exchange: Exchange) -> Answer:
        arrived.set()
        assert released.wait(20)
        return Answer(document={"value": "late"})

    pod = pods(answer)
    values = pod.process()

    class Interrupted(BaseException):
        pass

    def read(_descriptor: int, _count: int) -> bytes:
        assert arrived.wait(20)
        raise Interrupted

    values._read = read
    with pytest.raises(Interrupted):
        values.ask(VARIABLE, "slow")
    released.set()
    values._read = os.read
    with pytest.raises(LookupFailed, match="interrupted"):
        values.ask(VARIABLE, "other")


def test_a_process_that_a_file_starts_cannot_ask(pods: Callable[[Script], Pod]) -> None:
    values = pods(always(Answer(document={"value": "north"}))).process()
    values._pid = lambda: os.getpid() + 1
    with pytest.raises(LookupFailed, match="in a process that the file starts"):
        values.ask(VARIABLE, "region")


def test_where_nobody_answers_any_more_a_lookup_fails() -> None:
    ours, theirs = socket.socketpair()
    line = Line(ours.detach())
    theirs.close()
    with pytest.raises(RunError, match="lookups get no answer any more"):
        line.open()
    line._control.close()
    end, other = socket.socketpair()
    other.close()
    values = Values()
    with end:
        values.connect(end.fileno())
        with pytest.raises(LookupFailed, match="lookups get no answer"):
            values.ask(VARIABLE, "region")


# --- What is said of values -----------------------------------------------------------------------------------------


def given(pods: Callable[[Script], Pod], kind: str, value: object) -> Values:
    values = pods(always(Answer(document={"value": value}))).process()
    values.ask(kind, "any")
    return values


@pytest.mark.parametrize(
    "told", [SECRET, repr(SECRET), json.dumps(SECRET), "it%27s%20a%20%22horse%22%0A%2Fbattery"]
)  # fmt: skip
def test_a_value_is_hidden_however_it_is_written(pods: Callable[[Script], Pod], told: str) -> None:
    values = given(pods, VARIABLE, SECRET + "\n")
    text = values.cleaned(f"before {told} after")
    assert "horse" not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


def test_the_texts_inside_of_json_are_hidden_and_short_ones_are_not(pods: Callable[[Script], Pod]) -> None:
    document = {"api": {"keys": ["long-enough", 12345, "tiny", None]}}
    values = given(pods, VARIABLE, json.dumps(document))
    assert values.cleaned("long-enough, tiny, 12345") == "***, tiny, 12345"


def test_of_a_connection_password_and_extra_are_hidden(pods: Callable[[Script], Pod]) -> None:
    fields = {"host": "db.example", "login": "reader", "password": "pass/word", "extra": '{"token": "extra-token"}'}
    values = given(pods, CONNECTION, fields)
    assert values.cleaned("postgres://reader:pass%2Fword@db.example?token=extra-token") == (
        "postgres://reader:***@db.example?token=***"
    )


def test_the_longest_of_several_hidden_texts_goes_first(pods: Callable[[Script], Pod]) -> None:
    values = given(pods, VARIABLE, json.dumps(["abcde", "abcdefgh"]))
    assert values.cleaned("abcdefgh abcde") == "*** ***"

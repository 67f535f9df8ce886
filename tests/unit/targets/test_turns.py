"""Who waits for a turn gets one after one of each other share, however many threads of a share wait."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from dagbundle.targets.airflow import wire
from dagbundle.targets.airflow.turns import Turns
from dagbundle.targets.airflow.vetting import Allowed


def _wait(turns: Turns, share: str, order: list[str]) -> threading.Thread:
    """Start a thread that has a turn, and return when it waits for it."""
    before = sum(len(waiting) for waiting in turns._waiting.values())

    def take() -> None:
        with turns.one(share):
            order.append(share)

    thread = threading.Thread(target=take)
    thread.start()
    pause = threading.Event()
    while sum(len(waiting) for waiting in turns._waiting.values()) == before:
        pause.wait(0.001)
    return thread


def test_shares_have_their_turns_one_after_the_other() -> None:
    turns, order = Turns(), list[str]()
    with turns.one("a"):
        threads = [_wait(turns, share, order) for share in ("a", "a", "a", "b", "c", "b")]
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c", "a", "b", "a"]


def test_a_turn_that_nobody_has_is_taken_without_waiting_and_given_back() -> None:
    turns, order = Turns(), list[str]()
    with turns.free() as mine:
        assert mine
        with turns.free() as again:
            assert not again
        thread = _wait(turns, "a", order)
    thread.join()
    assert order == ["a"]
    with turns.free() as mine:
        assert mine


def test_an_interrupt_while_it_waits_leaves_the_turn_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, order, wait, here = Turns(), list[str](), threading.Event.wait, threading.current_thread()

    def interrupted(event: threading.Event) -> bool:
        if threading.current_thread() is here:
            raise KeyboardInterrupt
        return wait(event)

    with turns.one("a"):
        thread = _wait(turns, "c", order)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt), turns.one("b"):
                order.append("b")
    thread.join()
    assert order == ["c"]
    with turns.free() as mine:
        assert mine


def test_all_that_documents_may_name_is_told_to_the_examiners_process() -> None:
    fields = {field.name for field in dataclasses.fields(Allowed)} - {"notifiers", "shared_assets"}
    given = Allowed(**{name: frozenset({name}) for name in fields})
    told = wire.allowed_of(wire.decode(wire.encode(wire.allowed_to_json(given))[wire.HEADER.size :]))
    assert {name: getattr(told, name) for name in fields} == {name: {name} for name in fields}
    assert wire.allowed_to_json(Allowed(notifiers=lambda: frozenset({"a.B"})))["callbacks"] == ["a.B"]

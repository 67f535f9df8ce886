"""The watchdog: what differs twice in the same way was missed; anything else is on its way."""

from __future__ import annotations

from dagbundle.controller.watchdog import Watchdog

A, B = ("team", "a"), ("team", "b")


def test_an_idle_cluster_is_healthy_however_long_it_is_silent() -> None:
    dog = Watchdog()
    for _ in range(3):
        dog.look({A: "1"}, {A: "1"})
    assert dog.problem == ""


def test_a_change_that_is_on_its_way_is_no_problem() -> None:
    dog = Watchdog()
    dog.look({A: "2"}, {A: "1"})
    dog.look({A: "3"}, {A: "2"})
    assert dog.problem == ""


def test_a_change_that_never_comes_is_one() -> None:
    dog = Watchdog()
    dog.look({A: "2", B: "1"}, {A: "1", B: "1"})
    dog.look({A: "2", B: "1"}, {A: "1", B: "1"})
    assert "team/a" in dog.problem


def test_a_bundle_that_is_gone_and_still_seen_is_one() -> None:
    dog = Watchdog()
    dog.look({}, {A: "1"})
    dog.look({}, {A: "1"})
    assert dog.problem

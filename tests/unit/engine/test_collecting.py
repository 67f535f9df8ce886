"""Runs that are carried out side by side, and interrupted."""

from __future__ import annotations

import concurrent.futures
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
    with pytest.raises(KeyboardInterrupt):
        collecting.carry_out([WHOLE], SETTINGS, runtime=runtime, sink=collecting.MemorySink({}, {}), watch=print)
    assert runtime.stopped.is_set()

"""What an interrupt says of the state that it leaves; real parsers are interrupted in tests/integration/cli."""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

import pytest

from dagbundle.cli import headstart, opening, report
from dagbundle.cli.exits import Exit
from dagbundle.engine import publishing
from dagbundle.runtime import local
from support import reports

APPLY = ("apply", "-f", "bundle.yaml", "--local", "--folder", ".", "--quiet")


def interrupt(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    files = reports.whole(reports.parsed("a.py", "a"))
    monkeypatch.setattr(local, "LocalRuntime", lambda *_, **__: reports.ScriptedRuntime(files, "v1"))
    monkeypatch.setattr(headstart, "parser", lambda *_, **__: contextlib.nullcontext())


def test_an_apply_that_is_interrupted_before_it_begins_changed_nothing(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.ScriptedRuntime, "resolve_version", interrupt)
    assert call(*APPLY) == (Exit.INTERRUPTED, "", "Error: interrupted: nothing was changed\n")


def test_an_apply_that_is_interrupted_while_it_judges_published_nothing(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing.Publisher, "judged", interrupt)
    told = "Error: interrupted: nothing was published, and what is live of bundle team-sales/sales is as it was\n"
    assert call(*APPLY) == (Exit.INTERRUPTED, "", told)


def test_an_apply_that_is_interrupted_after_it_published_says_so(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "applied", interrupt)
    told = "Error: interrupted: bundle team-sales/sales is published as revision 1\n"
    assert call(*APPLY) == (Exit.INTERRUPTED, "", told)


def test_an_interrupt_of_a_command_that_only_reads_changed_nothing(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "opened_store", interrupt)
    for command in (["get", "bundles"], ["history", "team/sales"], ["diff", "team/sales"], ["dags", "show", "a"]):
        assert call(*command) == (Exit.INTERRUPTED, "", "Error: interrupted: nothing was changed\n"), command
    for command in (["resume", "team/sales"], ["db", "gc"]):
        assert call(*command) == (Exit.INTERRUPTED, "", "Error: interrupted: nothing more was done\n"), command

"""Killed or cut off at any statement of a publish, both sets of tables are wholly old or wholly new."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from dagbundle import errors
from dagbundle.rollout.model import Problem
from dagbundle.store.dagstore import DagStore
from dagbundle.targets.airflow.target import AirflowTarget
from publisher.conftest import SALES, Deployment, dag, installed
from support import airflow_tables

FIRST = {"a.py": ["a", "b"], "c.py": ["c"], "d.py": ["d"]}


def first(deployment: Deployment) -> None:
    deployment.submit({path: [dag(name) for name in names] for path, names in FIRST.items()})


def second(deployment: Deployment) -> None:
    """Change, add, remove, break and leave DAGs."""
    files: dict[str, Any] = {
        "a.py": [dag("a", description="changed"), dag("new")],
        "c.py": Problem("SyntaxError", "invalid syntax", 1),
        "d.py": [dag("d")],
    }
    deployment.submit(files, version="v2")


def state(deployment: Deployment) -> Any:
    live = deployment.store.live(SALES)
    return airflow_tables.dump(deployment.url), live.revision, live.dags


def armed(store: DagStore, at: int, act: Callable[[], None]) -> list[str]:
    """Act at one statement of the publish, counted from 0; returns the statements as they come."""
    seen: list[str] = []
    publish = store.publish

    def watched(*arguments: Any, **named: Any) -> int:
        def statement(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
            seen.append(text)
            if len(seen) - 1 == at:
                act()

        event.listen(store.db.engine, "before_cursor_execute", statement)
        try:
            return publish(*arguments, **named)
        finally:
            event.remove(store.db.engine, "before_cursor_execute", statement)

    store.publish = watched  # type: ignore[method-assign] # the one place where a publish begins
    return seen


def another(deployment: Deployment) -> DagStore:
    store = DagStore.open(deployment.url)
    store.target = AirflowTarget(installed())
    return store


def statements(deployment: Deployment) -> int:
    """How many statements the second publish has."""
    with another(deployment) as store:
        seen = armed(store, -1, lambda: None)
        second(Deployment(deployment.url, store))
    return len(seen)


def test_a_publish_that_is_cut_off_at_any_statement_changes_nothing(deployment: Deployment) -> None:
    first(deployment)
    old = state(deployment)

    def lost() -> None:
        raise sa.exc.OperationalError("cut", {}, Exception("the connection was lost"))

    at = 0
    while True:
        with another(deployment) as store:
            seen = armed(store, at, lost)
            try:
                second(Deployment(deployment.url, store))
            except errors.StoreError:
                assert state(deployment) == old, f"cut off at {seen[-1]}"
            else:
                break
        at += 1
    assert at > 30
    assert state(deployment) != old


def test_a_publish_that_is_killed_at_any_statement_is_wholly_old_or_wholly_new(deployment: Deployment) -> None:
    first(deployment)
    old = state(deployment)
    deployment.store.close()
    at = 0
    while True:
        child = os.fork()
        if child == 0:
            _publish_and_die(deployment, at)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert state(deployment) == old, f"killed at statement {at}"
        deployment.store.close()
        at += 1
    assert at > 30
    assert deployment.store.live(SALES).version == "v2"


def _publish_and_die(deployment: Deployment, at: int) -> None:
    """In a child: publish, and be killed before one statement."""
    code = 1
    try:
        with another(deployment) as store:
            armed(store, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            second(Deployment(deployment.url, store))
            code = 0
    finally:
        os._exit(code)


def test_what_airflow_rolls_back_takes_the_whole_publication_with_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(deployment)
    old = state(deployment)
    adapter = installed()
    write = adapter.write

    def rolling_back(session: Any, *arguments: Any, **named: Any) -> None:
        write(session, *arguments, **named)
        session.rollback()  # as update_dag_parsing_results_in_db does before it tries again

    monkeypatch.setattr(adapter, "write", rolling_back)
    with pytest.raises(errors.TargetError, match="rolled a part of the publication back"):
        second(deployment)
    monkeypatch.undo()
    assert state(deployment) == old

"""A publish is wholly old or wholly new, wherever it is cut: each test cuts it at every statement in turn."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from dagbundle import errors
from dagbundle.rollout.model import Hold
from dagbundle.store.dagstore import DagStore
from integration.store.builder import SALES, SYNTAX_ERROR, Prepared, apply, prepare, staged
from support.postgres import PostgresServer

BEFORE = {"a.py": {"a": "1", "gone": "1"}, "b.py": {"b": "1"}, "c.py": SYNTAX_ERROR, "d.py": {"d": "1"}}
AFTER = {"a.py": {"a": "2", "b": "1"}, "b.py": SYNTAX_ERROR, "new.py": {"new": "1"}, "d.py": SYNTAX_ERROR}


class Cut(Exception):  # noqa: N818 - not an error of anybody's
    """What a test raises inside a transaction."""


def snapshot(store: DagStore) -> dict[str, list[Any]]:
    """Return every row of every table."""

    def work(connection: sa.Connection) -> dict[str, list[Any]]:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in store.db.tables.metadata.sorted_tables
        }

    return store.db.read(work)


@contextmanager
def at_statement(store: DagStore, number: int, action: Callable[[sa.Connection], None]) -> Iterator[list[str]]:
    """Run `action` before the store's statement of that number; gives the statements that were seen."""
    seen: list[str] = []

    def listen(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)
        if len(seen) == number:
            action(connection)

    sa.event.listen(store.db.engine, "before_cursor_execute", listen)
    try:
        yield seen
    finally:
        sa.event.remove(store.db.engine, "before_cursor_execute", listen)


def cut(_connection: sa.Connection) -> None:
    raise Cut


def ready(store: DagStore) -> Prepared:
    apply(store, SALES, BEFORE, warn=["a.py"])
    return prepare(store, SALES, AFTER)


def test_a_publish_that_fails_at_any_statement_changes_nothing(store: DagStore) -> None:
    publication = ready(store)
    before = snapshot(store)
    number = 0
    while True:
        number += 1
        with at_statement(store, number, cut) as seen:
            try:
                publication.publish(store)
            except Cut:
                pass
            else:
                break
        assert snapshot(store) == before, f"after a cut before statement {number}: {seen[-1]}"
    assert number > 20
    assert store.live(SALES).revision == 2


def test_a_rollback_that_fails_at_any_statement_changes_nothing(store: DagStore) -> None:
    ready(store).publish(store)
    before = snapshot(store)
    number = 0
    while True:
        number += 1
        with at_statement(store, number, cut):
            try:
                store.republish(SALES, to_revision=1, base_revision=2, hold=Hold("h", "v", "bad"))
            except Cut:
                pass
            else:
                break
        assert snapshot(store) == before, number
    assert number > 15
    assert sorted(store.live(SALES).dags) == ["a", "b", "d", "gone"]


def test_staging_that_fails_at_any_statement_stages_nothing(store: DagStore) -> None:
    publication = ready(store)
    run_id = store.open_run(publication.rollout.id, ".", attempt="2", airflow=None, python="3.11")
    files = [staged("x.py", {"x": "1"}), staged("a.py", None)]
    before = snapshot(store)
    number = 0
    while True:
        number += 1
        with at_statement(store, number, cut):
            try:
                store.stage(run_id, "2", files)
            except Cut:
                pass
            else:
                break
        assert snapshot(store) == before, number
    assert number > 8


def test_a_process_that_is_killed_at_any_statement_leaves_what_was_live(sqlite_store: DagStore) -> None:
    store = sqlite_store
    publication = ready(store)
    before = snapshot(store)
    store.db.engine.dispose()
    number, status = 0, 1
    while status:
        number += 1
        child = os.fork()
        if not child:  # pragma: no cover - another process
            with at_statement(store, number, lambda _: os.kill(os.getpid(), signal.SIGKILL)):
                publication.publish(store)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status:
            assert os.WTERMSIG(status) == signal.SIGKILL
            assert snapshot(store) == before, number
            store.db.engine.dispose()
    assert number > 20
    assert store.live(SALES).revision == 2


@pytest.mark.postgres
def test_a_connection_that_is_terminated_at_any_statement_is_replaced_and_the_publish_repeated_whole(
    postgres_store: DagStore, postgres_server: PostgresServer
) -> None:
    store = postgres_store

    def terminate(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        postgres_server.execute(f"SELECT pg_terminate_backend({driver.info.backend_pid}, 5000)")

    ready(store).publish(store)
    number, revision = 0, 2
    while True:
        number += 3  # each third statement: every kind of them, in a third of the time
        publication = prepare(store, SALES, BEFORE if revision % 2 == 0 else AFTER)
        with at_statement(store, number, terminate) as seen:
            assert publication.publish(store) == revision + 1
        revision += 1
        assert store.live(SALES).revision == revision
        if len(seen) < number:
            break
    assert number > 20


@pytest.mark.postgres
def test_a_commit_whose_answer_is_lost_is_recognised_and_not_made_twice(postgres_store: DagStore) -> None:
    store = postgres_store
    publication = ready(store)
    lost: list[bool] = []

    def lose(connection: sa.Connection) -> None:
        if not lost:
            lost.append(True)
            driver: Any = connection.connection.driver_connection
            driver.commit()
            driver.close()
            raise exc.OperationalError("COMMIT", None, psycopg.OperationalError("gone"), connection_invalidated=True)

    sa.event.listen(store.db.engine, "commit", lose)
    assert publication.publish(store) == 2
    assert lost
    assert store.live(SALES).revision == 2
    assert [row.revision for row in store.history(SALES).items] == [2, 1]
    lost.clear()
    assert store.deactivate_dags(["new"]) == ("new",)
    assert store.live(SALES).revision == 3


@pytest.mark.postgres
def test_a_server_that_restarts_in_mid_publish_has_the_old_state_and_the_publish_is_repeated(
    postgres_store: DagStore, postgres_server: PostgresServer
) -> None:
    store = postgres_store
    publication = ready(store)
    before = snapshot(store)
    states = []

    def restart(_connection: sa.Connection) -> None:
        postgres_server.restart()
        with DagStore.open(store.db.engine.url.render_as_string(hide_password=False)) as other:
            states.append(snapshot(other))

    with at_statement(store, 18, restart):
        assert publication.publish(store) == 2
    assert states == [before]
    assert store.live(SALES).revision == 2


@pytest.mark.postgres
def test_what_was_published_survives_a_crash_of_the_server(
    postgres_store: DagStore, postgres_server: PostgresServer
) -> None:
    ready(postgres_store).publish(postgres_store)
    before = snapshot(postgres_store)
    postgres_server.restart()
    assert snapshot(postgres_store) == before


@pytest.mark.postgres
def test_a_server_that_is_gone_is_reported_as_unavailable(tmp_path: pathlib.Path) -> None:
    del tmp_path
    with pytest.raises(errors.StoreUnavailableError) as caught:
        DagStore.open("postgresql://nobody:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)

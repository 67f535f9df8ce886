from __future__ import annotations

import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.store.dagstore import DagStore
from integration.store.builder import OPS, SALES, apply, prepare, start


def at_once(*calls: Callable[[], int]) -> list[int | BaseException]:
    """Make calls at the same instant, each in its own thread; give what they returned or raised."""
    barrier = threading.Barrier(len(calls))

    def call(work: Callable[[], int]) -> int | BaseException:
        barrier.wait()
        try:
            return work()
        except errors.DagBundleError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_of_two_publishers_at_the_same_instant_one_is_told_of_the_conflict(store: DagStore) -> None:
    for revision in range(1, 6):
        ready = prepare(store, SALES, {"a.py": {"a": str(revision)}})
        results = at_once(lambda ready=ready: ready.publish(store), lambda ready=ready: ready.publish(store))
        assert sorted(type(item).__name__ for item in results) == ["ConflictError", "int"]
        assert store.live(SALES).revision == revision


def test_of_two_bundles_that_claim_one_dag_id_at_the_same_instant_exactly_one_wins(store: DagStore) -> None:
    for number in range(5):
        first = prepare(store, SALES, {"a.py": {f"shared{number}": "1"}})
        second = prepare(store, OPS, {"b.py": {f"shared{number}": "2"}})
        results = at_once(lambda one=first: one.publish(store), lambda one=second: one.publish(store))
        assert sorted(type(item).__name__ for item in results) == ["OwnershipError", "int"]
        refused = next(item for item in results if isinstance(item, errors.OwnershipError))
        winner = store.owners([f"shared{number}"])[f"shared{number}"]
        assert f"shared{number} belongs to bundle {winner}" in refused.message


@pytest.mark.postgres
def test_a_claim_waits_for_a_publish_that_is_not_committed_yet_and_then_loses(postgres_store: DagStore) -> None:
    store = postgres_store
    first = prepare(store, SALES, {"a.py": {"shared": "1"}})
    second = prepare(store, OPS, {"b.py": {"shared": "2"}})
    claimed, release = threading.Event(), threading.Event()

    def pause(connection: sa.Connection, *_: object) -> None:
        if connection.info.get("paused") is None and threading.current_thread().name.startswith("first"):
            connection.info["paused"] = True
            claimed.set()
            release.wait(10)

    def listen(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT INTO dagbundle.dag ("):
            pause(connection, cursor, *rest)

    sa.event.listen(store.db.engine, "after_cursor_execute", listen)
    with ThreadPoolExecutor(1, "first") as one, ThreadPoolExecutor(1, "second") as other:
        winner = one.submit(first.publish, store)
        assert claimed.wait(10)
        loser = other.submit(second.publish, store)
        time.sleep(0.2)
        assert not loser.done()
        release.set()
        assert winner.result(10) == 1
        with pytest.raises(errors.OwnershipError, match=r"shared belongs to bundle team-sales\.sales"):
            loser.result(10)


@pytest.mark.postgres
def test_a_rollout_that_starts_during_a_publish_waits_for_it(postgres_store: DagStore) -> None:
    store = postgres_store
    ready = prepare(store, SALES, {"a.py": {"a": "1"}})
    writing, release = threading.Event(), threading.Event()

    def pause(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO dagbundle.publication"):
            writing.set()
            release.wait(10)

    sa.event.listen(store.db.engine, "before_cursor_execute", pause)
    with ThreadPoolExecutor(2) as pool:
        publishing = pool.submit(ready.publish, store)
        assert writing.wait(10)
        starting = pool.submit(start, store, SALES)
        time.sleep(0.3)
        assert not starting.done()
        release.set()
        assert publishing.result(10) == 1
        assert starting.result(10).base_revision == 1


@pytest.mark.postgres
def test_bundles_that_swap_dag_ids_at_once_neither_hang_nor_break(postgres_store: DagStore) -> None:
    store = postgres_store
    for number in range(3):
        apply(store, SALES, {"a.py": {f"x{number}": "1"}})
        apply(store, OPS, {"b.py": {f"y{number}": "1"}})
        first = prepare(store, SALES, {"a.py": {f"y{number}": "1"}})
        second = prepare(store, OPS, {"b.py": {f"x{number}": "1"}})
        results = at_once(lambda one=first: one.publish(store), lambda one=second: one.publish(store))
        assert all(isinstance(item, int | errors.OwnershipError) for item in results), results
        owners = store.owners([f"x{number}", f"y{number}"])
        assert len(owners) >= 1
        assert len(store.live(SALES).dags) == 1


def test_many_bundles_are_published_at_once(store: DagStore) -> None:
    ready = [prepare(store, type(SALES)("team", f"b{number}"), {"a.py": {f"dag{number}": "1"}}) for number in range(8)]
    assert at_once(*[lambda one=one: one.publish(store) for one in ready]) == [1] * 8


def test_the_same_new_content_is_staged_by_two_at_once(store: DagStore) -> None:
    for number in range(3):
        files = {f"{name}.py": {} for name in "ab"} | {"s.py": {f"same{number}{i}": "1" for i in range(30)}}
        results = at_once(
            lambda files=files: prepare(store, SALES, files).changeset.base_revision,
            lambda files=files: prepare(store, OPS, files).changeset.base_revision,
        )
        assert results == [0, 0]


def test_a_writer_that_holds_the_lock_for_too_long_is_reported(sqlite_store: DagStore) -> None:
    ready = prepare(sqlite_store, SALES, {"a.py": {"a": "1"}})
    other = sqlite3.connect(str(sqlite_store.db.file), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(errors.StoreUnavailableError, match="locked"):
        ready.publish(sqlite_store)
    assert 0.2 < time.monotonic() - began < 5
    assert sqlite_store.live(SALES).revision == 0, "readers do not wait for a writer"
    other.execute("ROLLBACK")
    other.close()
    assert ready.publish(sqlite_store) == 1


def test_a_writer_waits_until_the_lock_is_released(sqlite_store: DagStore, tmp_path: pathlib.Path) -> None:
    ready = prepare(sqlite_store, SALES, {"a.py": {"a": "1"}})
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    timer.start()
    with DagStore.open(f"sqlite:///{tmp_path / 'store.db'}", timeout=10) as patient:
        assert ready.publish(patient) == 1
    timer.join()
    other.close()


@pytest.mark.postgres
def test_a_row_that_is_locked_for_too_long_is_reported(postgres_url: str) -> None:
    with DagStore.open(postgres_url, timeout=0.3) as store:
        ready = prepare(store, SALES, {"a.py": {"a": "1"}})
        with store.db.engine.connect() as other:
            other.exec_driver_sql("SELECT 1 FROM dagbundle.bundle FOR UPDATE")
            with pytest.raises(errors.StoreUnavailableError, match="lock timeout"):
                ready.publish(store)
            other.rollback()
        assert ready.publish(store) == 1


def test_a_reader_sees_one_moment_while_others_publish(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "0", "b": "0"}}, version="v0")
    stop = threading.Event()
    torn = []

    def read() -> int:
        while not stop.is_set():
            live = store.live(SALES)
            versions = {dag.bundle_version for dag in live.dags.values()}
            salts = {store.content(dag.sha256).header["dag"]["description"] for dag in live.dags.values()}
            if len(salts) != 1 or versions != {live.version}:
                torn.append(live)
        return 0

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(1, 15):
            apply(store, SALES, {"a.py": {"a": str(number), "b": str(number)}})
        stop.set()
        reading.result(10)
    assert torn == []

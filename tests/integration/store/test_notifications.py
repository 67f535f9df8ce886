from __future__ import annotations

import threading

import pytest

from dagbundle import errors
from dagbundle.rollout.model import Hold
from dagbundle.store.dagstore import DagStore
from dagbundle.store.notifications import Listener, listen
from integration.store.builder import SALES, apply, prepare, start
from support.postgres import PostgresServer

pytestmark = pytest.mark.postgres
SOON = 10.0


def test_closing_failing_publishing_and_what_people_do_is_heard(postgres_store: DagStore, postgres_url: str) -> None:
    store = postgres_store
    with listen(postgres_url) as listener:
        ready = prepare(store, SALES, {"a.py": {"a": "1"}})
        assert listener.wait(SOON) == {ready.rollout.id}
        ready.publish(store)
        assert listener.wait(SOON) == {ready.rollout.id}
        rollout = start(store, SALES)
        run_id = store.open_run(rollout.id, ".", attempt="1", airflow=None, python="3.11")
        assert listener.wait(0) == frozenset()
        store.fail_run(run_id, "1", "broken")
        assert listener.wait(SOON) == {rollout.id}
        for call in (
            lambda: store.republish(SALES, to_revision=1, base_revision=1, hold=Hold("h", "v", "r")),
            lambda: store.resume(SALES),
            lambda: store.deactivate_bundle(SALES),
        ):
            call()
            assert listener.wait(SOON) == {rollout.id}


def test_what_was_rolled_back_is_not_heard(postgres_store: DagStore, postgres_url: str) -> None:
    rollout = start(postgres_store, SALES)
    run_id = postgres_store.open_run(rollout.id, ".", attempt="1", airflow=None, python="3.11")
    with listen(postgres_url) as listener:
        with pytest.raises(errors.ProtocolError):
            postgres_store.close_run(run_id, "1", ["missing.py"])
        apply(postgres_store, SALES, {})
        assert rollout.id not in listener.wait(SOON)


def test_several_are_heard_at_once_and_one_after_the_other(postgres_store: DagStore, postgres_url: str) -> None:
    with listen(postgres_url) as listener:
        ids = [prepare(postgres_store, SALES, {"a.py": {"a": str(number)}}).rollout.id for number in range(3)]
        heard: set[str] = set()
        for rollout_id in listener:
            heard.add(rollout_id)
            if len(heard) == len(ids):
                break
    assert heard == set(ids)


def test_a_connection_that_breaks_says_so_and_another_hears_again(
    postgres_store: DagStore, postgres_url: str, postgres_server: PostgresServer
) -> None:
    with listen(postgres_url) as listener:
        database = postgres_url.rpartition("/")[2]
        postgres_server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608 - the fixture's own name
            f"WHERE datname = '{database}' AND application_name = 'dagbundle-listen'"
        )
        with pytest.raises(errors.StoreUnavailableError, match="listened"):
            listener.wait(SOON)
    with listen(postgres_url) as listener:
        ready = prepare(postgres_store, SALES, {"a.py": {"a": "1"}})
        assert listener.wait(SOON) == {ready.rollout.id}


def test_who_waits_is_woken_when_the_listener_is_closed(postgres_url: str) -> None:
    def wait(listener: Listener) -> None:
        began.set()
        try:
            listener.wait(60)
        except errors.StoreUnavailableError:
            woken.set()

    began, woken = threading.Event(), threading.Event()
    with listen(postgres_url) as listener:
        thread = threading.Thread(target=wait, args=[listener])
        thread.start()
        assert began.wait(SOON)
        listener.close()
        assert woken.wait(SOON)
        thread.join()


def test_only_postgresql_is_listened_to(postgres_server: PostgresServer) -> None:
    for url in ("sqlite:////tmp/x.db", "nonsense"):
        with pytest.raises(errors.UsageError), listen(url):
            pass
    with (
        pytest.raises(errors.StoreUnavailableError),
        listen(postgres_server.url().replace(str(postgres_server.port), "1")),
    ):
        pass

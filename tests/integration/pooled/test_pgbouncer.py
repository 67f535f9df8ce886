"""All programs through a real PgBouncer that gives each transaction another connection, as Debian has it.

Only the controller's LISTEN goes past it.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
import trustme

from dagbundle import errors
from dagbundle.controller import operator, settings, workers
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.slots import Slots
from dagbundle.resources.grants import Grants, Tenant
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes import jobs
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store import schema
from dagbundle.store.dagstore import DagStore
from dagbundle.store.notifications import listen
from integration.cli.conftest import Command
from integration.server.conftest import Parser, World, issue
from integration.server.helpers import publish
from integration.store import builder
from support import airflow
from support.api_server import ApiServer
from support.pgbouncer import PgBouncer, pgbouncer, pooled_url, running_pgbouncer  # noqa: F401 - fixtures
from support.postgres import PostgresServer
from support.store_process import Kubernetes, Process

pytestmark = pytest.mark.postgres
SOON = 30.0
MORE_THAN_A_DRIVER_PREPARES_AFTER = 12
DAG = "from airflow.sdk import DAG\n\ndag = DAG('{0}')\n"


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[DagStore]:  # noqa: F811 - the fixture
    with DagStore.open(pooled_url, timeout=5) as store:
        yield store


def test_the_pooler_is_as_debian_has_it_but_for_transaction_mode(pgbouncer: PgBouncer) -> None:  # noqa: F811 - likewise
    shown = {row["key"]: (row["value"], row["default"]) for row in pgbouncer.ask("SHOW CONFIG")}
    assert shown["pool_mode"] == ("transaction", "session")
    for name in ("ignore_startup_parameters", "server_reset_query", "default_pool_size", "max_prepared_statements"):
        value, default = shown.get(name, (None, None))  # the last one is newer than Debian 12's
        assert value == default


def test_tables_are_made_migrated_and_checked(pgbouncer: PgBouncer, empty_postgres_url: str) -> None:  # noqa: F811 - likewise
    url = pgbouncer.url(empty_postgres_url)
    with pytest.raises(errors.SchemaError, match="no tables"):
        DagStore.open(url)
    DagStore.open(url, upgrade=True).close()
    with DagStore.open(url) as store:
        schema.downgrade(store.db, schema.REVISIONS[0])
        assert schema.current(store.db) == schema.REVISIONS[0]
        schema.upgrade(store.db)
        schema.check(store.db)


def test_rollouts_of_several_threads_at_once_share_few_connections(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    with (
        running_pgbouncer(postgres_server, default_pool_size=2, query_wait_timeout=20) as pooler,
        DagStore.open(pooler.url(postgres_url), timeout=5) as store,
    ):

        def roll_out(number: int) -> dict[str, Any]:
            key = BundleKey("team", f"bundle-{number}")
            for version in range(MORE_THAN_A_DRIVER_PREPARES_AFTER):
                files = {f"{name}.py": {f"{number}-{name}": str(version)} for name in "abc"}
                builder.prepare(store, key, files).publish(store)
            return dict(store.live(key).dags)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            assert [len(dags) for dags in threads.map(roll_out, range(4))] == [3, 3, 3, 3]


def test_no_unit_of_work_needs_two_connections(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: pathlib.Path
) -> None:
    with running_pgbouncer(postgres_server, default_pool_size=1, query_wait_timeout=10) as pooler:
        assert applied(Command(tmp_path, pooler.url(postgres_url)), tmp_path, "a", "b") == ["a", "b"]


def test_nothing_that_a_transaction_sets_is_there_for_the_next_program(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    with running_pgbouncer(postgres_server, default_pool_size=1) as pooler:
        names = ("lock_timeout", "statement_timeout", "synchronous_commit", "timezone", "search_path")
        with psycopg.connect(pooler.url(postgres_url), autocommit=True, prepare_threshold=None) as other:
            shown = lambda: [other.execute(f"SHOW {name}").fetchone() for name in names]  # noqa: E731 - two words
            before = shown()
            with DagStore.open(pooler.url(postgres_url), timeout=5) as store:
                builder.prepare(store, builder.SALES, {"a.py": {"a": "1"}}).publish(store)
                assert shown() == before
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_each_transaction_has_its_limits(pooled: DagStore) -> None:
    def limits(connection: Any) -> list[str]:
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "timezone")
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]

    assert pooled.db.read(limits) == pooled.db.write(limits) == ["5s", "2min", "2min", "UTC"]


@pytest.mark.airflow
def test_the_command_line_applies_shows_and_rolls_back(pooled_url: str, tmp_path: pathlib.Path) -> None:  # noqa: F811 - likewise
    command = Command(tmp_path, pooled_url)
    assert applied(command, tmp_path, "a", "b") == ["a", "b"]
    assert applied(command, tmp_path, "a", "c") == ["a", "c"]
    command("rollback", "team/b", "--to-revision", "1")
    assert live(command) == ["a", "b"]
    command("db", "gc", "--keep", "1")


@pytest.mark.airflow
def test_the_server_takes_a_parsers_run(pooled: DagStore, pooled_url: str, tmp_path: pathlib.Path) -> None:  # noqa: F811 - likewise
    authority = issue(trustme.CA(), tmp_path / "tls")
    kubernetes = Kubernetes(tmp_path / "world.json")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "a.py").write_text(DAG.format("a"))
    world = World(pooled, tmp_path / "bundle", kubernetes, authority)
    server = Process.start(pooled_url, kubernetes.path, certificate=authority.certificate, key=authority.key)
    try:
        rollout = world.rollout()
        code, said = Parser.start(world.pod(world.job(rollout)), server.url, tmp_path, python=airflow.python()).wait()
        assert code == 0, said
        publish(world, rollout.id)
    finally:
        server.stop()
    assert list(pooled.live(rollout.bundle).dags) == ["a"]


def test_the_controller_is_awoken_through_its_direct_url(pooled: DagStore, pooled_url: str, postgres_url: str) -> None:  # noqa: F811 - likewise
    key = ("team-a", "sales")
    controller = Controller(pooled, pooled_url, postgres_url)
    controller.api.apply(*key)
    controller.queue.add(key)
    try:
        controller.until("Jobs are made", lambda: controller.api.jobs)
        rollout = pooled.head(BundleKey(*key)).rollout
        assert rollout is not None
        # its pod reports, and Kubernetes shows nothing of its Job
        builder.run(pooled, rollout, ".", [builder.staged("a.py", {"a": "1"})])
        controller.until("it is published", lambda: controller.api.ready(*key).get("reason") == "Published")
    finally:
        controller.stop()
    assert list(pooled.live(BundleKey(*key)).dags) == ["a"]


def test_listening_through_the_pooler_is_refused_and_says_what_to_set(pooled_url: str) -> None:  # noqa: F811 - likewise
    with pytest.raises(errors.UsageError, match="leads through a pooler") as caught, listen(pooled_url):
        pass
    assert "DAGBUNDLE_LISTEN_URL" in caught.value.hint
    assert "secret" not in caught.value.message


def test_a_controller_that_hears_nothing_looks_at_all_bundles(pooled: DagStore, pooled_url: str) -> None:  # noqa: F811 - likewise
    looked, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=workers.hear, args=(pooled_url, pooled, Queue(), looked.set, stop))
    thread.start()
    try:
        assert looked.wait(SOON)
    finally:
        stop.set()
        thread.join()


def applied(command: Command, folder: pathlib.Path, *dag_ids: str) -> list[str]:
    """Apply a bundle of these DAGs, and return what is live."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    for path in bundle.glob("*.py"):
        path.unlink()
    for name in dag_ids:
        (bundle / f"{name}.py").write_text(DAG.format(name))
    (folder / "resource.yaml").write_text(
        "apiVersion: dagbundle.dev/v1alpha1\nkind: DagBundle\nmetadata: {name: b, namespace: team}\n"
        "spec: {source: {image: {reference: r}}}\n"
    )
    command("db", "upgrade")
    command(
        "apply", "-f", str(folder / "resource.yaml"), "--local", "--folder", str(bundle),
        "--python", airflow.python(), "-o", "json",
    )  # fmt: skip
    return live(command)


def live(command: Command) -> list[str]:
    """Return what is live, as the command line says."""
    return sorted(item["dag_id"] for item in command("get", "dags", "-o", "json").data["items"])


class Controller:
    """A controller's threads, with an API server in memory."""

    def __init__(self, store: DagStore, database_url: str, listen_url: str) -> None:
        self.queue: Queue[Key] = Queue()
        seen = Seen(Slots(200, self.queue.add))
        self.api = ApiServer(seen)
        read = settings.Settings(
            database_url=database_url, listen_url=listen_url,
            jobs=jobs.Settings("https://server.invalid", "", "parser:1"),
            grants=Grants(tenants=[Tenant(namespace="team-a")]),
        )  # fmt: skip
        reconciler = Reconciler(store, cast("Cluster", self.api), seen, read)
        self._stop = threading.Event()
        self._threads = workers.start(self.queue, reconciler, 2, Activity())
        heard = threading.Event()
        hearing = threading.Thread(
            target=workers.hear, args=(operator.listen_url(read), store, self.queue, heard.set, self._stop), daemon=True
        )
        hearing.start()
        assert heard.wait(SOON)

    def until(self, what: str, holds: Any) -> None:
        """Wait until it holds."""
        look = threading.Event()
        for _ in range(int(SOON / 0.02)):
            if holds():
                return
            look.wait(0.02)
        raise AssertionError(f"not within {SOON:.0f} s: {what}")

    def stop(self) -> None:
        """End the workers; the listener, which waits for PostgreSQL, ends with the tests."""
        self._stop.set()
        self.queue.close()
        for thread in self._threads:
            thread.join(SOON)

"""Random publishes, rollbacks and deactivations against a dictionary that says what must be live at every revision."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dagbundle.rollout.model import Hold, Problem
from dagbundle.store.dagstore import DagStore
from integration.store.builder import SALES, Files, apply
from support.postgres import PostgresServer

PATHS = ("a.py", "b.py", "c.py")
DAGS = ("d1", "d2", "d3", "d4")


@dataclasses.dataclass(frozen=True)
class Entry:
    path: str
    salt: str
    version: str
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class State:
    version: str = ""
    dags: frozenset[tuple[str, Entry]] = frozenset()
    errors: frozenset[tuple[str, str]] = frozenset()


class StoreMachine(RuleBasedStateMachine):
    url = ""

    @initialize()
    def begin(self) -> None:
        self.folder, url = self.make_database()
        self.store = DagStore.open(url)
        self.history: list[State] = [State()]
        self.number = 0
        self.versions: dict[str, int] = {}

    def make_database(self) -> tuple[Any, str]:
        raise NotImplementedError

    @rule(
        places=st.dictionaries(st.sampled_from(DAGS), st.sampled_from(PATHS)),
        salts=st.fixed_dictionaries({dag: st.sampled_from("12") for dag in DAGS}),
        broken=st.sets(st.sampled_from(PATHS), max_size=2),
        message=st.sampled_from(["one", "two"]),
        is_new_version=st.booleans(),
    )
    def publish(
        self,
        places: dict[str, str],
        salts: dict[str, str],
        broken: set[str],
        message: str,
        is_new_version: bool,
    ) -> None:
        before = self.history[-1]
        self.number += is_new_version or not before.version
        version = f"v{self.number}" if is_new_version or not before.version else before.version
        files: dict[str, Any] = {
            path: {dag: salts[dag] for dag, place in places.items() if place == path}
            for path in PATHS
            if path not in broken
        }
        files |= dict.fromkeys(broken, Problem("SyntaxError", message, 1))
        after = {dag: Entry(path, salts[dag], version) for dag, path in places.items() if path not in broken}
        for dag, entry in before.dags:
            if dag not in after and entry.path in broken:
                after[dag] = dataclasses.replace(entry, kept=True)
        state = State(version, frozenset(after.items()), frozenset((path, message) for path in broken))
        self.apply(files, version)
        if state != before:
            self.history.append(state)

    def apply(self, files: Files, version: str) -> None:
        apply(self.store, SALES, files, version=version)

    @precondition(lambda self: len(self.history) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        target = data.draw(st.integers(1, len(self.history) - 1))
        base = len(self.history) - 1
        assert self.store.republish(SALES, to_revision=target, base_revision=base, hold=Hold("h", "v", "r")) == base + 1
        self.history.append(self.history[target])

    @precondition(lambda self: self.history[-1].dags)
    @rule(data=st.data())
    def deactivate(self, data: st.DataObject) -> None:
        before = self.history[-1]
        gone = data.draw(st.sets(st.sampled_from(sorted(dag for dag, _ in before.dags)), min_size=1))
        assert self.store.deactivate_dags(gone) == tuple(sorted(gone))
        left = frozenset((dag, entry) for dag, entry in before.dags if dag not in gone)
        self.history.append(dataclasses.replace(before, dags=left))

    @invariant()
    def every_revision_is_as_it_was(self) -> None:
        live = self.store.live(SALES)
        assert live.revision == len(self.history) - 1
        errors = frozenset((row.path, row.problem.message) for row in self.store.list_errors().items)
        assert errors == self.history[-1].errors
        if live.revision:
            assert dataclasses.replace(self.store.state_at(SALES, live.revision)) == live
        for revision in range(1, len(self.history)):
            self._compare(revision)

    def _compare(self, revision: int) -> None:
        found = self.store.state_at(SALES, revision)
        contents = self.store.contents({dag.sha256 for dag in found.dags.values()})
        entries = frozenset(
            (
                dag.dag_id,
                Entry(dag.path, contents[dag.sha256].header["dag"]["description"], dag.bundle_version, dag.kept),
            )
            for dag in found.dags.values()
        )
        assert (found.version, entries) == (self.history[revision].version, self.history[revision].dags)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


def limits(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def test_what_is_live_at_each_revision_is_what_a_dictionary_says_on_sqlite(migrated_file: pathlib.Path) -> None:
    class OnSqlite(StoreMachine):
        def make_database(self) -> tuple[Any, str]:
            folder = tempfile.TemporaryDirectory()  # removed in teardown
            path = pathlib.Path(folder.name) / "store.db"
            shutil.copy(migrated_file, path)
            return folder, f"sqlite:///{path}"

    run_state_machine_as_test(OnSqlite, settings=limits(40, 12))


@pytest.mark.postgres
def test_what_is_live_at_each_revision_is_what_a_dictionary_says_on_postgresql(
    postgres_server: PostgresServer, migrated_template: str
) -> None:
    class Database:
        def __init__(self) -> None:
            self.url = postgres_server.create_database(template=migrated_template)

        def cleanup(self) -> None:
            postgres_server.drop_database(self.url)

    class OnPostgres(StoreMachine):
        def make_database(self) -> tuple[Any, str]:
            database = Database()
            return database, database.url

    run_state_machine_as_test(OnPostgres, settings=limits(6, 8))

"""A pass that finds nothing new writes nothing; whatever else it finds, it does all that a rollout does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from dagbundle.engine import engine
from dagbundle.engine.applied import Applied
from dagbundle.resources import protocol
from dagbundle.rollout import policy
from dagbundle.rollout.model import BundleKey, Change
from dagbundle.store import bundles
from dagbundle.store.dagstore import DagStore
from support import reports
from support.applying import apply, live, resource

SALES = BundleKey("team", "sales")
FIRST = (reports.parsed("a.py", "a"), reports.parsed("b.py", "b"))
AGAIN = (reports.unchanged("a.py"), reports.unchanged("b.py"))


def rollout_of(store: DagStore, bundle: BundleKey = SALES) -> str:
    found = store.latest_rollout(bundle)
    assert found is not None
    return found.id


def changes(applied: Applied) -> set[Change]:
    return {change.change for change in applied.judgement.changes}


def test_when_nothing_is_new_no_rollout_begins(store: DagStore) -> None:
    apply(store, *FIRST)
    first = rollout_of(store)
    again = apply(store, *AGAIN)
    assert rollout_of(store) == first
    assert (again.revision, again.judgement.reason, changes(again)) == (1, "Published", {Change.UNCHANGED})
    assert [len(run.files) for run in again.runs] == [2]


def test_a_kept_dag_is_nothing_new(store: DagStore) -> None:
    apply(store, *FIRST)
    apply(store, reports.parsed("a.py", "a"), reports.broken("b.py"), version="v2")
    kept = rollout_of(store)
    again = apply(store, *AGAIN, version="v2")
    assert (rollout_of(store), again.judgement.reason) == (kept, "KeptLastGood")
    assert live(store) == {"a": "v2", "b": "v1"}


def test_files_that_were_unchanged_before_one_that_is_not_count_as_well(store: DagStore) -> None:
    apply(store, *FIRST)
    first = rollout_of(store)
    again = apply(store, *AGAIN, reports.parsed("c.py", "c"))
    assert again.revision == 2
    assert rollout_of(store) != first
    assert live(store) == {"a": "v1", "b": "v1", "c": "v1"}


def test_a_file_that_is_gone_takes_its_dags_along(store: DagStore) -> None:
    apply(store, *FIRST)
    apply(store, reports.unchanged("a.py"))
    assert live(store) == {"a": "v1"}


def test_a_dag_that_was_taken_out_by_hand_comes_back(store: DagStore) -> None:
    apply(store, *FIRST)
    store.deactivate_dags(["b"])
    apply(store, *AGAIN)
    assert live(store) == {"a": "v1", "b": "v1"}


def test_a_run_that_fails_after_unchanged_files_blocks(store: DagStore) -> None:
    apply(store, *FIRST)

    def cut(request: protocol.RunRequest) -> Iterator[bytes]:
        yield from reports.lines(request, AGAIN)[:-1]

    again = apply(store, script=cut)
    assert (again.revision, again.judgement.reason) == (1, "RunFailed")
    assert [run.state for run in store.run_states(rollout_of(store))] == ["Failed"]


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_another_version_and_one_with_another_spec_are_rolled_out(store: DagStore, version: str) -> None:
    apply(store, *FIRST)
    first = rollout_of(store)
    rules = {"rollout": {"maxRemovedDags": 1}} if version == "v1" else {}
    apply(store, *AGAIN, version=version, **rules)
    assert rollout_of(store) != first
    assert set(live(store).values()) == {version}


def test_a_hold_is_lifted_by_applying_what_is_live(store: DagStore) -> None:
    apply(store, *FIRST)
    apply(store, *AGAIN, version="v2")
    engine.Engine(store).rollback(SALES)
    apply(store, *AGAIN)
    assert store.live(SALES).holds == ()


def test_a_file_that_waits_for_a_dag_id_is_judged_again(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"), name="owner")
    apply(store, reports.parsed("a.py", "a"), reports.parsed("b.py", "b"))
    first = rollout_of(store)
    apply(store, *AGAIN)
    assert rollout_of(store) != first


def test_a_request_to_parse_again_is_answered_by_a_rollout(store: DagStore) -> None:
    apply(store, *FIRST)
    with store.db.engine.begin() as connection:
        owner = bundles.find(connection, store.db.tables, SALES, lock=False)
        table = store.db.tables.parse_request
        connection.execute(sa.insert(table).values(bundle_id=owner.id, requested_at=bundles.now()))
    apply(store, *AGAIN)
    assert not store.head(SALES).requested


def test_a_forced_pass_is_a_rollout(store: DagStore) -> None:
    apply(store, *FIRST)
    first = rollout_of(store)
    wanted = reports.ScriptedRuntime(reports.whole(*FIRST))
    engine.Engine(store).apply(resource(), runtime=wanted, rules=policy.resolve(resource(), None), force=True)
    assert rollout_of(store) != first


def test_what_stays_the_same_in_one_subdir_is_staged_when_the_other_changes(store: DagStore) -> None:
    spec = {"subdirs": [{"path": "x"}, {"path": "y"}]}
    scripts = {"x": reports.whole(reports.parsed("x/a.py", "a")), "y": reports.whole(reports.parsed("y/b.py", "b"))}
    apply(store, script=scripts, **spec)
    scripts = {
        "x": reports.whole(reports.unchanged("x/a.py")),
        "y": reports.whole(reports.parsed("y/b.py", "b", doc_md="new")),
    }
    again = apply(store, script=scripts, **spec)
    assert {change.dag_id: change.change for change in again.judgement.changes} == {
        "a": Change.UNCHANGED,
        "b": Change.CHANGED,
    }
    assert live(store) == {"a": "v1", "b": "v1"}


def test_a_subdir_that_was_held_back_is_published_when_its_run_closes(store: DagStore) -> None:
    spec = {"subdirs": [{"path": "x"}, {"path": "y"}], "rollout": {"scope": "Subdir"}}
    same = {"x": reports.whole(reports.unchanged("x/a.py")), "y": reports.whole(reports.unchanged("y/b.py"))}

    def cut(request: protocol.RunRequest) -> Iterator[bytes]:
        yield from reports.lines(request, [reports.unchanged("y/b.py")])[:-1]

    scripts = {"x": reports.whole(reports.parsed("x/a.py", "a")), "y": reports.whole(reports.parsed("y/b.py", "b"))}
    apply(store, script=scripts, **spec)
    held = apply(store, script={**same, "y": cut}, version="v2", **spec)
    assert not held.judgement.ready
    assert live(store) == {"a": "v2", "b": "v1"}
    apply(store, script=same, version="v2", **spec)
    assert live(store) == {"a": "v2", "b": "v2"}

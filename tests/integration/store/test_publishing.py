from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from dagbundle import errors
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Changeset,
    DagChange,
    Hold,
    Judgement,
    Live,
    Problem,
    Verdict,
)
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import PublicationKind, RolloutState
from integration.store.builder import (
    OPS,
    SALES,
    SYNTAX_ERROR,
    apply,
    changeset,
    content,
    counted,
    judged,
    prepare,
    run,
    staged,
    start,
)


def test_a_bundle_that_never_published_has_revision_0_and_nothing_in_it(store: DagStore) -> None:
    assert store.live(SALES).revision == 0
    store.register_bundle(SALES, "team-sales.sales")
    assert store.live(SALES) == dataclasses.replace(store.live(SALES), revision=0, dags={}, version="")


def test_what_is_published_is_live_with_its_place_content_and_version(store: DagStore) -> None:
    assert apply(store, SALES, {"a.py": {"a1": "x", "a2": "y"}, "b.py": {"b": "z"}}, version="v1") == 1
    live = store.live(SALES)
    assert (live.revision, live.version, live.template_hash) == (1, "v1", "hash-v1")
    assert sorted(live.dags) == ["a1", "a2", "b"]
    dag = live.dags["a2"]
    assert (dag.subdir, dag.path, dag.bundle_version, dag.kept) == (".", "a.py", "v1", False)
    assert store.content(dag.sha256) == content("a2", "y", "a.py")


def test_an_unchanged_dag_writes_no_version_and_no_content_row_but_runs_the_new_version(store: DagStore) -> None:
    files = {f"{name}.py": {name: "same"} for name in "abc"}
    apply(store, SALES, files, version="v1")
    tables = ("dag_version", "dag", "dag_content", "task", "edge", "task_group", "pin", "source_code")
    before = {table: counted(store, table) for table in tables}
    assert apply(store, SALES, files, version="v2") == 2
    assert {table: counted(store, table) for table in tables} == before
    assert {dag.bundle_version for dag in store.live(SALES).dags.values()} == {"v2"}
    assert {dag.bundle_version for dag in store.state_at(SALES, 1).dags.values()} == {"v1"}


def test_publishing_the_same_thing_again_writes_no_revision(store: DagStore) -> None:
    files = {"a.py": {"a": "x"}, "b.py": SYNTAX_ERROR}
    assert apply(store, SALES, files, version="v1") == 1
    again = prepare(store, SALES, files, version="v1")
    assert again.publish(store) == 1
    assert counted(store, "publication") == 1
    found = store.rollout(again.rollout.id)
    assert (found.state, found.revision) == (RolloutState.PUBLISHED, 1)


def test_a_bundle_without_dags_is_published_too(store: DagStore) -> None:
    assert apply(store, SALES, {"empty.py": {}}) == 1
    assert store.live(SALES).dags == {}


def test_a_changed_dag_gets_the_next_number_and_the_old_definition_keeps_its_interval(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}}, version="v1")
    apply(store, SALES, {"a.py": {"a": "2"}}, version="v2")
    newest, oldest = store.list_versions("a").items
    assert (newest.number, newest.from_revision, newest.to_revision, newest.bundle_version) == (2, 2, None, "v2")
    assert (oldest.number, oldest.from_revision, oldest.to_revision, oldest.bundle_version) == (1, 1, 2, "v1")


def test_a_dag_that_comes_back_counts_on(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    apply(store, SALES, {"a.py": {}})
    apply(store, SALES, {"a.py": {"a": "1"}})
    assert [row.number for row in store.list_versions("a").items] == [2, 1]
    assert store.get_dag("a").number == 2


def test_a_dag_moves_between_files_and_subdirs_in_one_publish(store: DagStore) -> None:
    apply(store, SALES, {"x": {"x/a.py": {"a": "1"}}, "y": {"y/b.py": {"b": "1"}}})
    apply(store, SALES, {"x": {"x/a.py": {"b": "1"}}, "y": {"y/b.py": {"a": "1"}}})
    live = store.live(SALES).dags
    assert (live["a"].subdir, live["a"].path) == ("y", "y/b.py")
    assert (live["b"].subdir, live["b"].path) == ("x", "x/a.py")
    assert store.history(SALES).items[0].counts["moved"] == 2


def test_a_dag_that_only_moves_gets_a_version_though_its_content_is_shared(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    before = store.live(SALES).dags["a"]
    moved = prepare(store, SALES, {"a.py": {}})
    change = DagChange(Change.MOVED, "a", ".", "elsewhere.py", before.sha256, before.sha256)
    store.publish(moved.rollout.id, moved.changeset, dataclasses.replace(moved.judgement, changes=(change,)))
    assert store.live(SALES).dags["a"].path == "elsewhere.py"
    assert (counted(store, "dag_version"), counted(store, "dag_content")) == (2, 1)


def test_what_was_read_at_another_revision_is_read_again(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    first = store.live(SALES)
    apply(store, SALES, {"a.py": {"a": "2"}})
    back = prepare(store, SALES, {"a.py": {"a": "1"}})
    store.publish(back.rollout.id, back.changeset, back.judgement, basis=first.basis)
    assert store.live(SALES).dags["a"].sha256 == first.dags["a"].sha256


def test_a_kept_dag_keeps_definition_and_bundle_version_until_its_file_is_mended(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v1")
    apply(store, SALES, {"a.py": SYNTAX_ERROR, "b.py": {"b": "1"}}, version="v2")
    live = store.live(SALES).dags
    assert (live["a"].kept, live["a"].bundle_version) == (True, "v1")
    assert (live["b"].kept, live["b"].bundle_version) == (False, "v2")
    assert store.get_dag("a").kept
    assert counted(store, "dag_version") == 2
    apply(store, SALES, {"a.py": SYNTAX_ERROR, "b.py": {"b": "1"}}, version="v3")
    assert store.live(SALES).dags["a"].bundle_version == "v1"
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v4")
    assert (store.live(SALES).dags["a"].kept, store.live(SALES).dags["a"].bundle_version) == (False, "v4")
    assert (store.state_at(SALES, 3).dags["a"].kept, store.state_at(SALES, 3).dags["a"].bundle_version) == (True, "v1")
    assert counted(store, "dag_version") == 2


def test_a_subdir_that_is_held_back_keeps_its_dags_errors_and_bundle_version(store: DagStore) -> None:
    apply(
        store, SALES, {"x": {"x/a.py": {"a": "1"}, "x/e.py": SYNTAX_ERROR}, "y": {"y/b.py": {"b": "1"}}}, version="v1"
    )
    rollout = start(store, SALES, ("x", "y"), "v2")
    run_id = store.open_run(rollout.id, "x", attempt="1", airflow=None, python="3.11")
    store.fail_run(run_id, "1", "killed")
    run(store, rollout, "y", [staged("y/b.py", {"b": "2"})])
    result = changeset(store, rollout)
    failed, closed = result.runs
    assert (failed.closed, failed.failure, closed.closed) == (False, "killed", True)
    judgement = judged(store.live(SALES), [closed], held_back=["x"])
    store.publish(rollout.id, result, judgement)
    live = store.live(SALES).dags
    assert (live["a"].bundle_version, live["a"].kept) == ("v1", False)
    assert live["b"].bundle_version == "v2"
    assert [row.path for row in store.list_errors(SALES).items] == ["x/e.py"]
    assert sorted(store.known_files(SALES, "x")) == ["x/a.py", "x/e.py"]


def test_an_error_that_stays_keeps_its_row_and_one_that_goes_ends(store: DagStore) -> None:
    other = Problem("NameError", "x is not defined", 9)
    apply(store, SALES, {"a.py": SYNTAX_ERROR, "b.py": other})
    apply(store, SALES, {"a.py": SYNTAX_ERROR, "b.py": {"b": "1"}})
    (row,) = store.list_errors(SALES).items
    assert (row.path, row.problem, row.since_revision) == ("a.py", SYNTAX_ERROR, 1)
    assert counted(store, "import_error") == 2
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    assert store.list_errors().items == ()


def test_warnings_are_visible_until_their_file_is_mended(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, warn=["a.py"])
    (row,) = store.list_warnings(SALES).items
    assert (row.path, row.warning.category, row.since_revision) == ("a.py", "DeprecationWarning", 1)
    apply(store, SALES, {"a.py": {"a": "2"}, "b.py": {"b": "1"}})
    assert store.list_warnings().items == ()


def test_what_is_live_of_a_subdir_that_left_the_spec_goes(store: DagStore) -> None:
    apply(store, SALES, {"x": {"x/a.py": {"a": "1"}, "x/e.py": SYNTAX_ERROR}, "y": {"y/b.py": {"b": "1"}}})
    apply(store, SALES, {"y": {"y/b.py": {"b": "1"}}})
    assert sorted(store.live(SALES).dags) == ["b"]
    assert store.list_errors(SALES).items == ()
    assert store.known_files(SALES, "x") == {}


def test_a_blocked_changeset_cannot_be_published(store: DagStore) -> None:
    ready = prepare(store, SALES, {"a.py": {"a": "1"}})
    blocked = Judgement(Verdict.BLOCK, "TooManyRemovedDags", "3 of 4 would go", ready=False)
    with pytest.raises(errors.StoreError, match="TooManyRemovedDags"):
        store.publish(ready.rollout.id, ready.changeset, blocked)
    store.block(ready.rollout.id, "TooManyRemovedDags", "3 of 4 would go")
    found = store.rollout(ready.rollout.id)
    assert (found.state, found.reason, found.message) == (RolloutState.BLOCKED, "TooManyRemovedDags", "3 of 4 would go")
    assert store.live(SALES).revision == 0
    assert store.latest_rollout(SALES) == found


def test_content_that_was_never_staged_cannot_be_published(store: DagStore) -> None:
    ready = prepare(store, SALES, {"a.py": {"a": "1"}})
    change = DagChange(Change.ADDED, "ghost", ".", "a.py", "0" * 64)
    with pytest.raises(errors.ConflictError, match="ghost"):
        store.publish(ready.rollout.id, ready.changeset, dataclasses.replace(ready.judgement, changes=(change,)))
    assert store.live(SALES).revision == 0


def test_a_dag_id_of_another_bundle_is_refused_and_its_owner_named(store: DagStore) -> None:
    apply(store, OPS, {"a.py": {"shared": "1"}})
    with pytest.raises(errors.OwnershipError, match=r"shared belongs to bundle team-ops\.ops"):
        apply(store, SALES, {"b.py": {"shared": "2", "mine": "1"}})
    assert store.live(SALES).revision == 0
    assert store.owners(["shared", "mine"]) == {"shared": OPS}


def test_a_claim_waits_and_is_published_without_parsing_when_the_owner_lets_go(store: DagStore) -> None:
    apply(store, OPS, {"a.py": {"shared": "1"}})
    apply(store, SALES, {"b.py": {"shared": "2", "mine": "1"}}, claims=True)
    (claim,) = store.waiting_claims(["shared"])
    assert (claim.bundle, claim.path) == (SALES, "b.py")
    apply(store, OPS, {"a.py": {}})
    rollout = store.rollout(claim.rollout_id)
    runs = store.outcomes(claim.rollout_id)
    judgement = judged(store.live(SALES), runs, store.owners(["shared", "mine"]))
    assert store.publish(rollout.id, changeset(store, rollout), judgement) == 2
    assert store.owners(["shared"]) == {"shared": SALES}
    assert store.waiting_claims(["shared"]) == ()


def test_a_name_in_airflow_belongs_to_one_bundle(store: DagStore) -> None:
    store.register_bundle(SALES, "shop")
    store.register_bundle(SALES, "shop")
    with pytest.raises(errors.OwnershipError, match=r"team-sales\.sales"):
        store.register_bundle(OPS, "shop")
    store.register_bundle(SALES, "shop2")
    store.register_bundle(OPS, "shop")
    assert [row.airflow_name for row in store.list_bundles().items] == ["shop", "shop2"]


def test_bundles_of_the_same_name_in_two_clusters_are_two(store: DagStore) -> None:
    east = BundleKey("team-sales", "sales", "east")
    apply(store, SALES, {"a.py": {"a": "1"}})
    apply(store, east, {"a.py": {"east_a": "1"}})
    assert sorted(store.live(east).dags) == ["east_a"]
    assert [row.bundle for row in store.list_bundles().items] == [SALES, east]


# --- Rolling back ---------------------------------------------------------------------------------------------------


def test_a_rollback_restores_dags_kept_flags_errors_warnings_and_versions_as_a_new_revision(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v1", warn=["b.py"])
    apply(store, SALES, {"a.py": SYNTAX_ERROR, "b.py": {"b": "1"}}, version="v2", warn=["b.py"])
    then = store.live(SALES)
    apply(store, SALES, {"c.py": {"c": "1"}}, version="v3")
    hold = Hold("hash-v3", "v3", "rolled back")
    assert store.republish(SALES, to_revision=2, base_revision=3, hold=hold) == 4
    assert store.live(SALES) == dataclasses.replace(then, revision=4, holds=(hold,))
    assert [row.path for row in store.list_errors().items] == ["a.py"]
    assert [row.path for row in store.list_warnings().items] == ["b.py"]
    newest = store.history(SALES).items[0]
    assert (newest.kind, newest.restored, newest.version) == (PublicationKind.ROLLBACK, 2, "v2")
    assert newest.counts == {"added": 2, "removed": 1, "importErrors": 1}


def test_a_rollback_of_a_state_that_is_not_live_any_more_is_a_conflict(store: DagStore) -> None:
    for salt in "123":
        apply(store, SALES, {"a.py": {"a": salt}})
    with pytest.raises(errors.ConflictError, match="at revision 3, not 2"):
        store.republish(SALES, to_revision=1, base_revision=2, hold=Hold("h", "v", "r"))
    assert (store.live(SALES).revision, store.live(SALES).holds) == (3, ())


def test_a_rollback_forgets_what_was_learnt_since(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}}, version="v1")
    apply(store, SALES, {"a.py": None, "b.py": {"b": "2"}}, version="v2")
    store.republish(SALES, to_revision=1, base_revision=2, hold=None)
    assert sorted(store.known_files(SALES, ".")) == ["a.py"]


def test_a_rollback_refuses_a_dag_id_that_another_bundle_owns_by_now(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    apply(store, SALES, {"a.py": {}})
    apply(store, OPS, {"o.py": {"a": "1"}})
    with pytest.raises(errors.OwnershipError, match=r"a belongs to bundle team-ops\.ops"):
        store.republish(SALES, to_revision=1, base_revision=2, hold=Hold("h", "v", "r"))
    assert store.live(SALES).holds == ()


@pytest.mark.parametrize("revision", [0, 7])
def test_a_revision_that_never_was_cannot_be_restored(store: DagStore, revision: int) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    with pytest.raises(errors.NotFoundError, match=f"no revision {revision}"):
        store.republish(SALES, to_revision=revision, base_revision=1, hold=None)


def test_resuming_clears_the_holds_and_says_which(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    apply(store, SALES, {"a.py": {"a": "2"}})
    hold = Hold("h2", "v2", "bad")
    store.republish(SALES, to_revision=1, base_revision=2, hold=hold)
    assert store.live(SALES).holds == (hold,)
    assert store.resume(SALES) == (hold,)
    assert store.resume(SALES) == ()
    assert store.live(SALES).holds == ()


# --- AIP-85's DagStore ----------------------------------------------------------------------------------------------


def test_submitted_dags_are_judged_and_published(store: DagStore) -> None:
    store.register_bundle(SALES, "sales")
    files = [staged("a.py", {"a": "1"}), staged("b.py", {"b": "1"})]

    def judge(found: Changeset, *, live: Live, owners: Mapping[str, BundleKey]) -> Judgement:
        assert owners == {}
        return judged(live, found.runs, owners)

    revision = store.submit_dags(SALES, files, version="v1", template_hash="h1", judge=judge, python="3.11")
    assert (revision, sorted(store.live(SALES).dags)) == (1, ["a", "b"])


def test_submitted_dags_that_are_judged_to_block_are_not_published(store: DagStore) -> None:
    store.register_bundle(SALES, "sales")
    blocked = Judgement(Verdict.BLOCK, "ImportErrors", "a.py is broken", ready=False)
    with pytest.raises(errors.StoreError, match=r"a\.py is broken"):
        store.submit_dags(SALES, [], version="v", template_hash="h", judge=lambda *_, **__: blocked, python="3.11")
    assert store.live(SALES).revision == 0


def test_dags_are_deactivated_by_id_whoever_owns_them(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1", "b": "1"}})
    apply(store, OPS, {"c.py": {"c": "1"}})
    assert store.deactivate_dags(["a", "c", "unknown"]) == ("a", "c")
    assert sorted(store.live(SALES).dags) == ["b"]
    assert store.live(OPS).dags == {}
    assert store.history(OPS).items[0].kind is PublicationKind.DEACTIVATE
    assert store.deactivate_dags(["a"]) == ()


def test_dags_are_deactivated_by_file_and_by_folder(store: DagStore) -> None:
    apply(store, SALES, {"x/a.py": {"a": "1"}, "x/b.py": {"b": "1"}, "xy/c.py": {"c": "1"}})
    assert store.deactivate_subpaths_dags(SALES, ["x/"]) == ("a", "b")
    assert store.deactivate_subpaths_dags(SALES, ["xy/c.py"]) == ("c",)
    assert store.deactivate_subpaths_dags(SALES, ["."]) == ()

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, Hold
from dagbundle.store import schema
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import JobRow, RolloutState, RunState
from integration.store.builder import (
    OPS,
    SALES,
    SYNTAX_ERROR,
    Files,
    apply,
    changeset,
    counted,
    judged,
    prepare,
    staged,
    start,
)

REQUEST = {"root": "/opt/airflow/dags", "processes": 2}


def record(store: DagStore, rollout_id: str, subdir: str = ".", *, shards: int = 1) -> JobRow:
    return store.record_job(
        rollout_id,
        subdir,
        namespace="team-sales",
        service_account="parser",
        name=f"sales-{subdir}",
        shards=shards,
        request=REQUEST,
    )


def report(store: DagStore, rollout_id: str, shard: int, files: Files, *, attempt: str = "1", subdir: str = ".") -> str:
    """Report some files as one shard, and close."""
    run_id = store.open_run(rollout_id, subdir, shard=shard, attempt=attempt, airflow="3.0.0", python="3.11")
    store.stage(run_id, attempt, [staged(path, what) for path, what in files.items()])
    store.close_run(run_id, attempt, list(files))
    return run_id


# --- Jobs -----------------------------------------------------------------------------------------------------------


def test_a_job_is_found_by_its_run_with_all_that_the_server_asks_for(store: DagStore) -> None:
    rollout = start(store, SALES)
    row = record(store, rollout.id, shards=3)
    assert store.job(row.run_id) == row
    assert (row.rollout_id, row.bundle, row.subdir, row.shards, row.uid, row.image_id) == (
        rollout.id, SALES, ".", 3, "", "",
    )  # fmt: skip
    assert (row.namespace, row.service_account, row.name) == ("team-sales", "parser", "sales-.")
    assert row.request == REQUEST
    assert len(row.run_id) >= 32
    store.job_created(row.run_id, "uid-1")
    store.job_image(row.run_id, "sha256:1")
    assert (store.job(row.run_id).uid, store.job(row.run_id).image_id) == ("uid-1", "sha256:1")
    assert store.jobs(rollout.id) == (store.job(row.run_id),)


def test_recording_a_job_again_finds_the_first_one(store: DagStore) -> None:
    rollout = start(store, SALES, ("a", "b"))
    row = record(store, rollout.id, "a")
    store.job_created(row.run_id, "uid-1")
    again = store.record_job(rollout.id, "a", namespace="x", service_account="x", name="x", request={}, shards=7)
    assert again == store.job(row.run_id)
    other = record(store, rollout.id, "b")
    assert [item.run_id for item in store.jobs(rollout.id)] == [row.run_id, other.run_id]


def test_two_that_record_one_job_at_once_get_the_same_one(store: DagStore) -> None:
    rollout = start(store, SALES)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: record(store, rollout.id).run_id, range(4)))
    assert len(found) == 1


def test_a_rollout_that_is_over_gets_no_jobs(store: DagStore) -> None:
    old, _ = start(store, SALES), start(store, SALES)
    with pytest.raises(errors.SupersededError):
        record(store, old.id)
    with pytest.raises(errors.NotFoundError):
        record(store, "ghost")
    for call in (
        lambda: store.job("ghost"),
        lambda: store.job_created("ghost", "u"),
        lambda: store.job_image("ghost", "i"),
    ):
        with pytest.raises(errors.NotFoundError, match="run ghost"):
            call()
    assert store.jobs("ghost") == ()


def test_a_job_made_again_fences_what_the_first_one_reported(store: DagStore) -> None:
    rollout = start(store, SALES, ("a", "b"))
    row = record(store, rollout.id, "a")
    store.job_created(row.run_id, "uid-1")
    closed = report(store, rollout.id, 0, {"a/a.py": {"a": "1"}}, subdir="a")
    other = report(store, rollout.id, 0, {"b/b.py": {"b": "1"}}, subdir="b")
    store.job_created(row.run_id, "uid-1")
    assert store.outcomes(rollout.id)[0].closed
    store.job_created(row.run_id, "uid-2")
    first, second = store.outcomes(rollout.id)
    assert (first.closed, first.files, second.closed) == (False, (), True)
    assert store.job(row.run_id).uid == "uid-2"
    with pytest.raises(errors.ConflictError, match="newer attempt"):
        store.close_run(closed, "1", ["a/a.py"])
    store.close_run(other, "1", ["b/b.py"])
    report(store, rollout.id, 0, {"a/a.py": {"a": "2"}}, attempt="2", subdir="a")
    assert store.outcomes(rollout.id)[0].closed


def test_jobs_go_with_their_rollouts(store: DagStore) -> None:
    for _ in range(3):
        rollout = start(store, SALES)
        record(store, rollout.id)
    store.collect_garbage(keep_revisions=1)
    assert counted(store, "job") == 1
    assert store.jobs(rollout.id)


# --- Shards ---------------------------------------------------------------------------------------------------------


def test_a_subdir_is_closed_when_its_last_shard_is_and_its_files_are_all_of_theirs(store: DagStore) -> None:
    rollout = start(store, SALES)
    record(store, rollout.id, shards=3)
    (nothing,) = store.outcomes(rollout.id)
    assert (nothing.closed, nothing.failure) == (False, "No parser reported")
    for shard, files in enumerate([{"b.py": {"b": "1"}}, {}, {"a.py": {"a": "1"}, "c.py": SYNTAX_ERROR}]):
        assert not store.outcomes(rollout.id)[0].closed
        report(store, rollout.id, shard, files, attempt=f"pod-{shard}")
    result = changeset(store, store.rollout(rollout.id))
    assert result.runs[0].closed
    assert [file.path for file in result.runs[0].files] == ["a.py", "b.py", "c.py"]
    assert store.publish(rollout.id, result, judged(store.live(SALES), result.runs)) == 1
    assert sorted(store.live(SALES).dags) == ["a", "b"]
    assert sorted(store.known_files(SALES, ".")) == ["a.py", "b.py", "c.py"]


def test_shards_close_whatever_order_they_come_in(store: DagStore) -> None:
    for order in itertools.permutations(range(3)):
        rollout = start(store, SALES)
        record(store, rollout.id, shards=3)
        for shard in order:
            report(store, rollout.id, shard, {f"{shard}.py": {f"d{shard}": "1"}}, attempt="same")
        assert store.outcomes(rollout.id)[0].closed


def test_a_newer_attempt_fences_its_own_shard_only(store: DagStore) -> None:
    rollout = start(store, SALES)
    record(store, rollout.id, shards=2)
    report(store, rollout.id, 0, {"a.py": {"a": "1"}}, attempt="pod-1")
    old = report(store, rollout.id, 1, {"b.py": {"b": "1"}}, attempt="pod-2")
    report(store, rollout.id, 1, {"b.py": {"b": "2"}}, attempt="pod-3")
    with pytest.raises(errors.ConflictError, match="newer attempt"):
        store.close_run(old, "pod-2", ["b.py"])
    assert store.outcomes(rollout.id)[0].closed
    assert [(row.shard, row.attempt) for row in store.run_states(rollout.id)] == [(0, "pod-1"), (1, "pod-3")]


def test_an_attempt_may_be_told_to_leave_a_closed_run_as_it_is(store: DagStore) -> None:
    rollout = start(store, SALES)
    closed = report(store, rollout.id, 0, {"a.py": {"a": "1"}}, attempt="pod-1")

    def again(attempt: str) -> str:
        return store.open_run(rollout.id, ".", attempt=attempt, airflow=None, python="3.11", keep_closed=True)

    with pytest.raises(errors.RunClosedError, match="Attempt pod-1 has closed"):
        again("pod-2")
    assert again("pod-1") == closed
    assert store.outcomes(rollout.id)[0].closed
    store.open_run(rollout.id, ".", attempt="pod-3", airflow=None, python="3.11")
    with pytest.raises(errors.FencedError):
        again("pod-1")


def test_a_file_that_two_shards_report_fails_the_subdir(store: DagStore) -> None:
    rollout = start(store, SALES)
    record(store, rollout.id, shards=2)
    for shard in range(2):
        report(store, rollout.id, shard, {"a.py": {"a": "1"}}, attempt=f"pod-{shard}")
    (outcome,) = store.outcomes(rollout.id)
    assert not outcome.closed
    assert "a.py was reported by two shards" in outcome.failure


def test_a_shard_that_failed_or_is_one_too_many_is_named(store: DagStore) -> None:
    rollout = start(store, SALES)
    record(store, rollout.id, shards=2)
    report(store, rollout.id, 0, {})
    assert store.outcomes(rollout.id)[0].failure == "Shard 1 of 2: no parser reported"
    run_id = store.open_run(rollout.id, ".", shard=1, attempt="1", airflow=None, python="3.11")
    assert store.outcomes(rollout.id)[0].failure == "Shard 1 of 2: The run did not close"
    store.fail_run(run_id, "1", "AirflowNotInstalled: no Airflow")
    assert store.outcomes(rollout.id)[0].failure == "Shard 1 of 2: AirflowNotInstalled: no Airflow"
    report(store, rollout.id, 1, {}, attempt="2")
    assert store.outcomes(rollout.id)[0].closed
    report(store, rollout.id, 2, {})
    assert store.outcomes(rollout.id)[0].failure == "Shard 2 reported, but there are only 2"


def test_half_of_a_sharded_subdir_cannot_be_published(store: DagStore) -> None:
    rollout = start(store, SALES)
    record(store, rollout.id, shards=2)
    report(store, rollout.id, 0, {"a.py": {"a": "1"}})
    result = changeset(store, store.rollout(rollout.id))
    with pytest.raises(errors.ConflictError, match="not closed"):
        store.publish(rollout.id, result, judged(store.live(SALES), result.runs))


def test_a_subdir_that_nobody_reported_for_is_not_taken_for_one_that_left(store: DagStore) -> None:
    rollout = start(store, SALES, ("a", "b"))
    report(store, rollout.id, 0, {"a/a.py": {"a": "1"}}, subdir="a")
    assert [(run.subdir, run.closed) for run in store.outcomes(rollout.id)] == [("a", True), ("b", False)]


def test_going_back_to_tables_without_shards_never_makes_a_part_the_whole(store: DagStore) -> None:
    rollout = start(store, SALES, ("many", "one"))
    record(store, rollout.id, "many", shards=2)
    for shard in range(2):
        report(store, rollout.id, shard, {f"many/{shard}.py": {f"d{shard}": "1"}}, subdir="many")
    report(store, rollout.id, 0, {"one/a.py": {"a": "1"}}, subdir="one")
    schema.downgrade(store.db, "0001")
    schema.upgrade(store.db)
    many, one = store.outcomes(rollout.id)
    assert (many.closed, many.files, one.closed, len(one.files)) == (False, (), True, 1)
    assert "downgraded" in many.failure
    assert counted(store, "submission") == 1
    result = changeset(store, store.rollout(rollout.id))
    report(store, rollout.id, 0, {"many/0.py": {"d0": "1"}}, attempt="2", subdir="many")
    result = changeset(store, store.rollout(rollout.id))
    assert store.publish(rollout.id, result, judged(store.live(SALES), result.runs)) == 1


# --- States ---------------------------------------------------------------------------------------------------------


def test_how_far_runs_are_can_be_read_while_they_go_on(store: DagStore) -> None:
    rollout = start(store, SALES, ("a", "b"))
    record(store, rollout.id, "a", shards=2)
    assert store.run_states(rollout.id) == ()
    report(store, rollout.id, 1, {"a/x.py": {"x": "1", "y": "1"}, "a/z.py": SYNTAX_ERROR}, subdir="a")
    run_id = store.open_run(rollout.id, "b", attempt="pod", airflow=None, python="3.12")
    closed, going = store.run_states(rollout.id)
    assert (closed.subdir, closed.shard, closed.shards, closed.state) == ("a", 1, 2, RunState.CLOSED)
    assert (closed.files, closed.dags, closed.import_errors) == (2, 2, 1)
    assert (closed.airflow, closed.python, closed.failure) == ("3.0.0", "3.11", "")
    assert closed.closed_at is not None
    assert closed.started_at <= closed.closed_at
    assert (going.subdir, going.shard, going.shards, going.state) == ("b", 0, 1, RunState.OPEN)
    assert (going.attempt, going.airflow, going.python, going.files, going.closed_at) == ("pod", None, "3.12", 0, None)
    store.fail_run(run_id, "pod", "it broke")
    assert [(row.state, row.failure) for row in store.run_states(rollout.id)][1] == (RunState.FAILED, "it broke")


def test_a_closed_run_counts_unchanged_files_and_empty_ones_too(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR})
    rollout = start(store, SALES)
    report(store, rollout.id, 0, {"a.py": None, "b.py": None})
    (row,) = store.run_states(rollout.id)
    assert (row.files, row.dags, row.import_errors) == (2, 1, 1)
    rollout = start(store, SALES)
    report(store, rollout.id, 0, {})
    (row,) = store.run_states(rollout.id)
    assert (row.files, row.dags, row.import_errors) == (0, 0, 0)


# --- Repeating ------------------------------------------------------------------------------------------------------


def test_who_did_not_hear_that_a_run_closed_says_it_all_again_even_after_the_publish(store: DagStore) -> None:
    ready = prepare(store, SALES, {"a.py": {"a": "1"}})
    ready.publish(store)
    assert report(store, ready.rollout.id, 0, {"a.py": {"a": "1"}})
    rollout = start(store, SALES)
    assert report(store, ready.rollout.id, 0, {"a.py": {"a": "1"}})
    assert store.rollout(rollout.id).state is RolloutState.OPEN
    run_id = store.open_run(ready.rollout.id, ".", attempt="1", airflow=None, python="3.11")
    with pytest.raises(errors.ProtocolError, match="differently"):
        store.stage(run_id, "1", [staged("a.py", {"a": "2"})])
    with pytest.raises(errors.ConflictError, match="Closed"):
        store.stage(run_id, "1", [staged("b.py", {"b": "1"})])
    with pytest.raises(errors.ProtocolError, match="listing"):
        store.close_run(run_id, "1", ["a.py", "b.py"])
    with pytest.raises(errors.ConflictError):
        store.open_run(ready.rollout.id, ".", attempt="2", airflow=None, python="3.11")


# --- Versions and deletion ------------------------------------------------------------------------------------------


def test_a_version_is_attached_to_an_open_rollout_only(store: DagStore) -> None:
    rollout = start(store, SALES, version="tag")
    store.attach_version(rollout.id, "sha256:1")
    assert store.rollout(rollout.id).version == "sha256:1"
    report(store, rollout.id, 0, {"a.py": {"a": "1"}})
    result = changeset(store, store.rollout(rollout.id))
    store.publish(rollout.id, result, judged(store.live(SALES), result.runs))
    assert store.live(SALES).version == "sha256:1"
    with pytest.raises(errors.ConflictError, match="Published"):
        store.attach_version(rollout.id, "sha256:2")
    old, _ = start(store, SALES), start(store, SALES)
    with pytest.raises(errors.SupersededError):
        store.attach_version(old.id, "sha256:2")
    with pytest.raises(errors.NotFoundError):
        store.attach_version("ghost", "sha256:2")


def test_a_bundle_is_deactivated_whole_and_its_rollout_ends(store: DagStore) -> None:
    apply(store, OPS, {"o.py": {"shared": "1"}})
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR, "s.py": {"shared": "2"}}, claims=True)
    ready = prepare(store, SALES, {"a.py": {"a": "2"}})
    assert store.bundles_known() == (OPS, SALES)
    assert store.deactivate_bundle(SALES) == ("a",)
    live = store.live(SALES)
    assert (live.revision, dict(live.dags)) == (2, {})
    assert store.list_errors(SALES).items == ()
    assert store.waiting_claims(["shared"]) == ()
    assert store.rollout(ready.rollout.id).state is RolloutState.SUPERSEDED
    assert store.latest_rollout(SALES) is None
    with pytest.raises(errors.SupersededError):
        ready.publish(store)
    assert store.bundles_known() == (OPS,)
    assert store.deactivate_bundle(SALES) == ()
    assert store.live(SALES).revision == 2
    assert sorted(store.state_at(SALES, 1).dags) == ["a"]
    store.collect_garbage(keep_revisions=1)
    assert apply(store, SALES, {"a.py": {"a": "1"}}) == 3


def test_a_hold_outlives_the_deletion_of_its_bundle(store: DagStore) -> None:
    for number in range(2):
        apply(store, SALES, {"a.py": {"a": str(number)}})
    store.republish(SALES, to_revision=1, base_revision=2, hold=Hold("h", "v", "bad"))
    store.deactivate_bundle(SALES)
    assert store.live(SALES).holds == (Hold("h", "v", "bad"),)


def test_a_bundle_that_never_published_is_deactivated_without_a_revision(store: DagStore) -> None:
    rollout = start(store, SALES)
    assert store.deactivate_bundle(SALES) == ()
    assert store.rollout(rollout.id).state is RolloutState.SUPERSEDED
    assert store.live(SALES).revision == 0
    with pytest.raises(errors.NotFoundError):
        store.deactivate_bundle(OPS)


def test_the_statements_of_merging_do_not_grow_with_the_shards(store: DagStore) -> None:
    counts = []
    for shards in (2, 9):
        rollout = start(store, SALES)
        record(store, rollout.id, shards=shards)
        for shard in range(shards):
            report(store, rollout.id, shard, {f"{shard}.py": {f"d{shard}": "1"}})
        seen: list[str] = []
        listen = lambda _c, _u, statement, *_: seen.append(statement)  # noqa: E731, B023 - removed below
        sa.event.listen(store.db.engine, "before_cursor_execute", listen)
        assert store.outcomes(rollout.id)[0].closed
        sa.event.remove(store.db.engine, "before_cursor_execute", listen)
        counts.append(len(seen))
    assert counts[0] == counts[1]


def test_only_bundles_whose_newest_rollout_a_controller_started_are_a_clusters(store: DagStore) -> None:
    by_hand, by_controller = RolloutDocument(), RolloutDocument(image="r/i:1", requested_at="")

    def begin(bundle: BundleKey, document: RolloutDocument) -> None:
        store.register_bundle(bundle, str(bundle))
        store.start_rollout(bundle, version="v", template_hash="t", subdirs=["."], document=document)

    begin(SALES, by_hand)
    begin(OPS, by_controller)
    assert store.bundles_known() == (OPS, SALES)
    assert store.bundles_known(of_clusters=True) == (OPS,)
    begin(SALES, by_controller)
    begin(OPS, by_hand)
    assert store.bundles_known(of_clusters=True) == (SALES,)

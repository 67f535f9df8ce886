"""One pass of the reconciler: from a DagBundle, its rollout and its Jobs to the state that follows, step by step."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.controller import metrics, reconciler
from dagbundle.controller.deletion import FINALIZER
from dagbundle.controller.kept import REQUESTED_AT
from dagbundle.controller.reconciler import Result, utc_now
from dagbundle.engine.engine import Engine
from dagbundle.rollout.model import Problem
from dagbundle.rollout.steps import Start
from dagbundle.runtime.kubernetes import jobs
from dagbundle.store.records import JobRow, RolloutRow, RunState
from support.api_server import ApiServer
from support.world import FILES, KEY, NAMESPACE, Killed, World

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CHANGED = {"ingest": {"a": "2"}, "reporting": {"c": "1", "d": "1"}}
BROKEN = {"ingest": Problem("SyntaxError", "invalid syntax", 3), "reporting": {"c": "2"}}
IMAGE_2 = "registry.test/sales:2"
PARSING = Result(60.0, "Parsing")


@pytest.fixture
def guarded(world: World) -> World:
    """A world with a bundle that has the finalizer and no rollout."""
    world.apply()
    assert world.reconcile() == Result(None, "Guarded")
    return world


@pytest.fixture
def parsing(guarded: World) -> World:
    """A world with a rollout whose two Jobs run."""
    assert guarded.reconcile() == PARSING
    return guarded


@pytest.fixture
def published(parsing: World) -> World:
    """A world with a published bundle."""
    parsing.node()
    assert parsing.reconcile() == Result(None, "Published")
    return parsing


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in world.bundle()["status"]["conditions"]}


def message(world: World) -> str:
    return str(world.bundle()["status"]["conditions"][0]["message"])


def rollout(world: World) -> RolloutRow:
    found = world.store.latest_rollout(world.key)
    assert found is not None
    return found


def rows(world: World) -> dict[str, JobRow]:
    return {row.subdir: row for row in world.store.jobs(rollout(world).id)}


def jobs_by_subdir(world: World) -> dict[str, Any]:
    return {job["metadata"]["annotations"][jobs.SUBDIR_ANNOTATION]: job for job in world.jobs()}


def recorded(world: World) -> dict[str, str]:
    return {subdir: row.uid for subdir, row in rows(world).items()}


def there(world: World) -> dict[str, str]:
    return {subdir: job["metadata"]["uid"] for subdir, job in jobs_by_subdir(world).items()}


def annotate(world: World, value: str) -> None:
    world.cluster.call(
        "PATCH", f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles/{KEY[1]}",
        body={"metadata": {"annotations": {REQUESTED_AT: value}}},
        headers={"Content-Type": "application/merge-patch+json"},
    )  # fmt: skip


def pod(world: World, subdir: str, digest: str = "", **state: Any) -> None:
    container = {"name": jobs.CONTAINER, "imageID": f"registry.test/sales@{digest}" if digest else "", "state": state}
    world.pod(jobs_by_subdir(world)[subdir], {"phase": "Running", "containerStatuses": [container]})


def hidden(job: Mapping[str, Any]) -> str:
    """Return whether the Job's parser imports Airflow before it asks."""
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return next((item["value"] for item in env if item["name"] == "DAGBUNDLE_AHEAD"), "")


# --- before there is a rollout ---


def test_a_bundle_that_is_gone_is_no_work(world: World) -> None:
    assert world.reconcile() == Result()
    assert world.fuse.calls == []


def test_a_new_bundle_gets_the_finalizer_first_and_nothing_else(world: World) -> None:
    world.apply()
    assert world.reconcile() == Result(None, "Guarded")
    body = world.bundle()
    assert body["metadata"]["finalizers"] == [FINALIZER]
    assert "conditions" not in body["status"]
    assert (world.store.latest_rollout(world.key), world.jobs()) == (None, [])


def test_a_finalizer_of_somebody_else_stays_beside_ours(world: World) -> None:
    world.apply()
    world.cluster.write_finalizers(world.bundle(), ["example.com/hold"])
    assert world.reconcile() == Result(None, "Guarded")
    assert world.bundle()["metadata"]["finalizers"] == ["example.com/hold", FINALIZER]


def test_a_guarded_bundle_gets_a_rollout_and_a_recorded_job_for_each_subdir(guarded: World) -> None:
    assert guarded.reconcile() == PARSING
    assert (rollout(guarded).state, rollout(guarded).subdirs) == ("Open", tuple(FILES))
    assert rollout(guarded).version == rollout(guarded).document.image == "registry.test/sales:1"
    assert recorded(guarded) == there(guarded)
    assert set(there(guarded)) == set(FILES)
    for subdir, job in jobs_by_subdir(guarded).items():
        assert job["metadata"]["annotations"][jobs.RUN_ANNOTATION] == rows(guarded)[subdir].run_id
        assert job["metadata"]["labels"][jobs.ROLLOUT_LABEL] == rollout(guarded).id
        assert [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == [guarded.bundle()["metadata"]["uid"]]


def test_the_request_of_a_run_has_what_its_parser_needs_and_nothing_of_the_servers(parsing: World) -> None:
    row = rows(parsing)["ingest"]
    assert (row.namespace, row.service_account, row.shards) == (NAMESPACE, "default", 1)
    assert (row.request["subdir"], row.request["bundle"]) == ("ingest", "team-a.sales")
    assert not {"run", "attempt", "known", "runAsUser"} & row.request.keys()


def test_a_bundle_that_is_parsed_is_reconciling_and_not_yet_observed(parsing: World) -> None:
    assert conditions(parsing) == {"Ready": ("Unknown", "Parsing"), "Reconciling": ("True", "Parsing")}
    status = parsing.bundle()["status"]
    assert status["observedGeneration"] == -1
    assert [(item["path"], item["phase"]) for item in status["subdirs"]] == [
        ("ingest", "Pending"),
        ("reporting", "Pending"),
    ]
    assert {item["job"] for item in status["subdirs"]} == {job["metadata"]["name"] for job in parsing.jobs()}
    assert "waiting for 2 of the rollout's runs: ingest, reporting" in message(parsing)


def test_a_transition_is_one_event(parsing: World, api: ApiServer) -> None:
    assert [(event["type"], event["reason"]) for event in api.events] == [("Normal", "Parsing")]
    parsing.reconcile()
    assert len(api.events) == 1


def test_a_namespace_that_no_tenant_owns_gets_a_condition_and_no_rollout(world: World) -> None:
    grants = world.settings.grants.model_copy(update={"tenants": []})
    world.settings = dataclasses.replace(world.settings, grants=grants)
    world.apply()
    world.reconcile()
    assert world.reconcile() == Result(None, "NamespaceNotEnabled")
    assert conditions(world) == {
        "Ready": ("False", "NamespaceNotEnabled"),
        "Stalled": ("True", "NamespaceNotEnabled"),
    }
    assert world.bundle()["status"]["observedGeneration"] == 1
    assert world.store.latest_rollout(world.key) is None


def test_an_invalid_spec_gets_a_condition_and_no_rollout(world: World) -> None:
    world.apply(subdirs=[{"path": "../x"}])
    world.reconcile()
    assert world.reconcile() == Result(None, "InvalidSpec")
    assert conditions(world)["Stalled"] == ("True", "InvalidSpec")
    assert (world.store.latest_rollout(world.key), world.jobs()) == (None, [])


def test_a_suspended_bundle_gets_no_rollout(world: World) -> None:
    world.apply(suspend=True)
    world.reconcile()
    assert world.reconcile() == Result(None, "Suspended")
    assert conditions(world) == {"Ready": ("False", "Suspended")}
    assert world.store.latest_rollout(world.key) is None


# --- Jobs ---


def test_a_run_that_was_recorded_and_has_no_job_gets_one_of_the_same_run(parsing: World) -> None:
    before = rows(parsing)
    parsing.store.db.write(lambda c: c.execute(sa.update(parsing.store.db.tables.job).values(uid="")))
    parsing.cluster.memory.objects["jobs"].clear()  # type: ignore[attr-defined] # the one in memory
    assert parsing.reconcile() == PARSING
    assert recorded(parsing) == there(parsing)
    assert {subdir: row.run_id for subdir, row in rows(parsing).items()} == {
        subdir: row.run_id for subdir, row in before.items()
    }


def test_a_job_that_was_made_and_not_recorded_is_found_and_not_made_again(parsing: World, api: ApiServer) -> None:
    parsing.store.db.write(lambda c: c.execute(sa.update(parsing.store.db.tables.job).values(uid="")))
    assert parsing.reconcile() == PARSING
    assert recorded(parsing) == there(parsing)
    assert len(api.made) == 2


def test_a_job_that_no_watch_has_shown_yet_is_asked_for_and_not_made_again(parsing: World, api: ApiServer) -> None:
    controller = parsing.controller()
    controller._seen._children["Job"].clear()
    parsing.fuse.calls.clear()
    assert controller.reconcile(KEY) == PARSING
    assert (parsing.fuse.calls.count("job"), parsing.fuse.calls.count("create_job")) == (2, 0)
    assert len(api.made) == 2


def test_a_job_that_was_deleted_is_made_again_and_what_it_reported_is_fenced(parsing: World, api: ApiServer) -> None:
    older = recorded(parsing)
    run = parsing.store.open_run(rollout(parsing).id, "ingest", attempt="older", airflow="3.3.2", python="3.11")
    parsing.cluster.delete_job(NAMESPACE, rows(parsing)["ingest"].name)
    assert parsing.reconcile() == PARSING
    assert recorded(parsing) == there(parsing)
    assert recorded(parsing)["ingest"] != older["ingest"]
    assert recorded(parsing)["reporting"] == older["reporting"]
    assert len(api.made) == 3
    with pytest.raises(errors.FencedError):
        parsing.store.close_run(run, "older", [])


def test_a_job_that_is_being_deleted_is_waited_for(parsing: World) -> None:
    name = rows(parsing)["ingest"].name
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}"
    held = {"metadata": {"finalizers": ["example.com/hold"]}}
    parsing.cluster.call("PATCH", path, body=held, headers={"Content-Type": "application/merge-patch+json"})
    parsing.cluster.delete_job(NAMESPACE, name)
    assert parsing.reconcile() == Result(5.0, "Changing")
    assert conditions(parsing) == {"Ready": ("Unknown", "Changing"), "Reconciling": ("True", "Changing")}
    assert parsing.bundle()["status"]["revision"] == 0


def test_a_job_of_somebody_else_is_left_alone_and_said(guarded: World) -> None:
    guarded.fuse.name = "create_job"
    with pytest.raises(Killed):
        guarded.reconcile()
    guarded.fuse.name = ""
    name = rows(guarded)["ingest"].name
    pod_spec = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    squatter = {"metadata": {"name": name}, "spec": {"template": {"spec": pod_spec}}}
    guarded.cluster.call("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", body=squatter)
    before = guarded.jobs()
    assert guarded.reconcile() == Result(60.0, "JobConflict")
    assert conditions(guarded) == {"Ready": ("False", "JobConflict"), "Stalled": ("True", "JobConflict")}
    assert f"kubectl delete job -n {NAMESPACE} {name}" in message(guarded)
    assert guarded.jobs() == before
    assert recorded(guarded) == {"ingest": ""}


def test_an_account_that_may_not_create_jobs_is_said_with_the_remedy_and_tried_again(world: World) -> None:
    world.apply(subdirs=[{"path": "ingest", "serviceAccountName": "nobody"}])
    world.reconcile()
    assert world.reconcile() == Result(60.0, "AccessDenied")
    assert conditions(world) == {"Ready": ("False", "AccessDenied"), "Stalled": ("True", "AccessDenied")}
    assert "kubectl create role dagbundle-parser-nobody" in message(world)
    assert world.jobs() == []
    assert (rollout(world).state, recorded(world)) == ("Open", {"ingest": ""})


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "JobRefused"), (422, "JobRefused"), (404, "JobRefused"), (500, "ClusterUnavailable")]
)
def test_a_job_that_the_api_server_refuses_gives_its_slots_back(
    guarded: World, api: ApiServer, status: int, reason: str
) -> None:
    api.memory.refusals["POST", "jobs"] = status, "exceeded quota: jobs"
    controller = guarded.controller()
    try:
        outcome = controller.reconcile(KEY).outcome
    except errors.ClusterError:
        outcome = "ClusterUnavailable"
    assert outcome == reason
    assert conditions(guarded)["Ready"][1] == reason
    assert "exceeded quota" in message(guarded)
    assert (controller._seen.slots.jobs, guarded.jobs()) == (0, [])


def test_an_operator_that_may_not_act_as_the_account_names_the_chart(guarded: World, api: ApiServer) -> None:
    api.memory.refusals["POST", "jobs"] = 403, 'User "operator" cannot impersonate resource "serviceaccounts"'
    assert guarded.reconcile() == Result(60.0, "AccessDenied")
    assert "by listing 'team-a' in the chart's tenants" in message(guarded)


def test_jobs_wait_for_their_turn_where_the_platform_has_no_more_pods(guarded: World) -> None:
    guarded.settings = dataclasses.replace(guarded.settings, max_pods=1)
    controller = guarded.controller()
    assert controller.reconcile(KEY) == Result(60.0, "Queued")
    assert conditions(guarded) == {"Ready": ("Unknown", "Queued"), "Reconciling": ("True", "Queued")}
    assert "limit of 1 parser pods" in message(guarded)
    assert (len(guarded.jobs()), controller._seen.slots.waiting) == (1, 1)


def test_a_bundle_that_is_queued_no_more_leaves_its_place(guarded: World) -> None:
    guarded.settings = dataclasses.replace(guarded.settings, max_pods=1)
    controller = guarded.controller()
    controller.reconcile(KEY)
    guarded.apply(suspend=True)
    controller._seen.take_bundle(guarded.bundle(), deleted=False)
    assert controller.reconcile(KEY) == Result(None, "Suspended")
    assert controller._seen.slots.waiting == 0
    guarded.cluster.memory.objects["dagbundles"].clear()  # type: ignore[attr-defined] # the one in memory


def test_a_job_of_a_subdir_of_which_nothing_is_remembered_may_import_airflow_ahead(published: World) -> None:
    assert {hidden(job) for job in published.jobs()} == {"1"}
    published.apply(IMAGE_2)
    published.reconcile()
    newer = [job for job in published.jobs() if job["metadata"]["labels"][jobs.ROLLOUT_LABEL] == rollout(published).id]
    assert [hidden(job) for job in newer] == ["", ""]


# --- waiting ---


def test_a_run_that_has_begun_is_running_and_one_that_closed_is_not_waited_for(parsing: World) -> None:
    parsing.node(subdirs=["ingest"])
    parsing.store.open_run(rollout(parsing).id, "reporting", attempt="pod", airflow="3.3.2", python="3.11")
    assert parsing.reconcile() == PARSING
    assert "waiting for 1 of the rollout's runs: reporting" in message(parsing)
    assert [(item["phase"], item["dags"]) for item in parsing.bundle()["status"]["subdirs"]] == [
        ("Succeeded", 2),
        ("Running", 0),
    ]


def test_a_subdir_of_several_pods_is_waited_for_until_each_has_closed(world: World) -> None:
    world.apply(subdirs=[{"path": "ingest", "shards": 2}])
    world.reconcile()
    world.reconcile()
    (job,) = world.jobs()
    assert job["spec"]["completions"] == 2
    for shard in (0, 1):
        assert world.reconcile() == PARSING
        run = world.store.open_run(
            rollout(world).id, "ingest", attempt=f"pod-{shard}", airflow="3.3.2", python="3.11", shard=shard
        )
        world.store.close_run(run, f"pod-{shard}", [])
    assert world.reconcile().outcome != "Parsing"


def test_a_pod_that_cannot_start_is_said_while_the_rollout_waits(parsing: World) -> None:
    pod(parsing, "reporting", waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image"})
    assert parsing.reconcile() == Result(60.0, "ImagePullBackOff")
    assert conditions(parsing) == {
        "Ready": ("False", "ImagePullBackOff"),
        "Reconciling": ("True", "ImagePullBackOff"),
    }
    assert "subdir reporting: ImagePullBackOff: Back-off pulling image" in message(parsing)
    assert "ImagePullBackOff" in parsing.bundle()["status"]["subdirs"][1]["message"]


def test_a_job_that_gets_no_pod_says_why_by_its_events(parsing: World) -> None:
    parsing.cluster.post_event(NAMESPACE, {
        "metadata": {"name": "x"}, "involvedObject": {"uid": recorded(parsing)["ingest"]},
        "reason": "FailedCreate", "message": "exceeded quota: pods",
    })  # fmt: skip
    assert parsing.reconcile() == Result(60.0, "QuotaExceeded")


def test_events_are_asked_for_only_where_an_open_rollout_has_no_pod(parsing: World) -> None:
    pod(parsing, "ingest", DIGEST, running={})
    parsing.fuse.calls.clear()
    parsing.reconcile()
    assert parsing.fuse.calls.count("job_events") == 1
    parsing.node()
    parsing.reconcile()
    parsing.fuse.calls.clear()
    parsing.reconcile()
    assert parsing.fuse.calls == ["head"]


# --- runs that will not finish ---


@pytest.mark.parametrize("begun", [False, True])
def test_a_job_that_failed_fails_its_run_and_the_rollout_which_is_tried_again_later(
    parsing: World, begun: bool
) -> None:
    if begun:
        run = parsing.store.open_run(rollout(parsing).id, "ingest", attempt="pod", airflow="3.3.2", python="3.11")
        parsing.store.note_cut(run, "; in flight: big.py")
    parsing.fail(jobs_by_subdir(parsing)["ingest"], "BackoffLimitExceeded", "it failed too often")
    parsing.node(subdirs=["reporting"])
    result = parsing.reconcile()
    assert result.outcome == "RunFailed"
    assert result.again_in is not None
    assert 0 < result.again_in <= 60
    assert conditions(parsing) == {"Ready": ("False", "RunFailed"), "Reconciling": ("True", "RunFailed")}
    assert "BackoffLimitExceeded: it failed too often" in message(parsing)
    assert ("; in flight: big.py" in message(parsing)) == begun
    assert "tried again at" in message(parsing)
    (state,) = (state for state in parsing.store.run_states(rollout(parsing).id) if state.subdir == "ingest")
    assert (state.state, state.attempt) == (RunState.FAILED, "controller")
    assert (rollout(parsing).state, parsing.state()["revision"]) == ("Blocked", 0)
    assert parsing.bundle()["status"]["observedGeneration"] == -1


def test_a_job_that_ended_without_a_report_fails_its_run(parsing: World) -> None:
    parsing.complete(jobs_by_subdir(parsing)["ingest"])
    parsing.node(subdirs=["reporting"])
    assert parsing.reconcile().outcome == "RunFailed"
    assert "its Job ended without a complete report" in message(parsing)


def test_a_failed_rollout_is_left_until_its_time_and_then_started_again(parsing: World) -> None:
    for job in parsing.jobs():
        parsing.fail(job, "BackoffLimitExceeded", "no")
    parsing.reconcile()
    first = rollout(parsing).id
    moment = utc_now()
    parsing.now = lambda: moment + dt.timedelta(seconds=30)
    assert parsing.reconcile().outcome == "RunFailed"
    assert rollout(parsing).id == first
    parsing.now = lambda: moment + dt.timedelta(seconds=90)
    assert parsing.reconcile() == PARSING
    assert rollout(parsing).id != first
    assert recorded(parsing).items() <= there(parsing).items()


def test_a_run_that_closed_counts_whatever_becomes_of_its_job(parsing: World) -> None:
    parsing.node()
    for job in parsing.jobs():
        parsing.fail(job, "DeadlineExceeded", "too late")
    assert parsing.reconcile() == Result(None, "Published")


# --- publishing ---


def test_a_rollout_whose_runs_have_all_closed_is_published(parsing: World) -> None:
    before = metrics.ROLLOUTS.labels("Published")._value.get()
    parsing.node()
    assert parsing.reconcile() == Result(None, "Published")
    assert conditions(parsing) == {"Ready": ("True", "Published")}
    assert sorted(parsing.state()["dags"]) == ["a", "b", "c"]
    status = parsing.bundle()["status"]
    assert (status["revision"], status["observedGeneration"]) == (1, 1)
    assert status["dags"] == {"total": 3, "added": 3, "changed": 0, "removed": 0, "kept": 0}
    assert status["version"] == {"attempted": "registry.test/sales:1", "published": "registry.test/sales:1"}
    assert [item["phase"] for item in status["subdirs"]] == ["Succeeded", "Succeeded"]
    assert metrics.ROLLOUTS.labels("Published")._value.get() == before + 1


def test_a_published_bundle_is_written_to_by_nobody(published: World, api: ApiServer) -> None:
    before, told = published.bundle(), len(api.events)
    for _ in range(3):
        assert published.reconcile() == Result(None, "Published")
    assert (published.bundle(), len(api.events), len(api.made)) == (before, told, 2)


def test_a_rollout_that_is_blocked_keeps_what_is_live_and_is_not_tried_again(published: World) -> None:
    published.apply(IMAGE_2, rollout={"onImportError": "Fail"})
    published.reconcile()
    published.node(BROKEN)
    result = published.reconcile()
    assert (result.again_in, rollout(published).state) == (None, "Blocked")
    assert conditions(published) == {"Ready": ("False", result.outcome), "Stalled": ("True", result.outcome)}
    assert sorted(published.state()["dags"]) == ["a", "b", "c"]
    status = published.bundle()["status"]
    assert (status["observedGeneration"], status["importErrors"]) == (2, 1)
    assert status["version"] == {"attempted": IMAGE_2, "published": "registry.test/sales:1"}


def test_a_broken_file_keeps_its_dags_and_the_bundle_is_not_ready(published: World) -> None:
    published.apply(IMAGE_2)
    published.reconcile()
    published.node(BROKEN)
    assert published.reconcile() == Result(None, "KeptLastGood")
    assert conditions(published) == {"Ready": ("False", "KeptLastGood"), "Stalled": ("True", "KeptLastGood")}
    assert published.bundle()["status"]["dags"]["kept"] == 2


def test_the_digest_that_the_pods_ran_is_the_version_even_when_they_are_gone(parsing: World, api: ApiServer) -> None:
    for subdir in FILES:
        pod(parsing, subdir, DIGEST, running={})
    parsing.reconcile()
    assert {row.image_id for row in rows(parsing).values()} == {DIGEST}
    api.memory.objects["pods"].clear()
    parsing.node()
    assert parsing.reconcile() == Result(None, "Published")
    assert parsing.bundle()["status"]["version"]["published"] == DIGEST


def test_the_digest_of_the_reference_is_the_version_whatever_the_pods_say(world: World) -> None:
    world.apply(f"registry.test/sales:1@{OTHER}")
    world.reconcile()
    world.reconcile()
    pod(world, "ingest", DIGEST, running={})
    world.node()
    world.reconcile()
    assert world.bundle()["status"]["version"]["published"] == OTHER


def test_pods_of_one_tag_that_ran_different_images_start_again_pinned_to_one(parsing: World) -> None:
    first = rollout(parsing).id
    pod(parsing, "ingest", OTHER, running={})
    pod(parsing, "reporting", DIGEST, running={})
    parsing.node()
    assert parsing.reconcile() == PARSING
    assert rollout(parsing).id != first
    assert rollout(parsing).document.pinned == DIGEST
    newer = [job for job in parsing.jobs() if job["metadata"]["labels"][jobs.ROLLOUT_LABEL] == rollout(parsing).id]
    images = {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in newer}
    assert images == {f"registry.test/sales@{DIGEST}"}
    assert {job["metadata"]["labels"][jobs.ROLLOUT_LABEL] for job in parsing.jobs()} == {rollout(parsing).id}
    parsing.node()
    assert parsing.reconcile() == Result(None, "Published")


# --- other versions, requests, rollbacks, suspensions ---


def test_an_edit_during_a_rollout_supersedes_it_and_removes_its_jobs(parsing: World) -> None:
    first, older = rollout(parsing).id, set(there(parsing).values())
    parsing.apply(IMAGE_2)
    assert parsing.reconcile() == PARSING
    assert parsing.store.rollout(first).state == "Superseded"
    assert not older & set(there(parsing).values())
    assert recorded(parsing) == there(parsing)
    parsing.node(CHANGED)
    assert parsing.reconcile() == Result(None, "Published")
    assert sorted(parsing.state()["dags"]) == ["a", "c", "d"]


def test_jobs_that_a_killed_controller_left_running_are_removed_before_others_are_made(parsing: World) -> None:
    older = set(there(parsing).values())
    parsing.apply(IMAGE_2)
    parsing.fuse.name = "delete_job"
    with pytest.raises(Killed):
        parsing.reconcile()
    parsing.fuse.name = ""
    assert set(there(parsing).values()) == older
    assert parsing.reconcile() == PARSING
    assert not older & set(there(parsing).values())
    assert recorded(parsing) == there(parsing)


def test_a_new_version_of_what_is_published_leaves_the_ended_jobs_to_be_read(published: World) -> None:
    older = set(there(published).values())
    published.apply(IMAGE_2)
    published.reconcile()
    assert older < {job["metadata"]["uid"] for job in published.jobs()}


def test_a_request_by_annotation_is_rolled_out_once_and_told(published: World) -> None:
    first = rollout(published).id
    annotate(published, "now")
    assert published.reconcile() == PARSING
    assert published.bundle()["status"]["lastHandledReconcileAt"] == "now"
    assert (rollout(published).id != first, rollout(published).document.requested_at) == (True, "now")
    published.node()
    assert published.reconcile() == Result(None, "Published")
    second = rollout(published).id
    assert published.reconcile() == Result(None, "Published")
    assert rollout(published).id == second


def test_a_request_of_the_target_is_rolled_out_once(published: World) -> None:
    first = rollout(published).id
    published.store.request_parse([published.key])
    assert published.reconcile() == PARSING
    second = rollout(published).id
    published.node()
    assert published.reconcile() == Result(None, "Published")
    assert first != second == rollout(published).id


@pytest.fixture
def rolled_back(published: World) -> World:
    """A world whose second version was rolled back."""
    published.apply(IMAGE_2)
    published.reconcile()
    published.node(CHANGED)
    assert published.reconcile() == Result(None, "Published")
    Engine(published.store).rollback(published.key)
    return published


def test_a_version_that_was_rolled_back_is_held_and_not_parsed(rolled_back: World, api: ApiServer) -> None:
    made = len(api.made)
    assert rolled_back.reconcile() == Result(None, "Held")
    assert conditions(rolled_back) == {"Ready": ("False", "Held"), "Stalled": ("True", "Held")}
    assert sorted(rolled_back.state()["dags"]) == ["a", "b", "c"]
    assert len(api.made) == made


def test_a_version_that_is_held_no_more_is_rolled_out_again(rolled_back: World) -> None:
    rolled_back.reconcile()
    Engine(rolled_back.store).resume(rolled_back.key)
    assert rolled_back.reconcile() == PARSING
    rolled_back.node(CHANGED)
    assert rolled_back.reconcile() == Result(None, "Published")
    assert sorted(rolled_back.state()["dags"]) == ["a", "c", "d"]


def test_a_version_that_is_published_by_an_edit_ends_the_hold(rolled_back: World) -> None:
    rolled_back.reconcile()
    rolled_back.apply("registry.test/sales:3")
    assert rolled_back.reconcile() == PARSING
    rolled_back.node(CHANGED)
    assert rolled_back.reconcile() == Result(None, "Published")


def test_a_suspension_removes_the_jobs_of_a_rollout_and_its_end_makes_them_again(parsing: World) -> None:
    first = rollout(parsing).id
    parsing.apply(suspend=True)
    assert parsing.reconcile() == Result(None, "Suspended")
    assert parsing.jobs() == []
    assert conditions(parsing) == {"Ready": ("False", "Suspended")}
    assert parsing.bundle()["status"]["observedGeneration"] == 2
    parsing.apply()
    assert parsing.reconcile() == PARSING
    assert (rollout(parsing).id, recorded(parsing)) == (first, there(parsing))
    parsing.node()
    assert parsing.reconcile() == Result(None, "Published")


def test_a_suspension_of_what_is_published_changes_nothing_but_the_condition(published: World) -> None:
    older = published.jobs()
    published.apply(suspend=True)
    assert published.reconcile() == Result(None, "Suspended")
    assert (published.jobs(), sorted(published.state()["dags"])) == (older, ["a", "b", "c"])
    published.apply()
    assert published.reconcile() == Result(None, "Published")


def test_jobs_that_an_older_rollout_left_running_are_removed_and_ended_ones_stay(published: World) -> None:
    stray = published.jobs()[0]
    for name, conditions_ in (("runs", []), ("ended", [{"type": "Complete", "status": "True"}])):
        body = {**stray, "metadata": {"name": name, "labels": {**stray["metadata"]["labels"],
                                                              jobs.ROLLOUT_LABEL: "older"}}}  # fmt: skip
        published.cluster.call("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", body=body)
        published._end({"metadata": {"name": name}}, conditions_)
    assert published.reconcile() == Result(None, "Published")
    names = {job["metadata"]["name"] for job in published.jobs()}
    assert ("runs" in names, "ended" in names, len(names)) == (False, True, 3)


# --- workloads ---


def deploy(world: World, image: str, *, complete: bool, **spec: Any) -> None:
    """Let a Deployment have an image, and be rolled out or not."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    template = {"spec": {"containers": [{"name": "dags", "image": image}]}}
    body = {"metadata": {"name": "airflow"}, "spec": {"replicas": 1, "template": template, **spec}}
    merge = {"Content-Type": "application/merge-patch+json"}
    if world.cluster.workload("Deployment", NAMESPACE, "airflow") is None:
        world.cluster.call("POST", path, body=body)
    else:
        world.cluster.call("PATCH", f"{path}/airflow", body=body, headers=merge)
    found = world.cluster.workload("Deployment", NAMESPACE, "airflow")
    assert found is not None
    number = 1 if complete else 0
    status = {"observedGeneration": found["metadata"]["generation"], "updatedReplicas": number, "replicas": number,
              "availableReplicas": number}  # fmt: skip
    world.cluster.call("PATCH", f"{path}/airflow/status", body={"status": status}, headers=merge)


def test_a_workloads_image_is_parsed_at_once_and_published_when_it_is_rolled_out(world: World) -> None:
    deploy(world, "registry.test/sales:7", complete=False)
    world.apply(source={"workloadRef": {"name": "airflow", "container": "dags"}})
    world.reconcile()
    assert world.reconcile() == PARSING
    assert rollout(world).document.image == "registry.test/sales:7"
    world.node()
    assert world.reconcile() == Result(60.0, "WaitingForWorkload")
    assert conditions(world) == {
        "Ready": ("Unknown", "WaitingForWorkload"),
        "Reconciling": ("True", "WaitingForWorkload"),
    }
    assert world.state()["dags"] == {}
    deploy(world, "registry.test/sales:7", complete=True)
    assert world.reconcile() == Result(None, "Published")


def test_a_workload_that_is_paused_is_trouble(world: World) -> None:
    deploy(world, "registry.test/sales:7", complete=False, paused=True)
    world.apply(source={"workloadRef": {"name": "airflow"}})
    world.reconcile()
    world.reconcile()
    world.node()
    assert world.reconcile() == Result(60.0, "WorkloadPaused")
    assert conditions(world)["Ready"] == ("False", "WorkloadPaused")


def test_a_workload_that_is_not_there_is_no_rollout(world: World) -> None:
    world.apply(source={"workloadRef": {"name": "airflow"}})
    world.reconcile()
    assert world.reconcile() == Result(None, "WorkloadNotFound")
    assert conditions(world) == {"Ready": ("False", "WorkloadNotFound")}
    assert world.store.latest_rollout(world.key) is None


# --- circles ---


def test_steps_that_run_in_a_circle_end(guarded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler.steps, "next_step", lambda *_, **__: Start())
    with pytest.raises(errors.StoreError, match=f"took {reconciler.MAX_STEPS} steps"):
        guarded.reconcile()
    assert conditions(guarded)["Ready"] == ("False", "StoreRefused")

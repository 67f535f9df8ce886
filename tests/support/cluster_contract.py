"""What a controller may expect of an API server: one list for a real one and for the one in memory.

`tests/unit/controller/test_cluster.py` holds the fake to it, `e2e/test_api_server.py` the real one. A test of the
controller on the fake proves only what is listed here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from dagbundle import errors
from dagbundle.resources import base
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import plan
from dagbundle.runtime.kubernetes import jobs
from support.world import KEY, NAMESPACE, World

FINALIZER = "example.com/hold"
OTHER = (NAMESPACE, "other")
STATUS = {"conditions": [{"type": "Ready", "status": "True", "reason": "Published", "message": "it is"}]}
_MERGE = {"Content-Type": "application/merge-patch+json"}
_CORE, _APPS, _BATCH = (f"{api}/namespaces/{NAMESPACE}" for api in ("/api/v1", "/apis/apps/v1", "/apis/batch/v1"))
_BUNDLE = f"/apis/dagbundle.dev/v1alpha1/namespaces/{NAMESPACE}/dagbundles/{KEY[1]}"

Wait = Callable[[Callable[[], bool]], None]
"""Waits until something is so, which the controllers of a cluster bring about."""


def applied(world: World, **spec: Any) -> Any:
    world.apply(**spec)
    return world.bundle()


def written(world: World) -> Any:
    """Return the bundle with a status and a finalizer."""
    world.cluster.write_status(applied(world), STATUS)
    world.cluster.write_finalizers(world.bundle(), [FINALIZER])
    return world.bundle()


def manifest(body: Any, run_id: str = "run", subdir: str = "ingest") -> jobs.Manifest:
    known = {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    resource = base.validate(bundle_models.DagBundle, known, what="the bundle")
    run = plan.RunPlan(subdir, (), None, None)
    order = jobs.Order(resource, body["metadata"]["uid"], run, run_id, "rollout", "registry.test/sales:1")
    return jobs.build(order, jobs.Settings("https://server.invalid", "", "registry.test/parser:1"))


def job_of(world: World, made: jobs.Manifest) -> Any:
    return world.cluster.job(NAMESPACE, made["metadata"]["name"])


def refused(world: World, *request: Any, **named: Any) -> int:
    with pytest.raises(ApiException) as refusal:
        world.cluster.call(*request, **named)
    status: int = refusal.value.status
    return status


class ClusterContract:
    """Tests with the fixtures `world`, in which nothing is, and `wait`."""

    # --- bundles ---

    def test_an_object_that_is_not_there_is_none(self, world: World) -> None:
        found = [world.bundle(), world.cluster.job(NAMESPACE, "none"), *(
            world.cluster.workload(kind, NAMESPACE, "none") for kind in ("Deployment", "StatefulSet"))]  # fmt: skip
        assert found == [None] * 4

    def test_a_bundle_is_as_it_was_applied_with_an_identity(self, world: World) -> None:
        body = applied(world)
        assert body["spec"]["source"]["image"]["reference"] == "registry.test/sales:1"
        assert body["metadata"]["generation"] == 1
        assert {"uid", "resourceVersion", "creationTimestamp"} <= body["metadata"].keys()
        assert body["status"]["observedGeneration"] == -1  # a default of the CRD
        assert body["spec"]["retryInterval"] == "1m"  # likewise, as is all that follows

    def test_a_status_is_written_and_nothing_else(self, world: World) -> None:
        before = applied(world)
        world.cluster.write_status({**before, "spec": {}}, STATUS)
        after = world.bundle()
        (ready,) = after["status"]["conditions"]
        assert ready == {"lastTransitionTime": "", "observedGeneration": -1, **STATUS["conditions"][0]}
        assert after["status"]["revision"] == 0
        assert after["spec"] == before["spec"]
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]

    def test_a_field_that_the_crd_does_not_have_is_dropped(self, world: World) -> None:
        world.cluster.write_status(applied(world), {**STATUS, "mood": "good"})
        assert "mood" not in world.bundle()["status"]
        assert world.bundle()["status"]["conditions"][0]["reason"] == "Published"

    def test_the_same_status_again_is_no_change(self, world: World) -> None:
        before = written(world)
        world.cluster.write_status(before, before["status"])
        assert world.bundle() == before

    def test_a_write_to_an_older_object_is_stale_and_changes_nothing(self, world: World) -> None:
        older = applied(world)
        world.cluster.write_finalizers(older, [FINALIZER])
        newer = world.bundle()
        for write in (
            lambda: world.cluster.write_status(older, STATUS),
            lambda: world.cluster.write_finalizers(older, []),
        ):
            with pytest.raises(errors.StaleError):
                write()
        assert world.bundle() == newer

    def test_a_write_to_a_bundle_that_is_gone_is_stale(self, world: World) -> None:
        body = applied(world)
        world.cluster.call("DELETE", _BUNDLE)
        with pytest.raises(errors.StaleError):
            world.cluster.write_status(body, STATUS)
        with pytest.raises(errors.StaleError):
            world.cluster.write_finalizers(body, [FINALIZER])
        assert world.bundle() is None

    @pytest.mark.parametrize(
        "status", [{"conditions": [{**STATUS["conditions"][0], "type": "Mood"}]}, {"version": {"attempted": "v" * 257}}]
    )
    def test_a_status_that_the_crd_refuses_is_not_written(self, world: World, status: Any) -> None:
        before = applied(world)
        with pytest.raises(errors.StaleError):
            world.cluster.write_status(before, status)
        assert world.bundle() == before

    def test_finalizers_are_written_and_nothing_else(self, world: World) -> None:
        world.cluster.write_status(applied(world), STATUS)
        before = world.bundle()
        world.cluster.write_finalizers(before, [FINALIZER, "example.com/other"])
        after = world.bundle()
        assert after["metadata"]["finalizers"] == [FINALIZER, "example.com/other"]
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        assert (after["spec"], after["status"]) == (before["spec"], before["status"])

    def test_an_edit_of_the_spec_is_a_generation_and_keeps_what_the_controller_wrote(self, world: World) -> None:
        before = written(world)
        after = applied(world, suspend=True)
        assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
        assert (after["metadata"]["uid"], after["status"]) == (before["metadata"]["uid"], before["status"])
        assert after["metadata"]["finalizers"] == [FINALIZER]
        assert applied(world, suspend=True) == after

    def test_an_edit_of_metadata_is_no_generation(self, world: World) -> None:
        before = written(world)
        world.cluster.call("PATCH", _BUNDLE, body={"metadata": {"annotations": {"a": "b"}}}, headers=_MERGE)
        after = world.bundle()
        assert after["metadata"]["annotations"] == {"a": "b"}
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]

    def test_the_status_is_no_part_of_what_a_team_writes(self, world: World) -> None:
        before = written(world)
        world.cluster.call("PATCH", _BUNDLE, body={"status": {"revision": 9}}, headers=_MERGE)
        assert world.bundle() == before

    def test_a_write_that_names_an_older_version_conflicts(self, world: World) -> None:
        older = applied(world)
        world.cluster.write_finalizers(older, [FINALIZER])
        body = {"metadata": {"resourceVersion": older["metadata"]["resourceVersion"], "annotations": {"a": "b"}}}
        assert refused(world, "PATCH", _BUNDLE, body=body, headers=_MERGE) == 409

    def test_a_bundle_without_finalizers_is_deleted_at_once(self, world: World) -> None:
        applied(world)
        world.cluster.call("DELETE", _BUNDLE)
        assert world.bundle() is None
        assert refused(world, "DELETE", _BUNDLE) == 404

    def test_a_bundle_with_finalizers_is_deleted_when_the_last_one_is_off(self, world: World) -> None:
        before = written(world)
        world.cluster.write_finalizers(before, [FINALIZER, "example.com/other"])
        world.cluster.call("DELETE", _BUNDLE)
        going = world.bundle()
        assert going["metadata"]["deletionTimestamp"]
        assert going["metadata"]["generation"] == before["metadata"]["generation"] + 1
        world.cluster.call("DELETE", _BUNDLE)
        assert world.bundle() == going
        world.cluster.write_status(going, {**STATUS, "revision": 2})
        world.cluster.write_finalizers(world.bundle(), [FINALIZER])
        left = world.bundle()
        assert (left["status"]["revision"], left["metadata"]["finalizers"]) == (2, [FINALIZER])
        world.cluster.write_finalizers(left, [])
        assert world.bundle() is None

    def test_a_bundle_that_is_deleted_takes_no_new_finalizer(self, world: World) -> None:
        written(world)
        world.cluster.call("DELETE", _BUNDLE)
        going = world.bundle()
        with pytest.raises(errors.StaleError):
            world.cluster.write_finalizers(going, [FINALIZER, "example.com/other"])
        assert world.bundle() == going

    def test_a_bundle_that_is_made_again_is_another_one(self, world: World) -> None:
        first = applied(world)
        world.cluster.call("DELETE", _BUNDLE)
        second = applied(world)
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        with pytest.raises(errors.StaleError):
            world.cluster.write_status(first, STATUS)

    def test_all_versions_are_listed_page_by_page(self, world: World) -> None:
        applied(world)
        other = copy.deepcopy(world.bundle())
        other["metadata"] = {"name": OTHER[1], "namespace": NAMESPACE}
        made = world.cluster.call("POST", _BUNDLE.rpartition("/")[0], body=other)
        assert world.cluster.bundle_versions() == {
            KEY: world.bundle()["metadata"]["resourceVersion"],
            OTHER: made["metadata"]["resourceVersion"],
        }
        path, limit = "/apis/dagbundle.dev/v1alpha1/dagbundles", ("limit", "1")
        first = world.cluster.call("GET", path, query=[limit])
        second = world.cluster.call("GET", path, query=[limit, ("continue", first["metadata"]["continue"])])
        assert [item["metadata"]["name"] for item in (*first["items"], *second["items"])] == [OTHER[1], KEY[1]]
        assert not second["metadata"].get("continue")
        world.cluster.call("DELETE", f"{_BUNDLE.rpartition('/')[0]}/{OTHER[1]}")

    # --- Jobs ---

    def test_a_job_is_made_as_its_manifest_with_an_identity(self, world: World) -> None:
        wanted = manifest(applied(world))
        uid = world.cluster.create_job(wanted, "default")
        found = job_of(world, wanted)
        assert found["metadata"]["uid"] == uid
        assert found["metadata"]["labels"] == wanted["metadata"]["labels"] | found["metadata"]["labels"]
        assert found["metadata"]["annotations"][jobs.RUN_ANNOTATION] == "run"
        assert [owner["uid"] for owner in found["metadata"]["ownerReferences"]] == [world.bundle()["metadata"]["uid"]]
        assert not found.get("status", {}).get("conditions")

    def test_a_jobs_pods_bear_its_name(self, world: World) -> None:
        wanted = manifest(applied(world))
        world.cluster.create_job(wanted, "default")
        labels = job_of(world, wanted)["spec"]["template"]["metadata"]["labels"]
        assert labels["batch.kubernetes.io/job-name"] == wanted["metadata"]["name"]
        assert labels[jobs.BUNDLE_LABEL] == KEY[1]

    def test_a_job_that_is_there_is_found_and_not_made_again(self, world: World) -> None:
        wanted = manifest(applied(world))
        first = world.cluster.create_job(wanted, "default")
        assert world.cluster.create_job(wanted, "default") == first
        assert len(world.jobs()) == 1

    def test_a_job_of_another_run_is_a_conflict_and_left_alone(self, world: World) -> None:
        body = applied(world)
        wanted = manifest(body)
        world.cluster.create_job(wanted, "default")
        before = job_of(world, wanted)
        stranger = copy.deepcopy(wanted)
        stranger["metadata"]["ownerReferences"][0]["uid"] = "00000000-0000-0000-0000-000000000000"
        for other in (manifest(body, "another"), stranger):
            with pytest.raises(errors.JobConflictError):
                world.cluster.create_job(other, "default")
        assert job_of(world, wanted) == before

    def test_an_account_without_the_right_makes_no_job(self, world: World) -> None:
        wanted = manifest(applied(world))
        with pytest.raises(errors.AccessDeniedError, match=f"ServiceAccount {NAMESPACE}/nobody may not create Jobs"):
            world.cluster.create_job(wanted, "nobody")
        assert world.jobs() == []

    def test_a_job_that_is_not_valid_is_refused(self, world: World) -> None:
        wanted = manifest(applied(world))
        for wrong in ("containers", "restartPolicy", "name"):
            broken = copy.deepcopy(wanted)
            pod = broken["spec"]["template"]["spec"]
            if wrong == "name":
                broken["metadata"]["name"] = "-".join("x" * 40)
            else:
                pod[wrong] = [] if wrong == "containers" else "Always"
            with pytest.raises(errors.RefusedError):
                world.cluster.create_job(broken, "default")
        assert world.jobs() == []

    def test_a_job_that_is_being_deleted_is_waited_for(self, world: World) -> None:
        wanted = manifest(applied(world))
        wanted["metadata"]["finalizers"] = [FINALIZER]
        first = world.cluster.create_job(wanted, "default")
        world.cluster.delete_job(NAMESPACE, wanted["metadata"]["name"])
        going = job_of(world, wanted)
        assert going["metadata"]["deletionTimestamp"]
        with pytest.raises(errors.StaleError):
            world.cluster.create_job(wanted, "default")
        path = f"{_BATCH}/jobs/{wanted['metadata']['name']}"
        world.cluster.call("PATCH", path, body={"metadata": {"finalizers": None}}, headers=_MERGE)
        assert job_of(world, wanted) is None
        del wanted["metadata"]["finalizers"]
        assert world.cluster.create_job(wanted, "default") != first

    def test_a_job_is_deleted_once_and_its_pods_go_with_it(self, world: World, wait: Wait) -> None:
        wanted = manifest(applied(world))
        world.cluster.create_job(wanted, "default")
        pod = world.pod(job_of(world, wanted), {"phase": "Pending"})
        world.cluster.delete_job(NAMESPACE, wanted["metadata"]["name"])
        world.cluster.delete_job(NAMESPACE, wanted["metadata"]["name"])
        assert job_of(world, wanted) is None
        path = f"{_CORE}/pods"
        wait(lambda: not [item for item in world.cluster.call("GET", path)["items"]
                          if item["metadata"]["uid"] == pod["metadata"]["uid"]])  # fmt: skip

    def test_a_bundles_jobs_go_with_it_and_others_stay(self, world: World, wait: Wait) -> None:
        mine = manifest(applied(world))
        world.cluster.create_job(mine, "default")
        free = copy.deepcopy(mine)
        free["metadata"] = {"name": "free", "namespace": NAMESPACE}
        world.cluster.call("POST", f"{_BATCH}/jobs", body=free)
        world.cluster.call("DELETE", _BUNDLE)
        wait(lambda: [job["metadata"]["name"] for job in world.jobs()] == ["free"])

    def test_a_jobs_status_is_written_and_nothing_else(self, world: World) -> None:
        wanted = manifest(applied(world))
        world.cluster.create_job(wanted, "default")
        before = job_of(world, wanted)
        world.complete(before)
        after = job_of(world, wanted)
        assert {item["type"] for item in after["status"]["conditions"]} >= {"Complete"}
        assert after["spec"] == before["spec"]
        assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]

    def test_objects_are_selected_by_labels(self, world: World) -> None:
        body = applied(world)
        for subdir in ("ingest", "reporting"):
            world.cluster.create_job(manifest(body, subdir=subdir), "default")
        free = manifest(body, subdir="free")
        free["metadata"] = {"name": "free", "namespace": NAMESPACE, "labels": {jobs.BUNDLE_LABEL: KEY[1]}}
        world.cluster.call("POST", f"{_BATCH}/jobs", body=free)
        selected = world.cluster.call(
            "GET", f"{_BATCH}/jobs", query=[("labelSelector", f"{jobs.SELECTOR},{jobs.BUNDLE_LABEL}={KEY[1]}")]
        )["items"]
        assert len(selected) == 2
        assert len(world.jobs()) == 3

    # --- Events and workloads ---

    def test_the_events_of_a_job_come_oldest_first(self, world: World) -> None:
        wanted = manifest(applied(world))
        uid = world.cluster.create_job(wanted, "default")
        for name, about, moment in (("b", uid, "02"), ("a", uid, "01"), ("c", "another", "03")):
            world.cluster.post_event(NAMESPACE, {
                "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": NAMESPACE},
                "involvedObject": {"kind": "Job", "namespace": NAMESPACE, "uid": about}, "reason": "FailedCreate",
                "type": "Warning", "message": name, "lastTimestamp": f"2026-01-01T00:00:{moment}Z",
            })  # fmt: skip
        assert [event["message"] for event in world.cluster.job_events(NAMESPACE, uid)] == ["a", "b"]
        assert list(world.cluster.job_events(NAMESPACE, "none")) == []

    def test_an_event_in_a_namespace_that_is_gone_is_lost(self, world: World) -> None:
        world.cluster.post_event("gone", {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "x", "namespace": "gone"},
            "involvedObject": {"kind": "DagBundle", "namespace": "gone", "name": "x"}, "reason": "Deleted",
            "type": "Normal", "message": "it is",
        })  # fmt: skip

    def test_a_workload_is_found_with_its_generation(self, world: World) -> None:
        template = {
            "metadata": {"labels": {"app": "w"}},
            "spec": {"containers": [{"name": "main", "image": "registry.test/sales:1"}]},
        }
        workload = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w", "namespace": NAMESPACE},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "w"}}, "template": template},
        }  # fmt: skip
        world.cluster.call("POST", f"{_APPS}/deployments", body=workload)
        path = f"{_APPS}/deployments/w"
        world.cluster.call("PATCH", path, body={"spec": {"replicas": 3}}, headers=_MERGE)
        world.cluster.call("PATCH", f"{path}/status", body={"status": {"observedGeneration": 1}}, headers=_MERGE)
        found = world.cluster.workload("Deployment", NAMESPACE, "w")
        assert found is not None
        assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (3, 2)
        assert found["status"]["observedGeneration"] == 1
        assert world.cluster.workload("StatefulSet", NAMESPACE, "w") is None
        world.cluster.call("DELETE", path)
        assert world.cluster.workload("Deployment", NAMESPACE, "w") is None

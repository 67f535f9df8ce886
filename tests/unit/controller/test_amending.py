"""Passes on a cluster: a file that is asked for is parsed in one Job, while its bundle stays published."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.controller.reconciler import Result, utc_now
from dagbundle.rollout.model import Hold, Problem
from dagbundle.runtime.kubernetes import jobs
from dagbundle.store import bundles, passes
from dagbundle.store.records import Pass
from integration.store import builder
from support.api_server import ApiServer
from support.world import FILES, KEY, Fuse, World

FILE = "ingest/dags.py"
CHANGED = {"ingest": {"a": "2", "b": "1"}, "reporting": {"c": "2"}}
PUBLISHED = Result(None, "Published")


@pytest.fixture
def published(world: World) -> World:
    world.apply()
    world.reconcile()
    world.reconcile()
    world.node()
    assert world.reconcile() == PUBLISHED
    return world


def ask(world: World, *files: str) -> None:
    tables = world.store.db.tables
    world.store.db.write(lambda c: passes.ask(c, tables, bundles.find(c, tables, world.key), files or None))


def running(world: World) -> list[str]:
    found = [job for job in world.jobs() if not job.get("status", {}).get("conditions")]
    return [job["metadata"]["annotations"][jobs.SUBDIR_ANNOTATION] for job in found]


def amending(world: World) -> Pass:
    found = world.store.head(world.key).amending
    assert found is not None
    return found


def salt(world: World, dag_id: str) -> str:
    return str(world.store.get_serialized_dag(dag_id)["dag"]["description"])


def ready(world: World) -> tuple[str, str]:
    condition = world.bundle()["status"]["conditions"][0]
    return condition["status"], condition["reason"]


def test_a_file_that_is_asked_for_makes_one_job_of_its_subdir_for_itself_alone(published: World) -> None:
    ask(published, FILE)
    assert published.reconcile() == Result(60.0, "Published")
    assert running(published) == ["ingest"]
    [job] = amending(published).jobs
    assert (job.request["files"], job.request["force"], job.shards) == ([FILE], True, 1)
    assert ready(published) == ("True", "Published")


def test_what_the_file_defines_now_is_published_and_nothing_else(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    published.node(CHANGED)
    assert published.reconcile() == PUBLISHED
    assert (salt(published, "a"), salt(published, "c")) == ("2", "1")
    assert (published.store.head(published.key).amending, running(published)) == (None, [])
    assert published.store.live(published.key).revision == 2


def test_a_pass_that_finds_a_broken_file_keeps_its_dags_and_the_status_names_it(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    published.node({"ingest": Problem("SyntaxError", "invalid syntax", 3)})
    published.reconcile()
    assert (ready(published), salt(published, "a")) == (("False", "KeptLastGood"), "1")


def test_a_pass_that_fails_changes_nothing_and_an_event_tells_why(published: World, api: ApiServer) -> None:
    ask(published, FILE)
    published.reconcile()
    job = next(job for job in published.jobs() if job["metadata"]["name"] == amending(published).jobs[0].name)
    published.fail(job, "BackoffLimitExceeded", "it failed too often")
    assert published.reconcile() == PUBLISHED
    assert (ready(published), salt(published, "a")) == (("True", "Published"), "1")
    event = api.events[-1]
    assert (event["type"], event["reason"]) == ("Warning", "ReparseFailed")
    assert "subdir ingest" in event["message"]


def test_what_a_pod_reports_moves_no_terminal_by_an_event(published: World, api: ApiServer) -> None:
    ask(published, FILE)
    published.reconcile()
    job = next(job for job in published.jobs() if job["metadata"]["name"] == amending(published).jobs[0].name)
    published.fail(job, "BackoffLimitExceeded", "\x1b[31mred")
    published.reconcile()
    assert "\\x1b[31mred" in api.events[-1]["message"]


def test_jobs_of_an_open_pass_are_left_alone(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    assert published.reconcile() == Result(60.0, "Published")
    assert running(published) == ["ingest"]


def reported(world: World, *, subdir: str = "ingest", salt: str = "2") -> None:
    """Let the pod of a pass report, and run on."""
    staged = [builder.staged(f"{subdir}/dags.py", {"a" if subdir == "ingest" else "c": salt})]
    builder.run(world.store, amending(world).rollout, subdir, staged, attempt=f"its pod in {subdir}")


def later(world: World, seconds: float) -> None:
    moment = utc_now() + dt.timedelta(seconds=seconds)
    world.now = lambda: moment


def test_a_pass_waits_a_moment_for_the_end_of_its_job_whose_log_stays(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    reported(published)
    found = published.reconcile()
    assert (found.outcome, 0 < (found.again_in or 0) <= 10) == ("Published", True)
    published.node()
    assert published.reconcile() == PUBLISHED
    assert (salt(published, "a"), running(published)) == ("2", [])
    assert len(published.jobs()) == 3


def test_a_job_that_runs_on_after_its_report_keeps_no_place_of_the_platforms(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    reported(published)
    later(published, 11)
    published.reconcile()
    assert (salt(published, "a"), running(published)) == ("2", [])
    assert published.store.head(published.key).amending is None


def test_a_pass_is_of_todays_grant_or_none(published: World) -> None:
    ask(published, FILE)
    narrowed = [published.settings.grants.tenants[0].model_copy(update={"dag_id_prefixes": ["a"]})]
    grants = published.settings.grants.model_copy(update={"tenants": narrowed})
    published.settings = dataclasses.replace(published.settings, grants=grants)
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)
    rollout = published.store.latest_rollout(published.key)
    assert rollout is not None
    assert rollout.document.policy.granted_prefixes == ("a",)


def test_a_grant_that_changes_during_a_pass_makes_a_rollout_of_all(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    narrowed = [published.settings.grants.tenants[0].model_copy(update={"dag_id_prefixes": ["a"]})]
    grants = published.settings.grants.model_copy(update={"tenants": narrowed})
    published.settings = dataclasses.replace(published.settings, grants=grants)
    published.node(CHANGED)
    published.reconcile()
    assert (sorted(running(published)), salt(published, "a")) == (sorted(FILES), "1")


def test_a_pass_that_waits_for_places_has_its_turn(published: World) -> None:
    controller = published.controller()
    controller._seen.slots.limit = 1
    assert controller._seen.slots.reserve(("other", "x"), "job", 1)
    ask(published, FILE)
    assert controller.reconcile(KEY) == Result(60.0, "Published")
    assert KEY in controller._seen.slots._waiting


def test_a_suspended_bundle_ends_its_pass_and_the_job_of_it(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    published.apply(suspend=True)
    assert published.reconcile() == Result(None, "Suspended")
    assert (running(published), published.store.head(published.key).amending) == ([], None)


def test_a_job_of_a_pass_that_is_refused_leaves_the_bundle_ready(published: World, api: ApiServer) -> None:
    ask(published, FILE)
    published.fuse = Fuse(name="create_job", error=errors.RefusedError("the quota is used up"))
    assert published.reconcile() == PUBLISHED
    assert (ready(published), api.events[-1]["reason"]) == (("True", "Published"), "ReparseFailed")
    assert published.store.head(published.key).amending is None


def test_a_pass_whose_pods_ran_two_images_makes_a_rollout_of_all(published: World) -> None:
    first, other = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    publish_as(published, first)
    ask(published, FILE, "reporting/dags.py")
    published.reconcile()
    for row in amending(published).jobs:
        pod(published, row.name, other if row.subdir == "ingest" else first)
    published.node(CHANGED)
    published.reconcile()
    assert (sorted(running(published)), salt(published, "a")) == (sorted(FILES), "1")


def test_a_failed_subdir_is_tried_again_when_it_is_due_whatever_is_asked_for_meanwhile(published: World) -> None:
    published.apply("registry.test/sales:2", rollout={"scope": "Subdir"})
    published.reconcile()
    published.node(subdirs=["ingest"])
    job = next(job for job in published.jobs() if running_in(job, "reporting"))
    published.fail(job, "BackoffLimitExceeded", "it failed too often")
    published.reconcile()
    assert ready(published) == ("False", "RunFailed")
    ended = published.store.head(published.key).rollout
    ask(published, FILE)
    published.reconcile()
    published.node(CHANGED)
    published.reconcile()
    now = published.store.head(published.key).rollout
    assert ended is not None
    assert now is not None
    assert (salt(published, "a"), now.finished_at) == ("2", ended.finished_at)


def running_in(job: Any, subdir: str) -> bool:
    there = job["metadata"]["annotations"][jobs.SUBDIR_ANNOTATION] == subdir
    return there and not job.get("status", {}).get("conditions")


def test_an_edit_of_the_bundle_ends_the_pass_and_its_job(published: World) -> None:
    ask(published, FILE)
    published.reconcile()
    published.apply("registry.test/sales:2")
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)
    assert published.store.head(published.key).amending is None


def test_a_file_that_the_bundle_does_not_have_makes_a_rollout_of_all(published: World) -> None:
    ask(published, "gone/dags.py")
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)
    assert ready(published) == ("Unknown", "Parsing")


def test_a_file_of_a_rollout_that_is_blocked_makes_a_rollout_of_all(published: World) -> None:
    published.apply("registry.test/sales:2", rollout={"onImportError": "Fail"})
    published.reconcile()
    published.node({**FILES, "ingest": Problem("SyntaxError", "invalid syntax", 3)})
    published.reconcile()
    assert ready(published) == ("False", "ImportErrors")
    ask(published, FILE)
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)


def test_files_that_are_asked_for_while_a_rollout_runs_wait_for_its_end(published: World) -> None:
    published.apply("registry.test/sales:2")
    published.reconcile()
    ask(published, FILE)
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)
    published.node()
    published.reconcile()
    assert running(published) == ["ingest"]


def test_a_tag_that_names_another_image_by_now_makes_a_rollout_of_all(published: World) -> None:
    first, other = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    publish_as(published, first)
    assert published.store.live(published.key).version == first
    ask(published, FILE)
    published.reconcile()
    pod(published, amending(published).jobs[0].name, other)
    published.node()
    published.reconcile()
    assert sorted(running(published)) == sorted(FILES)
    assert published.store.live(published.key).version == first


def test_a_bundle_that_is_held_is_left_alone(published: World) -> None:
    published.apply("registry.test/sales:2")
    published.reconcile()
    published.node(CHANGED)
    published.reconcile()
    live = published.store.live(published.key)
    hold = Hold(live.template_hash, live.version, "because")
    published.store.republish(published.key, to_revision=1, base_revision=live.revision, hold=hold)
    ask(published, FILE)
    published.reconcile()
    assert (running(published), ready(published)) == ([], ("False", "Held"))


def publish_as(world: World, digest: str) -> None:
    """Publish another tag, which names this image."""
    world.apply("registry.test/sales:2")
    world.reconcile()
    for job in world.jobs():
        if not job.get("status", {}).get("conditions"):
            pod(world, job["metadata"]["name"], digest)
    world.node()
    world.reconcile()


def pod(world: World, name: str, digest: str) -> None:
    job = next(job for job in world.jobs() if job["metadata"]["name"] == name)
    image = {"name": jobs.CONTAINER, "imageID": f"registry.test/sales@{digest}"}
    world.pod(job, {"phase": "Running", "containerStatuses": [image]})

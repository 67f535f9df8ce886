"""Whatever a reconcile meets, it ends in a status with a reason: every class of the error tree, at every call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from dagbundle import errors
from dagbundle.controller import failures, workers
from dagbundle.controller.kept import REQUESTED_AT
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.engine import intake
from dagbundle.resources import base, protocol
from dagbundle.resources import status as status_models
from dagbundle.resources.grants import Grants
from dagbundle.rollout import plan
from dagbundle.rollout.model import BundleKey
from dagbundle.runtime.kubernetes import jobs
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from support import reports
from support.api_server import ApiServer

GRANTS = Grants.model_validate({"tenants": [{"namespace": "team"}]})
SETTINGS = Settings(database_url="", jobs=jobs.Settings("https://server.invalid", "", "parser:1"), grants=GRANTS)


FIRST = {
    "head", "live", "register_bundle", "start_rollout", "run_states", "record_job", "job_created", "rollout",
    "outcomes", "owners", "refused", "publish", "handed_over", "create_job", "job_events", "write_status",
    "post_event",
}  # fmt: skip
"""What is called until a bundle's first version is published."""
THEN = {"knows_files", "open_run", "fail_run", "block", "delete_job"}
"""What is called besides until another one has failed."""


def every_class(kind: type[errors.DagBundleError] = errors.DagBundleError) -> Iterator[type[errors.DagBundleError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every_class(below)


KINDS: list[type[BaseException]] = [*every_class(), KeyError, SystemExit]


def made(kind: type[BaseException]) -> BaseException:
    return errors.CallerError("UnknownRun", "told") if kind is errors.CallerError else kind("told")


class Faulty:
    """Stands before store or API server, notes which methods are called, and lets one of them fail."""

    def __init__(self, real: object) -> None:
        self._real = real
        self.called: dict[str, None] = {}
        self.fails = ""
        self.error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found) or name == "db":
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.called[name] = None
            if name == self.fails and self.error is not None:
                raise self.error
            return found(*arguments, **named)

        return call


class Controller:
    """A reconciler on a real store, with what it calls between."""

    def __init__(self, store: DagStore) -> None:
        self.seen = Seen()
        self.api = ApiServer(self.seen)
        self.real = store
        self.store, self.cluster = Faulty(store), Faulty(self.api)
        self.queue: Queue[Key] = Queue(clock=lambda: 0.0)
        self.reconciler = Reconciler(cast("DagStore", self.store), cast("Cluster", self.cluster), self.seen, SETTINGS)

    def work(self, name: str) -> None:
        """Reconcile as a worker does."""
        workers._reconcile(self.queue, self.reconciler, ("team", name), None)

    def report(self, name: str) -> None:
        """Let the bundle's parser report one DAG, and its Job end."""
        head = self.real.head(BundleKey("team", name))
        assert head.rollout is not None
        run = self.real.open_run(head.rollout.id, ".", attempt="a", airflow="3.3.2", python="3.11")
        record = protocol.File.model_validate({"type": "file", "seq": 1, **reports.parsed("a.py", f"dag_of_{name}")})
        self.real.stage(run, "a", [intake.take(record, plan.RunPlan(".", (), None, None))])
        self.real.close_run(run, "a", ["a.py"])


def first_version(name: str, controller: Controller) -> None:
    """Parse, publish, and look at what is at rest."""
    controller.api.apply("team", name)
    controller.work(name)
    try:
        controller.report(name)
    except (errors.NotFoundError, AssertionError):
        return  # no rollout has come about
    controller.work(name)
    controller.work(name)


def failed_version(name: str, controller: Controller) -> None:
    """Parse another image, whose Job fails, and then a third."""
    for image in ("registry.example/sales:2", "registry.example/sales:3"):
        controller.api.apply("team", name, {"source": {"image": {"reference": image}}})
        controller.work(name)
        for job in list(controller.api.jobs):
            controller.api.end_job(*job, "Failed")
        controller.work(name)


def test_a_bundles_life_without_faults_ends_published(sqlite_store: DagStore) -> None:
    controller = Controller(sqlite_store)
    first_version("sales", controller)
    assert controller.api.ready("team", "sales")["reason"] == "Published"
    assert set(controller.store.called) | set(controller.cluster.called) == FIRST
    failed_version("sales", controller)
    assert controller.api.ready("team", "sales")["reason"] == "RunFailed"
    assert set(controller.store.called) | set(controller.cluster.called) == FIRST | THEN


@pytest.mark.parametrize("name", sorted(FIRST | THEN))
def test_every_error_at_every_call_ends_in_a_condition_with_a_reason(sqlite_store: DagStore, name: str) -> None:
    for kind in KINDS:
        controller, bundle = Controller(sqlite_store), kind.__name__.lower()
        if name in THEN:
            first_version(bundle, controller)
        faulty = controller.cluster if hasattr(controller.api, name) else controller.store
        faulty.fails, faulty.error = name, made(kind)
        controller.api.reasons.clear()
        (failed_version if name in THEN else first_version)(bundle, controller)
        if name == "write_status":
            faulty.fails = ""  # what could not be written is written when it can be
            controller.work(bundle)
        assert controller.api.ready("team", bundle), kind
        assert set(controller.api.reasons) - {"Parsing"}, kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["deactivate_bundle", "write_finalizers"])
def test_a_deletion_that_fails_says_so_in_the_status(
    sqlite_store: DagStore, kind: type[BaseException], method: str
) -> None:
    controller = Controller(sqlite_store)
    first_version("sales", controller)
    controller.api.delete("team", "sales")
    faulty = controller.store if method == "deactivate_bundle" else controller.cluster
    faulty.fails, faulty.error = method, made(kind)
    controller.work("sales")
    if kind is errors.NotFoundError and method == "deactivate_bundle":
        assert ("team", "sales") not in controller.api.bundles  # it has nothing to deactivate
    elif kind is not errors.StaleError:  # then the watch brings the object that it has become
        assert controller.api.ready("team", "sales")["reason"] == failures.reason_of(made(kind))


def test_a_published_bundle_stays_ready_while_the_database_is_away(sqlite_store: DagStore) -> None:
    controller = Controller(sqlite_store)
    first_version("sales", controller)
    before = controller.api.bundles["team", "sales"]["status"]
    controller.store.fails, controller.store.error = "head", errors.StoreUnavailableError("it restarts")
    controller.work("sales")
    assert controller.api.bundles["team", "sales"]["status"] == before


def test_a_defect_shows_its_kind_and_not_its_words(sqlite_store: DagStore) -> None:
    controller = Controller(sqlite_store)
    controller.store.fails, controller.store.error = "head", KeyError("a value of somebody's")
    first_version("sales", controller)
    ready = controller.api.ready("team", "sales")
    assert (ready["status"], ready["reason"]) == ("False", "OperatorFailed")
    assert "KeyError" in ready["message"]
    assert "somebody" not in ready["message"]


@pytest.mark.parametrize(
    ("spec", "annotations"),
    [
        ({"source": {"image": {"reference": "registry.example/" + "a" * 480}}}, {}),
        (None, {REQUESTED_AT: "x" * 10_000}),
    ],
)
def test_no_text_of_a_team_makes_a_status_that_the_crd_refuses(
    sqlite_store: DagStore, spec: dict[str, Any] | None, annotations: dict[str, str]
) -> None:
    controller = Controller(sqlite_store)
    controller.api.apply("team", "sales", spec, annotations=annotations)
    controller.work("sales")
    status = controller.api.bundles["team", "sales"]["status"]
    base.validate(status_models.Status, status, what="the status")


def test_a_retry_interval_of_nothing_does_not_start_a_rollout_at_once(sqlite_store: DagStore) -> None:
    controller = Controller(sqlite_store)
    source = {"image": {"reference": "registry.example/sales:1"}}
    controller.api.apply("team", "sales", {"source": source, "retryInterval": "0s"})
    controller.work("sales")
    controller.api.end_job(*next(iter(controller.api.jobs)), "Failed")
    controller.work("sales")
    first = sqlite_store.head(BundleKey("team", "sales")).rollout
    controller.work("sales")
    again = sqlite_store.head(BundleKey("team", "sales")).rollout
    assert first is not None
    assert again is not None
    assert (controller.api.ready("team", "sales")["reason"], again.id) == ("RunFailed", first.id)


def test_a_pod_that_died_leaves_the_files_that_it_was_at_in_the_condition(sqlite_store: DagStore) -> None:
    controller = Controller(sqlite_store)
    controller.api.apply("team", "sales", {"source": {"image": {"reference": "registry.example/sales:1"}}})
    controller.work("sales")
    rollout = sqlite_store.head(BundleKey("team", "sales")).rollout
    assert rollout is not None
    run = sqlite_store.open_run(rollout.id, ".", attempt="pod", airflow="3.3.2", python="3.11")
    sqlite_store.note_cut(run, "; in flight: big.py")
    controller.api.end_job(*next(iter(controller.api.jobs)), "Failed")
    controller.work("sales")
    ready = controller.api.ready("team", "sales")
    assert (ready["reason"], "; in flight: big.py" in ready["message"]) == ("RunFailed", True), ready

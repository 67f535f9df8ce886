"""Carries out the steps of a rollout: looks at it, starts it, makes its Jobs, ends runs, publishes, cleans up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagbundle.controller import metrics, workloads
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.status import Facts
from dagbundle.engine import collecting, engine
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import plan, policy, steps
from dagbundle.rollout.model import BundleKey, Live
from dagbundle.runtime.kubernetes import jobs, observe
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import Head, JobRow, Pass, RolloutRow, RunState, RunStateRow

_PHASES = {RunState.OPEN: steps.Phase.RUNNING, RunState.CLOSED: steps.Phase.CLOSED, RunState.FAILED: steps.Phase.FAILED}


@dataclass(frozen=True, slots=True)
class View:
    """Everything about a bundle's newest rollout, at one moment."""

    key: BundleKey
    wanted: steps.Wanted
    image: str
    """The image to parse now."""
    planned: plan.Plan
    head: Head
    seen: steps.RolloutSeen | None = None
    states: tuple[RunStateRow, ...] = ()

    @property
    def facts(self) -> Facts:
        """What the status says of the bundle."""
        return Facts(self.head, self.seen.runs if self.seen else (), self.states)


class Rollouts:
    """What the reconciler does to rollouts.

    Args:
        store: Where they are kept.
        engine_: Judges and publishes.
        cluster: The API server.
        seen: What the watches have shown.
        settings: The controller's.
    """

    def __init__(
        self, store: DagStore, engine_: engine.Engine, cluster: Cluster, seen: Seen, settings: Settings
    ) -> None:
        self._store = store
        self._engine = engine_
        self._cluster = cluster
        self._seen = seen
        self._settings = settings

    def look(self, resource: bundle_models.DagBundle, *, requested_at: str, head: Head | None = None) -> View:
        """Look at everything that decides the next step: for a bundle at rest, one transaction.

        Args:
            resource: The validated bundle.
            requested_at: The annotation that asks for another rollout.
            head: Where it is, if that is known already.
        """
        key = engine.key_of(resource, self._settings.cluster)
        source = workloads.resolve(resource, self._cluster)
        head = head or self._store.head(key)
        rollout = head.rollout
        # of what is live, a plan asks for the holds alone
        planned = plan.plan(resource, version=source.image, live=Live(key, version=head.version, holds=head.holds))
        again = rollout is not None and (
            head.requested
            or (bool(head.asked) and rollout.state == "Blocked")  # it can be amended by no pass
            or (bool(requested_at) and rollout.document.requested_at != requested_at)
            # it was rolled back, and nothing holds it any more
            or (rollout.state == "Published" and head.template_hash != rollout.template_hash)
        )
        idle, idle_message = planned.reason, planned.message
        if not idle and not source.image:
            idle, idle_message = source.reason, source.message
        wanted = steps.Wanted(
            planned.template_hash,
            idle=idle,
            idle_message=idle_message,
            gate=source.gate,
            gate_message=source.gate_message,
            again=again,
        )
        if rollout is None:
            return View(key, wanted, source.image, planned, head)
        seen, states = self._seen_of(rollout, head.jobs, head.states)
        image = jobs_image(source.image, rollout.document.pinned)
        return View(key, wanted, image, planned, head, seen, states)

    def look_at_pass(self, view: View, amending: Pass) -> View:
        """Look at the open pass of a bundle, whose rollout was looked at, as if it were the bundle's rollout."""
        files = amending.rollout.document.files
        runs = tuple(dataclasses.replace(run, shards=1) for run in view.planned.runs if run.subdir in files)
        seen, states = self._seen_of(amending.rollout, amending.jobs, amending.states)
        return dataclasses.replace(
            view,
            wanted=steps.Wanted(amending.rollout.template_hash),
            planned=dataclasses.replace(view.planned, runs=runs),
            head=dataclasses.replace(view.head, rollout=amending.rollout, jobs=amending.jobs, states=amending.states),
            seen=seen,
            states=states,
        )

    def _seen_of(
        self, rollout: RolloutRow, jobs_: Sequence[JobRow], states: Sequence[RunStateRow]
    ) -> tuple[steps.RolloutSeen, tuple[RunStateRow, ...]]:
        rows = {row.subdir: row for row in jobs_}
        is_open = rollout.state == "Open"
        found = {subdir: self._job(row, ask=is_open) for subdir, row in rows.items() if row.uid}
        # anew after the Jobs: a run that closes in between is then seen as closed, not as a Job that ended without it
        states = self._store.run_states(rollout.id) if is_open else tuple(states)
        seen = steps.RolloutSeen(
            id=rollout.id,
            template_hash=rollout.template_hash,
            open=is_open,
            published=rollout.state == "Published",
            reason=rollout.reason,
            message=rollout.message,
            finished_at=rollout.finished_at,
            runs=tuple(_run(subdir, rows.get(subdir), found.get(subdir), states) for subdir in rollout.subdirs),
        )
        return seen, states

    def _job(self, row: JobRow, *, ask: bool) -> steps.JobSeen | None:
        """Return a recorded Job as it is; None where it is gone, or another one has its name."""
        place: Key = (row.bundle.namespace, row.bundle.name)
        job = self._seen.jobs(place).get(row.name)
        if job is None and ask:
            job = self._cluster.job(row.namespace, row.name)  # the watch may be behind: ask before it is made again
        if job is None or job["metadata"]["uid"] != row.uid or job["metadata"].get("deletionTimestamp"):
            self._seen.slots.release(place, row.name)
            return None
        if ask and not observe.ended(job):
            self._count(row.name, row)
        pods = self._seen.pods(place, row.name)
        events = self._cluster.job_events(row.namespace, row.uid) if ask and not pods else ()
        seen = observe.job_seen(job, pods, events)
        if seen.digests and not row.image_id:
            self._store.job_image(row.run_id, min(seen.digests))
        elif row.image_id and not seen.digests:  # its pods are gone
            seen = dataclasses.replace(seen, digests=frozenset({row.image_id}))
        return seen

    def start(
        self,
        resource: bundle_models.DagBundle,
        rules: policy.Policy,
        view: View,
        *,
        requested_at: str,
        pinned: str = "",
    ) -> None:
        """Start a rollout, and remove the Jobs of the one that it supersedes."""
        self._engine.start(
            resource, version=view.image, rules=rules, image=view.image, pinned=pinned, requested_at=requested_at
        )
        self.remove_jobs(view)

    def create_jobs(
        self, body: Mapping[str, Any], resource: bundle_models.DagBundle, view: View, subdirs: Sequence[str]
    ) -> bool:
        """Make the Jobs of some subdirs, or find them; each is recorded before it is made.

        Returns:
            False when it is others' turn to have parser pods; the bundle is called when it is its own.
        """
        place: Key = (view.key.namespace, view.key.name)
        rollout = view.head.rollout
        assert rollout is not None  # noqa: S101 - the step says so; tells the type checker
        for run in view.planned.runs:
            if run.subdir not in subdirs:
                continue
            row = self._store.record_job(
                rollout.id,
                run.subdir,
                namespace=view.key.namespace,
                service_account=jobs.account_of(run),
                name=jobs.name_of(view.key.name, rollout.id, run.subdir),
                shards=run.shards,
                request=_request(run, resource, rollout, self._settings.cluster),
            )
            order = jobs.Order(
                bundle=resource,
                bundle_uid=str(body["metadata"]["uid"]),
                run=run,
                run_id=row.run_id,
                rollout_id=rollout.id,
                image=view.image,
                ahead=not (view.head.revision and self._store.knows_files(view.key, run.subdir)),
            )
            if not self._seen.slots.reserve(place, row.name, row.shards):
                return False
            try:
                uid = self._cluster.create_job(jobs.build(order, self._settings.jobs), jobs.account_of(run))
                if uid != row.uid:
                    self._store.job_created(row.run_id, uid)
            except Exception:
                self._seen.slots.release(place, row.name)
                raise
            self._count(row.name, dataclasses.replace(row, uid=uid))
        return True

    def _count(self, name: str, row: JobRow) -> None:
        """Let a Job that was recorded have its slots as long as it has not ended."""
        place: Key = (row.bundle.namespace, row.bundle.name)
        job = self._seen.jobs(place).get(name)
        shown = job is not None and job["metadata"].get("uid") == row.uid
        self._seen.slots.hold(place, name, row.shards, row.uid, shown=shown)
        if job is not None and shown:
            self._seen.slots.show(place, name, row.uid, ended=observe.ended(job))

    def fail_runs(self, view: View, failures: Sequence[tuple[str, str]]) -> None:
        """Record that runs will not finish; who reports afterwards is refused."""
        rollout = view.head.rollout
        assert rollout is not None  # noqa: S101 - as above
        for subdir, failure in failures:
            current = [state for state in view.states if state.subdir == subdir]
            if not current:
                run_id = self._store.open_run(rollout.id, subdir, attempt="controller", airflow=None, python="")
                self._store.fail_run(run_id, "controller", failure)
            for state in current:
                if state.state is RunState.OPEN:
                    run_id = self._store.open_run(
                        rollout.id, subdir, attempt="controller", airflow=None, python="", shard=state.shard
                    )
                    self._store.fail_run(run_id, "controller", failure + state.failure)

    def publish(self, view: View, digest: str) -> None:
        """Attach what version it was, then judge, and publish or block."""
        rollout = view.head.rollout
        assert rollout is not None  # noqa: S101 - as above
        version = view.image.partition("@")[2] or digest
        if version and rollout.version != version:
            self._store.attach_version(rollout.id, version)
        applied = self._engine.finish(rollout.id)
        metrics.ROLLOUTS.labels(applied.judgement.reason).inc()

    def remove_jobs(self, view: View) -> None:
        """Remove every Job of the rollout that was looked at."""
        rollout = view.head.rollout
        for row in view.head.jobs:
            if row.uid and rollout is not None and rollout.state != "Published":
                self._cluster.delete_job(row.namespace, row.name)

    def remove_old_jobs(self, view: View) -> None:
        """Remove the bundle's Jobs of other rollouts: what a controller that was killed left running."""
        place: Key = (view.key.namespace, view.key.name)
        rollouts = (view.head.rollout, view.head.amending.rollout if view.head.amending else None)
        mine = {rollout.id for rollout in rollouts if rollout}
        for name, job in self._seen.jobs(place).items():
            labels = job["metadata"].get("labels") or {}
            going = job["metadata"].get("deletionTimestamp") or observe.ended(job)
            if labels.get(jobs.ROLLOUT_LABEL) not in mine and not going:
                self._cluster.delete_job(view.key.namespace, name)

    def facts(self, resource: bundle_models.DagBundle) -> Facts:
        """Return what the status says of the bundle as it is now, where a step failed: its runs were not looked at."""
        head = self._store.head(engine.key_of(resource, self._settings.cluster))
        return Facts(head, states=head.states)


def jobs_image(image: str, pinned: str) -> str:
    """Pin an image to a digest, whatever tag it was named by."""
    if not pinned:
        return image
    repository = image.partition("@")[0]
    folder, slash, name = repository.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}@{pinned}"


def _run(subdir: str, row: JobRow | None, job: steps.JobSeen | None, states: Sequence[RunStateRow]) -> steps.RunSeen:
    mine = [state for state in states if state.subdir == subdir]
    phase, failure = _phase(mine, row.shards if row else 1)
    if row is None:
        return steps.RunSeen(subdir, phase, failure)
    return steps.RunSeen(subdir, phase, failure, row.run_id, row.uid, job)


def _phase(states: Sequence[RunStateRow], shards: int) -> tuple[steps.Phase, str]:
    """Say where a subdir is: failed if any shard is, closed if all are."""
    failed = next((state for state in states if state.state is RunState.FAILED), None)
    if failed is not None:
        return steps.Phase.FAILED, failed.failure
    if len(states) == shards and all(state.state is RunState.CLOSED for state in states):
        return steps.Phase.CLOSED, ""
    return (steps.Phase.RUNNING if states else steps.Phase.PENDING), ""


def _request(run: plan.RunPlan, resource: bundle_models.DagBundle, rollout: RolloutRow, cluster: str) -> dict[str, Any]:
    """Return the run request without what only the server knows: the run, the attempt, and what is remembered."""
    only = rollout.document.files.get(run.subdir, ())
    settings = collecting.RunSettings(
        rollout.id, engine.airflow_name_of(resource, cluster), resource.spec.parser, force=bool(only), only=only
    )
    request = collecting.request_for(run, settings, attempt="", root=resource.spec.source.path, known={})
    return request.model_dump(mode="json", by_alias=True, exclude={"run", "attempt", "known", "run_as_user"})

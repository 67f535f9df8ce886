"""The engine: apply, dry run, rollback and resume, the same under a laptop's command line and a controller.

An apply resolves the version, plans, runs the parsers, judges, and publishes with a compare-and-swap on the bundle's
revision. When somebody else published in between, what was parsed is judged again on what is live now; a newer
rollout of the same bundle ends the older. Whatever a publish lets go of wakes the bundles that waited for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dagbundle import errors
from dagbundle.engine import collecting, deferring, events, publishing
from dagbundle.engine.applied import Applied, Deactivated
from dagbundle.resources import bundle as bundle_models
from dagbundle.rollout import judge, plan, policy, wording
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Changeset,
    DagContent,
    FileOutcome,
    Hold,
    Judgement,
    KnownFile,
    Live,
    RunOutcome,
    Verdict,
    short_version,
)
from dagbundle.runtime.base import Runtime
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import PublicationKind, RolloutRow


def key_of(resource: bundle_models.DagBundle, cluster: str = "") -> BundleKey:
    """Return the identity of a resource."""
    return BundleKey(resource.metadata.namespace, resource.metadata.name, cluster)


def airflow_name_of(resource: bundle_models.DagBundle, cluster: str = "") -> str:
    """Return the name that Airflow knows the bundle by."""
    return resource.spec.bundle_name or str(key_of(resource, cluster))


@dataclasses.dataclass(frozen=True, slots=True)
class _Start:
    """What an apply or a preview starts from."""

    bundle: BundleKey
    version: str
    live: Live
    planned: plan.Plan

    def changeset(self, runs: Sequence[RunOutcome]) -> Changeset:
        """Return what the runs make of it."""
        return Changeset(self.bundle, self.version, self.planned.template_hash, self.live.revision, tuple(runs))

    def left_alone(
        self, judgement: Judgement, runs: Sequence[RunOutcome] = (), *, contents: Mapping[str, DagContent] | None = None
    ) -> Applied:
        """Return the answer where all stays live that is live; `contents` are those of a dry run, and make it one."""
        return Applied(
            self.bundle,
            self.version,
            judgement,
            tuple(runs),
            base_revision=self.live.revision,
            revision=self.live.revision,
            dry_run=contents is not None,
            contents=contents or {},
            lifted=self.live.holds if contents is not None and judgement.verdict is Verdict.PUBLISH else (),
        )

    @property
    def refusal(self) -> Judgement:
        """Why nothing is to be parsed."""
        return Judgement(Verdict.BLOCK, self.planned.reason, self.planned.message, ready=False)


class Engine:
    """Carries out rollouts on one store.

    Args:
        store: Where DAGs are kept.
        watch: Is told what happens while it works, from several threads.
        cluster: The cluster's name in bundles' identities; empty where one store has one cluster.
    """

    def __init__(self, store: DagStore, *, watch: events.Watcher = events.ignore, cluster: str = "") -> None:
        self._store = store
        self._watch = watch
        self._cluster = cluster
        self._publisher = publishing.Publisher(store, watch)

    def apply(
        self,
        resource: bundle_models.DagBundle,
        *,
        runtime: Runtime,
        rules: policy.Policy,
        force: bool = False,
    ) -> Applied:
        """Parse, judge and publish a bundle.

        Args:
            resource: The validated bundle.
            runtime: Parses its files.
            rules: Its policy, narrowed by the grant.
            force: Parse files even where they look unchanged.

        Raises:
            SupersededError: A newer rollout of the bundle began meanwhile.
            StoreError: The database refused; nothing was published.
        """
        start = self._start_from(resource, runtime)
        if not start.planned.runs:
            return start.left_alone(start.refusal)
        document = RolloutDocument.of(resource, rules)

        def begin() -> str:
            rollout_id = self._begin(resource, start.planned, start.version, document).id
            self._watch(events.RolloutBegan(rollout_id))
            return rollout_id

        sink = deferring.DeferredSink(self._store, start.bundle, begin)
        if force or start.planned.template_hash != start.live.template_hash:
            sink.start()
            self._store.prepare()
        self._carry_out("apply", start, resource, runtime=runtime, sink=sink, force=force)
        same = runtime.resolve_version() == start.version
        changeset = start.changeset(sink.unchanged())
        if same and changeset.runs and (done := self._nothing_new(start, changeset, rules, document)):
            return done
        rollout_id = sink.start()
        changeset = start.changeset(self._store.outcomes(rollout_id))
        return (
            self._publisher.publish(rollout_id, changeset, rules)
            if same
            else self._changed_underneath(rollout_id, changeset)
        )

    def _start_from(self, resource: bundle_models.DagBundle, runtime: Runtime) -> _Start:
        key = key_of(resource, self._cluster)
        version = runtime.resolve_version()
        live = self._publisher.live(key)
        return _Start(key, version, live, plan.plan(resource, version=version, live=live))

    def _carry_out(
        self,
        kind: str,
        start: _Start,
        resource: bundle_models.DagBundle,
        *,
        runtime: Runtime,
        sink: collecting.Sink,
        force: bool,
    ) -> None:
        name = airflow_name_of(resource, self._cluster)
        settings = collecting.RunSettings(kind, name, resource.spec.parser, force)
        collecting.carry_out(start.planned.runs, settings, runtime=runtime, sink=sink, watch=self._watch)

    def start(
        self,
        resource: bundle_models.DagBundle,
        *,
        version: str,
        rules: policy.Policy,
        image: str | None = None,
        pinned: str = "",
        requested_at: str | None = None,
    ) -> RolloutRow:
        """Start a rollout whose runs others carry out; every older one of the bundle is superseded.

        Args:
            resource: The validated bundle.
            version: What is known of its version before it is parsed.
            rules: Its policy, narrowed by the grant.
            image: The image that is parsed, as the source names it; workers run tasks on it. None: a folder is.
            pinned: The digest that is parsed, where it is known already.
            requested_at: The annotation that asks for it, empty without one; None where no controller starts it.
        """
        key = key_of(resource, self._cluster)
        planned = plan.plan(resource, version=version, live=self._publisher.live(key))
        document = dataclasses.replace(
            RolloutDocument.of(resource, rules), image=image, pinned=pinned, requested_at=requested_at
        )
        return self._begin(resource, planned, version, document)

    def _begin(
        self, resource: bundle_models.DagBundle, planned: plan.Plan, version: str, document: RolloutDocument
    ) -> RolloutRow:
        key = key_of(resource, self._cluster)
        self._store.register_bundle(key, airflow_name_of(resource, self._cluster))
        subdirs = [run.subdir for run in planned.runs]
        return self._store.start_rollout(
            key, version=version, template_hash=planned.template_hash, subdirs=subdirs, document=document
        )

    def _nothing_new(
        self, start: _Start, changeset: Changeset, rules: policy.Policy, document: RolloutDocument
    ) -> Applied | None:
        """Return what an apply did that found all as it was published; None when a rollout has something to do."""
        changeset, judgement = self._publisher.judged(changeset, start.live, rules)
        if judgement.verdict is Verdict.BLOCK or any(
            change.change not in {Change.UNCHANGED, Change.KEPT} for change in judgement.changes
        ):
            return None
        if not self._store.is_settled(start.bundle, start.live.revision, document, judgement):
            return None
        return start.left_alone(judgement, changeset.runs)

    def finish(self, rollout_id: str) -> Applied:
        """Judge what was staged for a rollout, and publish or block it.

        Raises:
            SupersededError: A newer rollout of the bundle began meanwhile.
            StoreError: The database refused; nothing was published.
        """
        return self._publisher.finish(rollout_id)

    def deactivate(self, key: BundleKey) -> Deactivated:
        """Remove all DAGs of a bundle, and let those who waited for their dag_ids have them."""
        gone = self._store.deactivate_bundle(key)
        return Deactivated(gone, self._publisher.rejudge(gone))

    def preview(
        self,
        resource: bundle_models.DagBundle,
        *,
        runtime: Runtime,
        rules: policy.Policy,
        force: bool = False,
    ) -> Applied:
        """Parse and judge like `apply`, in memory: nothing is written, nobody's rollout is superseded."""
        start = self._start_from(resource, runtime)
        if not start.planned.runs:
            return start.left_alone(start.refusal, contents={})
        known: dict[str, Mapping[str, KnownFile]] = {}
        remembered: dict[str, FileOutcome] = {}
        if start.live.revision:
            for run in start.planned.runs:
                known[run.subdir] = self._store.known_files(start.bundle, run.subdir)
                remembered |= self._store.remembered(start.bundle, run.subdir)
        sink = collecting.MemorySink(known, remembered)
        self._carry_out("dry-run", start, resource, runtime=runtime, sink=sink, force=force)
        changeset, judgement = self._publisher.judged(
            start.changeset(sink.outcomes()), start.live, rules, sink.contents
        )
        return start.left_alone(judgement, changeset.runs, contents=sink.contents)

    def rollback(
        self, key: BundleKey, *, to_revision: int | None = None, reason: str = "rolled back by hand"
    ) -> Applied:
        """Publish an earlier revision's stored result again, without parsing, and hold the refused version.

        Args:
            key: The bundle.
            to_revision: The revision whose result becomes live again; default: the newest earlier one of another
                version or spec that is not held, and at which no DAGs were deactivated.
            reason: Why; the hold shows it.

        Raises:
            NotFoundError: There is no such bundle or revision.
            UsageError: The revision is live already, or its version is held itself.
            OwnershipError: A DAG of that revision belongs to another bundle by now.
            ConflictError: Somebody published meanwhile.
        """
        live = self._store.live(key)
        before = self._restorable(live, to_revision)
        target = before.revision
        differs = before.template_hash != live.template_hash
        hold = Hold(live.template_hash, live.version, reason, live.revision) if differs else None
        revision = self._store.republish(key, to_revision=target, base_revision=live.revision, hold=hold)
        released = live.dags.keys() - before.dags.keys()
        now = self._store.live(key)
        broken = self._store.problems(key)
        message = f"revision {target} (version {short_version(before.version)}) is live again as revision {revision}"
        if hold:
            message += (
                f"; {wording.refused(hold)} is held until `dagbundle resume`, or until another version or another spec "
                "is published" + (" (the version is the same: only the spec differs)" * (live.version == now.version))
            )
        if broken:
            files = sorted({item.path for item in broken})
            message += f"; revision {target} has {wording.counted(len(files), 'broken file')}: {wording.names(files)}"
            if good := self._revision_before(live, is_whole=True):
                message += f"; revision {good} is the newest without: --to-revision {good} goes back to it"
        judgement = Judgement(
            verdict=Verdict.PUBLISH,
            reason="RolledBack",
            message=message,
            ready=False,
            changes=judge.compare(live, now),
            problems=broken,
        )
        return Applied(
            bundle=key,
            version=before.version,
            judgement=judgement,
            base_revision=live.revision,
            revision=revision,
            rejudged=self._publisher.rejudge(released),
        )

    def _restorable(self, live: Live, to_revision: int | None) -> Live:
        """Return what a rollback makes live again. Raises `NotFoundError` and `UsageError` as `rollback` does."""
        if not live.revision:
            raise errors.NotFoundError(f"bundle {live.bundle.namespace}/{live.bundle.name} was never published")
        target = self._revision_before(live) if to_revision is None else to_revision
        if target == live.revision:
            raise errors.UsageError(
                f"revision {target} of bundle {live.bundle.namespace}/{live.bundle.name} is live already",
                hint=f"`dagbundle history {live.bundle.namespace}/{live.bundle.name}` lists its revisions",
            )
        if not 0 < target < live.revision:
            raise errors.NotFoundError(
                f"bundle {live.bundle.namespace}/{live.bundle.name} has no "
                + (f"revision {target}" if target else "earlier version")
                + f" to go back to (it is at revision {live.revision})",
                hint=f"`dagbundle history {live.bundle.namespace}/{live.bundle.name}` lists its revisions",
            )
        before = self._store.state_at(live.bundle, target)
        if any(hold.template_hash == before.template_hash for hold in live.holds):
            raise errors.UsageError(
                f"revision {target} is version {short_version(before.version)}, which was rolled back and is held with "
                "its spec",
                hint=f"`dagbundle resume {live.bundle.namespace}/{live.bundle.name}` lifts the hold",
            )
        return before

    def _revision_before(self, live: Live, *, is_whole: bool = False) -> int:
        """Return the newest earlier revision of another template that nobody refused; 0 when there is none.

        Args:
            live: What is live.
            is_whole: Only one without broken files.
        """
        refused = {live.template_hash, *(hold.template_hash for hold in live.holds)}
        cursor = None
        while True:
            page = self._store.history(live.bundle, limit=100, cursor=cursor)
            for row in page.items:
                if (
                    row.revision < live.revision
                    and row.template_hash not in refused
                    and row.kind is not PublicationKind.DEACTIVATE  # a rollback would take away all DAGs again
                    and not (is_whole and row.counts.get("importErrors"))
                ):
                    return row.revision
            cursor = page.next_cursor
            if cursor is None:
                return 0

    def resume(self, key: BundleKey) -> Sequence[Hold]:
        """Lift the bundle's holds and return them."""
        return self._store.resume(key)

    def hand_over(self) -> tuple[BundleKey, ...]:
        """Judge again each bundle that waits for a dag_id without an owner; return the bundles that were published."""
        return self._publisher.hand_over()

    def _changed_underneath(self, rollout_id: str, changeset: Changeset) -> Applied:
        message = "files of the bundle changed while they were parsed: the result would be of no version"
        self._store.block(rollout_id, "SourceChanged", message)
        return Applied(
            bundle=changeset.bundle,
            version=changeset.version,
            judgement=Judgement(Verdict.BLOCK, "SourceChanged", f"{message}; apply again", ready=False),
            runs=changeset.runs,
            base_revision=changeset.base_revision,
            revision=changeset.base_revision,
        )

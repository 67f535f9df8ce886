"""DagStore (AIP-85): the trusted single point that reads, versions, deactivates and publishes DAGs.

The one class that the layers above use. Each method is one transaction; what a call means is told here, how it is done
in the module that it names.
"""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from dagbundle import errors
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, Changeset, Claim, Hold, Json, Judgement, Live, StagedFile, Verdict
from dagbundle.store import backup, bundles, deactivating, garbage, jobs, publishing, staging
from dagbundle.store.database import Mode
from dagbundle.store.records import Garbage, Ingestion, JobRow, RolloutRow
from dagbundle.store.targeted import TargetedStore


class Judge(Protocol):
    """Decides what becomes of a changeset, given what is live and who owns the dag_ids that it defines."""

    def __call__(self, changeset: Changeset, /, *, live: Live, owners: Mapping[str, BundleKey]) -> Judgement:
        """Judge."""
        ...


class DagStore(TargetedStore):
    """The store of one database.

    Every method raises `StoreUnavailableError` when the database is locked for too long, restarting or gone (then
    nothing was changed), besides the errors that its own description names. Safe to use from several threads.
    """

    def register_bundle(self, bundle: BundleKey, airflow_name: str) -> None:
        """Make a bundle known under its name in Airflow, or give it another one.

        Raises:
            OwnershipError: Another bundle has that name.
        """
        self.db.write(lambda c: bundles.register(c, self.db.tables, bundle, airflow_name))

    # --- Rollouts and staging -----------------------------------------------------------------------------------------

    def start_rollout(
        self, bundle: BundleKey, *, version: str, template_hash: str, subdirs: Sequence[str], document: RolloutDocument
    ) -> RolloutRow:
        """Start a rollout; every unfinished one of this bundle is superseded: it neither stages nor publishes any more.

        Args:
            bundle: A registered bundle.
            version: The bundle version.
            template_hash: Hash of the resolved spec and version.
            subdirs: All subdirs of the bundle; what is live or remembered of others goes when this one is published.
            document: What it is started with.

        Raises:
            NotFoundError: The bundle is not registered.
        """
        new = bundles.new_id()
        return self.db.write(
            lambda c: bundles.start_rollout(
                c, self.db.tables, bundle, new, version=version, template_hash=template_hash, subdirs=subdirs,
                document=document,
            )
        )  # fmt: skip

    def attach_version(self, rollout_id: str, version: str) -> None:
        """Give an open rollout its bundle version, where it is known only once runs have reported (an image's digest).

        Raises:
            NotFoundError: No such rollout.
            ConflictError: The rollout is over or superseded.
        """
        self.db.write(lambda c: bundles.attach_version(c, self.db.tables, rollout_id, version))

    def record_job(
        self,
        rollout_id: str,
        subdir: str,
        *,
        namespace: str,
        service_account: str,
        name: str,
        request: Json,
        shards: int = 1,
    ) -> JobRow:
        """Record which Kubernetes Job will carry out a subdir's run, before it is created.

        Called again for the same rollout and subdir it returns what was recorded first, and changes nothing.

        Args:
            rollout_id: An open rollout.
            subdir: Which part of the bundle.
            namespace: Where the Job and its account are.
            service_account: Whose tokens are believed.
            name: The Job's name.
            request: What the server hands to the parser; see `JobRow.request`.
            shards: How many pods share the subdir's files.

        Raises:
            NotFoundError: No such rollout.
            ConflictError: The rollout is over or superseded.
        """
        run_id = secrets.token_hex(20)
        return self.db.write(
            lambda c: jobs.record(
                c,
                self.db.tables,
                rollout_id,
                subdir,
                run_id=run_id,
                namespace=namespace,
                service_account=service_account,
                name=name,
                shards=shards,
                request=request,
            )
        )

    def job_created(self, run_id: str, uid: str) -> None:
        """Record the Job's UID: from now on its pods are believed.

        Another UID than before (somebody deleted the Job, and it was made again) takes its place, and discards and
        fences what the pods of the old one reported, closed or not.

        Raises:
            NotFoundError: No such run.
        """
        self.db.write(lambda c: jobs.created(c, self.db.tables, run_id, uid))

    def job_image(self, run_id: str, image_id: str) -> None:
        """Record the digest of the image that the Job's pods run. Raises `NotFoundError`."""
        self.db.write(lambda c: jobs.image(c, self.db.tables, run_id, image_id))

    def open_run(
        self,
        rollout_id: str,
        subdir: str,
        *,
        attempt: str,
        airflow: str | None,
        python: str,
        shard: int = 0,
        keep_closed: bool = False,
        ingestion: Ingestion | None = None,
    ) -> str:
        """Open a run and return its id. A newer attempt at the same shard discards and fences the older one.

        Args:
            rollout_id: An open rollout.
            subdir: Which part of the bundle.
            attempt: Names this attempt; the same one again finds the same run, after it closed too.
            airflow: The version of Airflow in the run's environment; None where there is none.
            python: The version of Python there.
            shard: Which of the subdir's shards, from 0.
            keep_closed: Refuse to take the place of an attempt that has closed the run.
            ingestion: How it is carried out; None where nobody reported it.

        Raises:
            NotFoundError: No such rollout.
            ConflictError: The rollout is over or superseded.
            FencedError: A newer attempt took this one's place.
            RunClosedError: Another attempt closed the run, and `keep_closed` says that this counts.
        """
        return self.db.write(
            lambda c: staging.open_run(
                c,
                self.db.tables,
                rollout_id,
                subdir,
                shard=shard,
                attempt=attempt,
                airflow=airflow,
                python=python,
                keep_closed=keep_closed,
                ingestion=ingestion,
            ),
            mode=Mode.STAGE,
        )

    def stage(self, run_id: str, attempt: str, files: Sequence[StagedFile]) -> None:
        """Stage what a run reports of some files, all or none of them. The same report twice is taken once.

        So it is after the run closed: who did not hear that says all of it again. An `outcome.unchanged` file takes
        what is remembered of it.

        Raises:
            ConflictError: A newer attempt or a newer rollout took its place, or the run is closed.
            ProtocolError: A file was reported before, differently; nothing is remembered of an unchanged one; or a
                DAG's content is missing.
            ContentError: A text cannot be stored.
            NotFoundError: No such run.
        """
        self.db.write(lambda c: staging.stage(c, self.db.tables, run_id, attempt, files), mode=Mode.STAGE)

    def close_run(self, run_id: str, attempt: str, listing: Sequence[str]) -> None:
        """Close a run: from here on its result counts, and survives a crash with all that was staged before.

        Closing it again with the same listing changes nothing, even when the rollout is over by then.

        Raises:
            ProtocolError: The listing is not exactly what was staged.
            ConflictError: A newer attempt or a newer rollout took its place.
            NotFoundError: No such run.
        """
        self.db.write(lambda c: staging.close_run(c, self.db.tables, run_id, attempt, listing))

    def note_cut(self, run_id: str, note: str) -> None:
        """Note what a report was at when it was cut, for as long as its run is open."""
        self.db.write(lambda c: staging.note_cut(c, self.db.tables, run_id, note))

    def fail_run(self, run_id: str, attempt: str, failure: str) -> None:
        """Record why a run did not close. Raises like `close_run`."""
        self.db.write(lambda c: staging.fail_run(c, self.db.tables, run_id, attempt, failure), mode=Mode.STAGE)

    # --- Publishing ---------------------------------------------------------------------------------------------------

    def publish(self, rollout_id: str, changeset: Changeset, judgement: Judgement, *, basis: object = None) -> int:
        """Publish a judged changeset in one transaction and return the bundle's revision.

        It can be called again for the newest rollout, also after it was published or blocked: what is waiting for
        another bundle's dag_id is judged again without parsing. When nothing differs from what is live, the revision
        stays; only what is remembered of files is renewed. `basis` is that of the `Live` that was judged on.

        Raises:
            SupersededError: A newer rollout took its place.
            RunOpenError: A run is not closed.
            ConflictError: Somebody else published first.
            OwnershipError: A dag_id belongs to another bundle; the message names it.
            NotFoundError: The bundle is not registered.
        """
        token = bundles.new_id()
        return self.db.write(
            lambda c: publishing.publish(
                c, self.db.tables, rollout_id, changeset, judgement, token=token, basis=basis, target=self.target
            )
        )

    def block(self, rollout_id: str, reason: str, message: str, *, claims: Collection[Claim] = ()) -> None:
        """Record why a rollout is not published, and which dag_ids of other bundles it waits for.

        Raises:
            ConflictError: It is published or superseded already.
            NotFoundError: No such rollout.
        """
        self.db.write(lambda c: publishing.block(c, self.db.tables, rollout_id, reason, message, claims=claims))

    def republish(self, bundle: BundleKey, *, to_revision: int, base_revision: int, hold: Hold | None) -> int:
        """Make what was live at a revision live again, as a new revision, without parsing (a rollback).

        Args:
            bundle: The bundle.
            to_revision: What to restore, with its kept DAGs, import errors and bundle versions.
            base_revision: The revision that the caller looked at.
            hold: The version that must not come back until somebody resumes; None for no hold.

        Raises:
            ConflictError: The bundle is not at `base_revision` any more.
            OwnershipError: A dag_id belongs to another bundle by now; the message names it.
            NotFoundError: No such bundle or revision, or it was collected.
        """
        token = bundles.new_id()
        return self.db.write(
            lambda c: publishing.republish(
                c, self.db.tables, bundle, to_revision=to_revision, base_revision=base_revision, hold=hold, token=token,
                target=self.target,
            )
        )  # fmt: skip

    def resume(self, bundle: BundleKey) -> tuple[Hold, ...]:
        """Clear a bundle's holds and return them. Raises `NotFoundError`."""
        return self.db.write(lambda c: publishing.resume(c, self.db.tables, bundle))

    # --- AIP-85 -------------------------------------------------------------------------------------------------------

    def submit_dags(
        self,
        bundle: BundleKey,
        files: Sequence[StagedFile],
        *,
        version: str,
        template_hash: str,
        judge: Judge,
        python: str,
        airflow: str | None = None,
        subdir: str = ".",
    ) -> int:
        """Submit a whole bundle's DAGs: start a rollout, stage, close, judge, publish.

        Args:
            bundle: A registered bundle.
            files: Every file of the bundle; DAGs of files that are not among them go.
            version: The bundle version.
            template_hash: Hash of the resolved spec and version.
            judge: Decides; `rollout.judge.judge` with its policy bound.
            python: The version of Python that parsed them.
            airflow: The version of Airflow that serialized them.
            subdir: The bundle's only subdir.

        Raises:
            StoreError: The judgement is to block, with its message; or as `publish` and `stage` raise.
        """
        started = self.start_rollout(
            bundle, version=version, template_hash=template_hash, subdirs=[subdir], document=RolloutDocument()
        )
        run_id = self.open_run(started.id, subdir, attempt="submit", airflow=airflow, python=python)
        self.stage(run_id, "submit", files)
        self.close_run(run_id, "submit", [file.outcome.path for file in files])
        live = self.live(bundle)
        runs = self.outcomes(started.id)
        changeset = Changeset(
            bundle=bundle, version=version, template_hash=template_hash, base_revision=live.revision, runs=runs
        )
        dag_ids = {dag.dag_id for run in runs for file in run.files for dag in file.dags}
        judgement = judge(changeset, live=live, owners=self.owners(dag_ids))
        if judgement.verdict is Verdict.BLOCK:
            self.block(started.id, judgement.reason, judgement.message)
            raise errors.StoreError(f"Bundle {bundle} was not published ({judgement.reason}): {judgement.message}")
        return self.publish(started.id, changeset, judgement)

    def deactivate_dags(self, dag_ids: Iterable[str]) -> tuple[str, ...]:
        """Remove DAGs, whoever owns them, as a revision of each bundle that loses some.

        The next publish may bring them back.

        Returns:
            The dag_ids that were live, sorted; others are not missed.
        """
        wanted = frozenset(dag_ids)
        gone: list[str] = []
        for bundle in sorted(set(self.owners(wanted).values())):
            gone.extend(self._deactivate(bundle, wanted))
        return tuple(sorted(gone))

    def deactivate_subpaths_dags(self, bundle: BundleKey, filepaths: Iterable[str]) -> tuple[str, ...]:
        """Remove the DAGs of some files or folders of a bundle, as a revision of its own.

        Args:
            bundle: The bundle; paths mean nothing without it.
            filepaths: Relative to the bundle's root, `/` separated; `.` is all of it.

        Returns:
            The dag_ids that were live there, sorted.
        """
        places = [path.rstrip("/") for path in filepaths]
        dag_ids = frozenset(
            dag_id
            for dag_id, dag in self.live(bundle).dags.items()
            if any(place in {".", dag.path} or dag.path.startswith(f"{place}/") for place in places)
        )
        return self._deactivate(bundle, dag_ids)

    def deactivate_bundle(self, bundle: BundleKey) -> tuple[str, ...]:
        """Remove all that is live of a bundle, as a revision: for one that was deleted.

        Its import errors go too, it waits for nobody's dag_id any more, and its open rollout is superseded. What was
        live stays in its history, and a hold stays. Done again it changes nothing.

        Returns:
            The dag_ids that were live, sorted: whoever waited for one can be judged again.

        Raises:
            NotFoundError: The bundle is not registered.
        """
        token = bundles.new_id()
        return self.db.write(
            lambda c: deactivating.deactivate_bundle(c, self.db.tables, bundle, token, target=self.target)
        )

    def _deactivate(self, bundle: BundleKey, dag_ids: frozenset[str]) -> tuple[str, ...]:
        token = bundles.new_id()
        return self.db.write(
            lambda c: deactivating.deactivate(c, self.db.tables, bundle, dag_ids, token, target=self.target)
        )

    # --- Upkeep -------------------------------------------------------------------------------------------------------

    def collect_garbage(self, *, keep_revisions: int) -> Garbage:
        """Delete what nothing needs any more: rollouts that are over, and content and sources without a reader.

        Args:
            keep_revisions: How many revisions of each bundle stay restorable, the live one included; older ones
                leave its history.

        Raises:
            UsageError: `keep_revisions` is less than 1.
        """
        return self.db.write(lambda c: garbage.collect(c, self.db.tables, keep_revisions=keep_revisions))

    def backup(self, target: pathlib.Path) -> None:
        """Copy a SQLite store into a new file, as of one moment, while others go on using it.

        Raises:
            UsageError: The store is on PostgreSQL (use pg_dump), or `target` exists.
        """
        backup.backup_sqlite(self.db, target)

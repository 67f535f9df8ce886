"""The reading half of the DagStore: all that can be asked, in one class without a method that changes anything."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from dagbundle import errors
from dagbundle.rollout import budgets
from dagbundle.rollout.model import BundleKey, DagContent, FileOutcome, FileProblem, Json, KnownFile, Live, RunOutcome
from dagbundle.store import bulk, bundles, heads, jobs, listing, memory, outcomes, reading, schema, state, yielding
from dagbundle.store.database import Database
from dagbundle.store.records import (
    BundleRow,
    DagDetails,
    DagRow,
    DagVersionRow,
    Head,
    ImportErrorRow,
    JobRow,
    Page,
    PublicationRow,
    RolloutRow,
    RunStateRow,
    TaskRow,
    WaitingClaim,
    WarningRow,
)

DEFAULT_LIMIT = 100
"""Rows of a page unless asked otherwise."""


class DagReader:
    """What is in a store. See `DagStore` for what every method raises.

    Attributes:
        db: The database behind it; for the modules of this package, for backups and for tests.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

    @classmethod
    def open(cls, url: str | None, *, upgrade: bool = False, timeout: float = 15.0) -> Self:
        """Open the store and make sure that its tables are this program's.

        Args:
            url: `sqlite:///path` or `postgresql://user@host/database`.
            upgrade: Create the tables, or bring them up to date, first.
            timeout: Seconds to wait for other writers.

        Raises:
            UsageError: No URL, or one of another kind of database.
            SchemaError: The tables are missing, older or newer.
        """
        if not url:
            raise errors.UsageError("No database was named", hint="Set DAGBUNDLE_DATABASE_URL")
        db = Database(url, timeout=timeout)
        try:
            if upgrade:
                schema.upgrade(db)
            else:
                schema.check(db)
        except BaseException:
            db.close()
            raise
        return cls(db)

    def close(self) -> None:
        """Close all connections."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- One DAG ---

    def get_serialized_dag(self, dag_id: str, task_id: str | None = None) -> Json:
        """Return a live DAG as Airflow serialized it, or "the dag with only one task" (AIP-45).

        With `task_id` the cost does not depend on the DAG's size, and Airflow can deserialize what comes back.

        Raises:
            NotFoundError: No such live DAG, or no such task in it.
        """
        return self.db.read(lambda c: reading.serialized_dag(c, self.db.tables, dag_id, task_id))

    def get_dag(self, dag_id: str) -> DagDetails:
        """Return what is known of a live DAG. Raises `NotFoundError`."""
        return self.db.read(lambda c: reading.dag(c, self.db.tables, dag_id))

    def source(self, dag_id: str) -> str:
        """Return the source text of a live DAG's file. Raises `NotFoundError` (also when none was submitted)."""
        return self.db.read(lambda c: reading.source(c, self.db.tables, dag_id))

    def content(self, sha256: str) -> DagContent:
        """Return a stored content, live or not. Raises `NotFoundError`."""
        found = self.contents([sha256])
        if sha256 not in found:
            raise errors.NotFoundError(f"There is no content {sha256}")
        return found[sha256]

    def contents(self, shas: Collection[str]) -> dict[str, DagContent]:
        """Return stored contents by their SHA-256; the ones that are not stored are left out."""
        return self.db.read(lambda c: reading.contents(c, self.db.tables, shas))

    # --- Bundles and rollouts ---

    def live(self, bundle: BundleKey) -> Live:
        """Return what is live; revision 0 with nothing in it for a bundle that never published."""
        return self.db.read(lambda c: state.live(c, self.db.tables, bundle))

    def heads(self, wanted: Collection[BundleKey]) -> dict[BundleKey, Head]:
        """Return where bundles are, without their DAGs: as good as empty for one that is not known.

        As many statements for many as for one, if they have no holds.
        """
        return self.db.read(lambda c: heads.heads(c, self.db.tables, wanted))

    def open_jobs(self, *, cluster: str = "") -> tuple[JobRow, ...]:
        """Return the Jobs that were made for a cluster's rollouts that are open."""
        return self.db.read(lambda c: jobs.open_jobs(c, self.db.tables, cluster))

    def head(self, bundle: BundleKey) -> Head:
        """Return where one bundle is."""
        return self.heads([bundle])[bundle]

    def state_at(self, bundle: BundleKey, revision: int) -> Live:
        """Return what was live at a revision; the holds are today's.

        Raises:
            NotFoundError: No such bundle or revision, or what was live then was collected.
        """
        return self.db.read(lambda c: state.state_at(c, self.db.tables, bundle, revision))

    def problems(self, bundle: BundleKey, revision: int | None = None) -> tuple[FileProblem, ...]:
        """Return the errors of files that are visible now, or were at a revision, by subdir and path.

        Raises:
            NotFoundError: No such bundle.
        """
        return self.db.read(lambda c: state.problems(c, self.db.tables, bundle, revision))

    def owners(self, dag_ids: Collection[str]) -> dict[str, BundleKey]:
        """Return which bundles own these dag_ids; the ones that nobody owns are left out."""
        dag = self.db.tables.dag
        return self.db.read(lambda c: state.owners(c, self.db.tables, bulk.is_in(c, dag.c.dag_id, dag_ids)))

    def known_files(self, bundle: BundleKey, subdir: str) -> dict[str, KnownFile]:
        """Return what is remembered of a subdir's files, by path."""
        return self.db.read(lambda c: memory.known_files(c, self.db.tables, bundle, subdir))

    def known_page(self, bundle: BundleKey, subdir: str, *, after: str, counted: budgets.Known) -> memory.KnownPage:
        """Return some of what is remembered of a subdir's files: the next ones by path, some MiB of them.

        Args:
            bundle: Whose files.
            subdir: Of which subdir.
            after: The last path of the page before; empty for the first page.
            counted: What the pages before have taken of the subdir's bounds.
        """
        return self.db.read(
            lambda c: memory.known_page(c, self.db.tables, bundle, subdir, after=after, counted=counted)
        )

    def knows_files(self, bundle: BundleKey, subdir: str) -> bool:
        """Tell whether anything is remembered of a subdir's files."""
        return self.db.read(lambda c: memory.knows_files(c, self.db.tables, bundle, subdir))

    def remembered(self, bundle: BundleKey, subdir: str) -> dict[str, FileOutcome]:
        """Return the remembered outcomes of a subdir's files, by path: what an unchanged file stands for."""
        return self.db.read(lambda c: memory.remembered(c, self.db.tables, bundle, subdir))

    def rollout(self, rollout_id: str) -> RolloutRow:
        """Return a rollout. Raises `NotFoundError`."""
        return self.db.read(lambda c: bundles.rollout(c, self.db.tables, rollout_id))

    def latest_rollout(self, bundle: BundleKey) -> RolloutRow | None:
        """Return a bundle's newest rollout; None when it has none or is not known."""
        return self.db.read(lambda c: bundles.latest_rollout(c, self.db.tables, bundle))

    def outcomes(self, rollout_id: str) -> tuple[RunOutcome, ...]:
        """Return what a rollout's current runs reported, by subdir; one of several shards is put together again.

        Every subdir of the rollout is there: one that nobody reported for did not close.
        """
        return self.db.read(lambda c: outcomes.outcomes(c, self.db.tables, rollout_id))

    def run_states(self, rollout_id: str) -> tuple[RunStateRow, ...]:
        """Return how far a rollout's current attempts are, by subdir and shard; empty when nobody reported yet."""
        return self.db.read(lambda c: outcomes.run_states(c, self.db.tables, rollout_id))

    def job(self, run_id: str) -> JobRow:
        """Return the Job that carries out a run. Raises `NotFoundError`."""
        return self.db.read(lambda c: jobs.job(c, self.db.tables, run_id))

    def jobs(self, rollout_id: str) -> tuple[JobRow, ...]:
        """Return a rollout's Jobs, by subdir."""
        return self.db.read(lambda c: jobs.jobs(c, self.db.tables, rollout_id))

    def bundles_known(self, *, of_clusters: bool = False) -> tuple[BundleKey, ...]:
        """Return every bundle that `DagStore.deactivate_bundle` would change something of, in the order of its name.

        One query, and one small value per bundle: for comparing with the DagBundles that a cluster has.

        Args:
            of_clusters: Only those whose newest rollout a controller started: where a cluster has no clusterName, what
                tells its bundles from those of a command line.
        """
        return self.db.read(lambda c: bundles.known(c, self.db.tables, of_clusters=of_clusters))

    def waiting_claims(self, dag_ids: Collection[str]) -> tuple[WaitingClaim, ...]:
        """Return who waits for these dag_ids, to be judged again when their owner lets go."""
        return self.db.read(lambda c: listing.waiting_claims(c, self.db.tables, dag_ids))

    def yielding(self, dag_ids: Collection[str]) -> frozenset[str]:
        """Return which of these live DAGs give way to another bundle that defines them. See `yielding`."""
        return self.db.read(lambda c: yielding.yielding(c, self.db.tables, dag_ids))

    def claimed(self) -> frozenset[str]:
        """Return every dag_id that somebody waits for."""
        return self.db.read(lambda c: frozenset(c.execute(sa.select(self.db.tables.claim.c.dag_id)).scalars()))

    # --- Lists ---

    def list_bundles(self, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[BundleRow]:
        """List bundles by (cluster, namespace, name)."""
        return self.db.read(lambda c: listing.list_bundles(c, self.db.tables, limit=limit, cursor=cursor))

    def list_dags(
        self, bundle: BundleKey | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[DagRow]:
        """List live DAGs by dag_id, of one bundle or all. Raises `NotFoundError` for an unknown bundle."""
        return self.db.read(lambda c: listing.list_dags(c, self.db.tables, bundle, limit=limit, cursor=cursor))

    def list_versions(
        self, dag_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[DagVersionRow]:
        """List a dag_id's definitions, the newest first, in whichever bundle. Raises `NotFoundError` where none was."""
        return self.db.read(lambda c: listing.list_versions(c, self.db.tables, dag_id, limit=limit, cursor=cursor))

    def list_errors(
        self, bundle: BundleKey | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[ImportErrorRow]:
        """List the import errors that are visible now, the longest standing first. Raises `NotFoundError`."""
        return self.db.read(lambda c: listing.list_errors(c, self.db.tables, bundle, limit=limit, cursor=cursor))

    def list_warnings(
        self, bundle: BundleKey | None = None, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[WarningRow]:
        """List the parse warnings that are visible now, the longest standing first. Raises `NotFoundError`."""
        return self.db.read(lambda c: listing.list_warnings(c, self.db.tables, bundle, limit=limit, cursor=cursor))

    def list_tasks(self, dag_id: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[TaskRow]:
        """List a live DAG's tasks by task_id. Raises `NotFoundError`."""
        return self.db.read(lambda c: listing.list_tasks(c, self.db.tables, dag_id, limit=limit, cursor=cursor))

    def history(
        self, bundle: BundleKey, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> Page[PublicationRow]:
        """List a bundle's revisions, the newest first. Raises `NotFoundError`."""
        return self.db.read(lambda c: listing.history(c, self.db.tables, bundle, limit=limit, cursor=cursor))

"""Passes: some files of a published rollout are parsed again, and amend it.

Somebody asked for these files, with Airflow's reparse button for instance. A pass is a rollout of its own that never
publishes: its Jobs, runs and reports are those of any rollout, and it supersedes nothing. When its runs have closed,
what they reported takes the place of what the amended rollout had staged for these files. That rollout is open again
then, with all its runs closed, so it is judged and published as a whole: guards, duplicates, claims and kept DAGs need
no rules for parts of a bundle. A newer rollout supersedes passes as it does rollouts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout import budgets
from dagbundle.rollout.model import BundleKey
from dagbundle.store import bulk, bundles, database, outcomes, staging, texts
from dagbundle.store.database import Database
from dagbundle.store.records import RolloutRow, RolloutState, RunState
from dagbundle.store.tables import REMEMBERED, AnyRow, Tables

AMENDED = "Amended"
"""The reason of a pass that ended well."""
MAX_FILES = 100
"""Files that are asked for at once; where more are, the whole bundle is parsed again."""


class Passes:
    """The passes of one database. Every method is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def start(self, bundle: BundleKey, base: str) -> RolloutRow | None:
        """Start a pass over the files of a bundle that are asked for, or find the one that is open.

        Args:
            bundle: Whose files.
            base: The rollout that it amends: the bundle's newest one, which is published.

        Returns:
            The pass. None where the rollout cannot be amended so, or knows one of the files no more: then the whole
            bundle is asked for instead.

        Raises:
            NotFoundError: No such bundle.
        """
        new = bundles.new_id()
        return self._db.write(lambda c: _start(c, self._db.tables, bundle, base, new))

    def amend(self, pass_id: str) -> None:
        """Let what a pass reported take the place of what its rollout had, which is open from then on.

        Raises:
            NotFoundError: No such pass.
            SupersededError: The bundle has a newer rollout, or is not as that rollout published it.
            RunOpenError: A run of it is not closed.
            ConflictError: The rollout would be over a bound, or a file was not parsed.
        """
        self._db.write(lambda c: _amend(c, self._db.tables, pass_id))

    def fail(self, pass_id: str, reason: str, message: str) -> None:
        """End a pass that changes nothing. Done again it changes nothing either."""
        self._db.write(lambda c: _end(c, self._db.tables, pass_id, reason, message))

    def give_up(self, pass_id: str, reason: str, message: str) -> None:
        """End a pass likewise, and ask for the whole bundle instead."""

        def work(connection: Connection) -> None:
            if _end(connection, self._db.tables, pass_id, reason, message):
                row = bundles.rollout(connection, self._db.tables, pass_id)
                owner = bundles.find(connection, self._db.tables, row.bundle)
                ask(connection, self._db.tables, owner, None)

        self._db.write(work)


def ask(connection: Connection, tables: Tables, owner: AnyRow, files: Collection[str] | None) -> None:
    """Keep that some files of a bundle, or the whole bundle, are to be parsed again."""
    table = tables.parse_request
    mine = table.c.bundle_id == owner.id
    row = None
    first = None if files is None or len(files) > MAX_FILES else sorted(files)
    while row is None:
        insert = bulk.dialect_insert(connection.dialect.name, table)
        fresh = insert.values(bundle_id=owner.id, requested_at=bundles.now(), files=first)
        added = connection.execute(fresh.on_conflict_do_nothing(), execution_options={"preserve_rowcount": True})
        if added.rowcount:
            break
        # locked, as by a pass that takes it: what is asked for meanwhile must not go with what that has taken
        row = connection.execute(sa.select(table.c.files).where(mine).with_for_update()).first()
    if row is not None:
        wanted = None if first is None or row.files is None else {*first, *row.files}
        kept = None if wanted is None or len(wanted) > MAX_FILES else sorted(wanted)
        connection.execute(sa.update(table).where(mine).values(requested_at=bundles.now(), files=kept))
    database.notify(connection, owner.rollout)


def _start(connection: Connection, tables: Tables, bundle: BundleKey, base: str, new: str) -> RolloutRow | None:
    owner = bundles.find(connection, tables, bundle, lock=True)
    table, request = tables.rollout, tables.parse_request
    others = connection.execute(
        sa.select(table.c.id).where(
            table.c.bundle_id == owner.id, table.c.state == RolloutState.OPEN, table.c.id != owner.rollout
        )
    ).scalars()
    for known in bundles.rollouts(connection, tables, others.all()).values():
        if known.is_pass:
            return known
    mine = request.c.bundle_id == owner.id
    asked = connection.execute(sa.select(request.c.files).where(mine).with_for_update()).scalar()
    if not asked:
        return None
    amended = bundles.rollout(connection, tables, base)
    found = _places(connection, tables, base, asked) if _is_live(owner, amended) else {}
    if set(asked) - {path for paths in found.values() for path in paths}:
        ask(connection, tables, owner, None)
        return None
    document = dataclasses.replace(amended.document, amends=base, files=found)
    bundles.insert_rollout(
        connection, tables, owner, new, version=amended.version, template_hash=amended.template_hash,
        subdirs=sorted(found), document=document,
    )  # fmt: skip
    connection.execute(sa.delete(request).where(mine))
    return bundles.rollout(connection, tables, new)


def _is_live(owner: AnyRow, base: RolloutRow) -> bool:
    """Whether a rollout is the bundle's newest one, and what it published is live."""
    live = (owner.rollout, owner.template_hash, owner.revision) == (base.id, base.template_hash, base.revision)
    return live and base.state is RolloutState.PUBLISHED


def _places(connection: Connection, tables: Tables, rollout: str, paths: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return which of these files a rollout has, by subdir."""
    run, submission = tables.parse_run, tables.submission
    rows = connection.execute(
        sa.select(run.c.subdir, submission.c.path)
        .join(run, run.c.id == submission.c.run)
        .where(
            run.c.rollout == rollout,
            run.c.state == RunState.CLOSED,
            bulk.is_in(connection, submission.c.path, paths),
        )
        .order_by(run.c.subdir, submission.c.path)
    ).all()
    found: dict[str, tuple[str, ...]] = {}
    for subdir, path in rows:
        found[subdir] = (*found.get(subdir, ()), path)
    return found


def _amend(connection: Connection, tables: Tables, pass_id: str) -> None:
    row = bundles.rollout(connection, tables, pass_id)
    owner = bundles.find(connection, tables, row.bundle, lock=True)
    row = bundles.rollout(connection, tables, pass_id, lock=True)
    if row.state is not RolloutState.OPEN:
        return  # this very call, whose answer was lost; or a newer rollout ended it
    base = bundles.rollout(connection, tables, row.document.amends, lock=True)
    if not _is_live(owner, base):
        raise errors.SupersededError(f"Bundle {row.bundle} is not as the rollout {base.id} published it any more")
    closed = outcomes.closed(connection, tables, pass_id)
    if missing := sorted(set(row.subdirs) - closed.keys()):
        raise errors.RunOpenError(f"The run of {missing[0]} is not closed: it can amend nothing")
    staging.hold_content(connection)
    before = _texts(connection, tables, base.id)
    for subdir, paths in row.document.files.items():
        run = tables.parse_run
        places = [
            sa.and_(run.c.rollout == rollout, run.c.subdir == subdir, run.c.state == RunState.CLOSED)
            for rollout in (pass_id, base.id)
        ]
        _replace(connection, tables, *places, paths=paths)
        if _keep_lookups(connection, tables, pass_id, base.id, subdir) > budgets.LOOKUPS:
            raise errors.ConflictError(
                f"With its passes, subdir {subdir} of bundle {row.bundle} has asked for more than {budgets.LOOKUPS:,} "
                "Variables and Connections"
            )
        memory = tables.source_file
        here = sa.and_(memory.c.bundle_id == owner.id, memory.c.subdir == subdir)
        connection.execute(sa.delete(memory).where(here, bulk.is_in(connection, memory.c.path, paths)))
    if _texts(connection, tables, base.id) > max(before, budgets.TEXT_BYTES):
        raise errors.ConflictError(
            f"With its passes, bundle {row.bundle} has more than {budgets.TEXT_BYTES:,} bytes of errors and warnings"
        )
    table = tables.rollout
    connection.execute(
        sa.update(table).where(table.c.id == base.id).values(state=RolloutState.OPEN, reason="", message="")
    )
    count = sum(map(len, row.document.files.values()))
    message = f"{count} {'file was' if count == 1 else 'files were'} parsed again"
    _end(connection, tables, pass_id, AMENDED, message)
    database.notify(connection, base.id)


def _replace(
    connection: Connection,
    tables: Tables,
    new: sa.ColumnElement[bool],
    old: sa.ColumnElement[bool],
    *,
    paths: Collection[str],
) -> None:
    """Let what a pass staged for some files take the place of what a rollout had, in whichever shard that was."""
    run, submission = tables.parse_run, tables.submission
    fresh = sa.select(run.c.id).where(new)
    wanted = sa.and_(submission.c.run.in_(fresh), bulk.is_in(connection, submission.c.path, paths))
    rows = connection.execute(sa.select(submission.c.path, submission.c.unchanged).where(wanted)).all()
    if skipped := [row.path for row in rows if row.unchanged]:
        raise errors.ConflictError(f"{skipped[0]} was to be parsed, and was reported as unchanged")
    reported = [row.path for row in rows]
    by_run: dict[str, list[str]] = {}
    for run_id, path in connection.execute(
        sa.select(submission.c.run, submission.c.path)
        .join(run, run.c.id == submission.c.run)
        .where(old, bulk.is_in(connection, submission.c.path, reported))
    ).all():
        by_run.setdefault(run_id, []).append(path)
    columns = [submission.c[name] for name in ("digest", "unchanged", *REMEMBERED)]
    for run_id, mine in by_run.items():
        among = bulk.is_in(connection, submission.c.path, mine)
        connection.execute(sa.delete(submission).where(submission.c.run == run_id, among))
        connection.execute(
            sa.insert(submission).from_select(
                ["run", "path", *(column.name for column in columns)],
                sa.select(sa.literal(run_id), submission.c.path, *columns).where(submission.c.run.in_(fresh), among),
            )
        )
        staging.count(connection, tables, run_id)


def _texts(connection: Connection, tables: Tables, rollout: str) -> int:
    """Return how much the errors and warnings of a rollout take: each pass is within the bound that they share."""
    run, submission = tables.parse_run, tables.submission
    total = connection.execute(
        sa.select(sa.func.sum(texts.size_of(submission.c.outcome)))
        .join(run, run.c.id == submission.c.run)
        .where(run.c.rollout == rollout, run.c.state == RunState.CLOSED)
    ).scalar()
    return int(total or 0)


def _keep_lookups(connection: Connection, tables: Tables, pass_id: str, base: str, subdir: str) -> int:
    """Keep what a pass asked for with its rollout's; of what both did the older digest, which other files saw.

    Returns:
        How many values the rollout's run has asked for now.
    """
    job, lookup = tables.job, tables.lookup
    names = {
        row.rollout: row.run_id
        for row in connection.execute(
            sa.select(job.c.rollout, job.c.run_id).where(job.c.rollout.in_([pass_id, base]), job.c.subdir == subdir)
        )
    }
    if names.keys() != {pass_id, base}:
        return 0
    there = lookup.alias()
    connection.execute(
        sa.insert(lookup).from_select(
            ["run_id", "kind", "key", "digest"],
            sa.select(sa.literal(names[base]), lookup.c.kind, lookup.c.key, lookup.c.digest).where(
                lookup.c.run_id == names[pass_id],
                ~sa.exists().where(
                    there.c.run_id == names[base], there.c.kind == lookup.c.kind, there.c.key == lookup.c.key
                ),
            ),
        )
    )
    counted = sa.select(sa.func.count()).select_from(lookup).where(lookup.c.run_id == names[base])
    return int(connection.execute(counted).scalar_one())


def _end(connection: Connection, tables: Tables, pass_id: str, reason: str, message: str) -> bool:
    state = RolloutState.PUBLISHED if reason == AMENDED else RolloutState.BLOCKED
    table = tables.rollout
    ended = connection.execute(
        sa.update(table)
        .where(table.c.id == pass_id, table.c.state == RolloutState.OPEN)
        .values(state=state, reason=reason, message=message, finished_at=bundles.now())
    ).rowcount
    database.notify(connection, pass_id)
    return bool(ended)

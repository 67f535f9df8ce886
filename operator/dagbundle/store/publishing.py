"""Publishing: one transaction that moves a bundle's pointers from one revision to the next, whole or not at all.

A publish, a rollback and a deactivation differ in where the next state comes from and share how it is written: `_write` is
given the full state to be and touches only the rows that differ from the one that is. The number of statements depends on
what kinds of things changed, never on how many.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey, Change, Changeset, Hold, Judgement, Verdict
from dagbundle.store import bulk, bundles, memory, staging, state
from dagbundle.store.records import PublicationKind, RolloutState, RunState
from dagbundle.store.state import Definition, Finding, Pin
from dagbundle.store.tables import Tables


@dataclass(frozen=True, slots=True)
class _Next:
    """The state that a revision makes live, in full."""

    kind: PublicationKind
    token: str
    version: str
    template_hash: str
    definitions: Mapping[str, Definition]
    pins: Mapping[str, Pin]
    errors: Collection[Finding]
    warnings: Collection[Finding]
    counts: Counter[str] = field(default_factory=Counter)
    rollout: str | None = None
    restored: int | None = None


def publish(
    connection: Connection, tables: Tables, rollout_id: str, changeset: Changeset, judgement: Judgement, token: str
) -> int:
    """See `DagStore.publish`. A call repeated with the same `token` finds what the first one did."""
    if judgement.verdict is not Verdict.PUBLISH:
        raise errors.StoreError(f"A changeset judged {judgement.reason} cannot be published: {judgement.message}")
    owner = bundles.find(connection, tables, changeset.bundle, lock=True)
    if owner.rollout != rollout_id:
        raise errors.ConflictError(
            f"Rollout {rollout_id} of bundle {changeset.bundle} was superseded by {owner.rollout}"
        )
    if owner.revision != changeset.base_revision:
        return _repeated_or_conflict(connection, tables, owner, changeset.base_revision, token)
    staging.hold_content(connection)
    rollout = bundles.rollout(connection, tables, rollout_id)
    _require_closed(connection, tables, rollout_id, judgement.subdirs)
    before = state.definitions(connection, tables, owner.id)
    pinned = state.pins(connection, tables, owner.id)
    places = memory.sources(connection, tables, rollout_id, judgement.subdirs)
    after = _definitions_after(connection, tables, before, judgement, places)
    settled = {*judgement.subdirs, *(item.subdir for item in judgement.problems)}
    step = _Next(
        kind=PublicationKind.PUBLISH,
        token=token,
        version=changeset.version,
        template_hash=changeset.template_hash,
        definitions=after,
        pins=_pins_after(after, judgement, pinned, before=owner.version, version=changeset.version),
        errors={
            *_standing(state.findings(connection, tables.import_error, owner.id), settled, rollout.subdirs),
            *(
                Finding(item.subdir, item.path, item.problem.kind, item.problem.message, item.problem.line)
                for item in judgement.problems
            ),
        },
        warnings={
            *_standing(
                state.findings(connection, tables.parse_warning, owner.id), set(judgement.subdirs), rollout.subdirs
            ),
            *memory.warnings(connection, tables, rollout_id, judgement.subdirs),
        },
        counts=Counter(change.change.value.lower() for change in judgement.changes),
        rollout=rollout_id,
    )
    revision = _write(connection, tables, owner, before, step, pinned=pinned)
    _write_claims(connection, tables, owner, rollout_id, judgement)
    memory.remember(connection, tables, owner.id, rollout, revision, judgement.subdirs)
    connection.execute(
        sa.update(tables.rollout)
        .where(tables.rollout.c.id == rollout_id)
        .values(
            state=RolloutState.PUBLISHED,
            reason=judgement.reason,
            message=judgement.message,
            revision=revision,
            finished_at=bundles.now(),
        )
    )
    return revision


def republish(
    connection: Connection,
    tables: Tables,
    bundle: BundleKey,
    *,
    to_revision: int,
    base_revision: int,
    hold: Hold | None,
    token: str,
) -> int:
    """See `DagStore.republish`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    if owner.revision != base_revision:
        return _repeated_or_conflict(connection, tables, owner, base_revision, token)
    staging.hold_content(connection)
    then = state.publication(connection, tables, owner, to_revision)
    before = state.definitions(connection, tables, owner.id)
    after = state.definitions(connection, tables, owner.id, to_revision)
    step = _Next(
        kind=PublicationKind.ROLLBACK,
        token=token,
        version=then.version,
        template_hash=then.template_hash,
        definitions=after,
        pins=state.pins(connection, tables, owner.id, to_revision),
        errors=state.findings(connection, tables.import_error, owner.id, to_revision),
        warnings=state.findings(connection, tables.parse_warning, owner.id, to_revision),
        counts=_compare(before, after),
        restored=to_revision,
    )
    revision = _write(connection, tables, owner, before, step)
    memory.forget_after(connection, tables, owner.id, to_revision)
    connection.execute(sa.delete(tables.claim).where(tables.claim.c.bundle_id == owner.id))
    if hold is not None:
        held = tables.hold
        connection.execute(
            sa.delete(held).where(held.c.bundle_id == owner.id, held.c.template_hash == hold.template_hash)
        )
        connection.execute(
            sa.insert(held).values(
                bundle_id=owner.id,
                template_hash=hold.template_hash,
                version=hold.version,
                reason=hold.reason,
                created_at=bundles.now(),
            )
        )
    return revision


def deactivate(
    connection: Connection, tables: Tables, bundle: BundleKey, dag_ids: Collection[str], token: str
) -> tuple[str, ...]:
    """Remove these DAGs, as far as they are the bundle's, as a revision of its own; return which those were."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    before = state.definitions(connection, tables, owner.id)
    after = {dag_id: item for dag_id, item in before.items() if dag_id not in dag_ids}
    pinned = state.pins(connection, tables, owner.id)
    step = _Next(
        kind=PublicationKind.DEACTIVATE,
        token=token,
        version=owner.version,
        template_hash=owner.template_hash,
        definitions=after,
        pins={dag_id: pin for dag_id, pin in pinned.items() if dag_id in after},
        errors=state.findings(connection, tables.import_error, owner.id),
        warnings=state.findings(connection, tables.parse_warning, owner.id),
        counts=_compare(before, after),
    )
    _write(connection, tables, owner, before, step, pinned=pinned)
    return tuple(sorted(before.keys() - after.keys()))


def resume(connection: Connection, tables: Tables, bundle: BundleKey) -> tuple[Hold, ...]:
    """See `DagStore.resume`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    found = state.holds(connection, tables, owner.id)
    connection.execute(sa.delete(tables.hold).where(tables.hold.c.bundle_id == owner.id))
    return found


# --- The next state -------------------------------------------------------------------------------------------------


def _repeated_or_conflict(
    connection: Connection, tables: Tables, owner: sa.Row[Any], base_revision: int, token: str
) -> int:
    """Return what this very call published when its commit's answer was lost; else say that somebody else did."""
    table = tables.publication
    done: int | None = connection.execute(sa.select(table.c.revision).where(table.c.token == token)).scalar()
    if done is not None:
        return done
    raise errors.ConflictError(
        f"Bundle {bundles.key_of(owner)} is at revision {owner.revision}, not {base_revision} any more: "
        "somebody else published first",
        hint="Judge again on what is live now",
    )


def _require_closed(connection: Connection, tables: Tables, rollout_id: str, subdirs: Iterable[str]) -> None:
    table = tables.parse_run
    closed = set(
        connection.execute(
            sa.select(table.c.subdir).where(table.c.rollout == rollout_id, table.c.state == RunState.CLOSED)
        ).scalars()
    )
    if missing := sorted(set(subdirs) - closed):
        raise errors.ConflictError(f"The run of {missing[0]} is not closed: its results cannot be published")


def _definitions_after(
    connection: Connection,
    tables: Tables,
    before: Mapping[str, Definition],
    judgement: Judgement,
    places: Mapping[tuple[str, str], Mapping[str, str]],
) -> dict[str, Definition]:
    """Apply the judged changes to what is live. What a change is called is for people; where it points is what counts."""
    after = dict(before)
    stored = {item.sha256: (item.content_id, item.relative_fileloc) for item in before.values()}
    wanted = {change.sha256 for change in judgement.changes if change.change is not Change.REMOVED}
    stored |= _contents(connection, tables, wanted - stored.keys())
    for change in judgement.changes:
        if change.change is Change.REMOVED:
            after.pop(change.dag_id, None)
        elif change.change is not Change.KEPT:
            if change.sha256 not in stored:
                raise errors.ConflictError(f"The content of DAG {change.dag_id} is not stored: it was never staged")
            content_id, fileloc = stored[change.sha256]
            texts = places.get((change.subdir, change.path), {})
            previous = before.get(change.dag_id)
            after[change.dag_id] = Definition(
                dag_id=change.dag_id,
                subdir=change.subdir,
                path=change.path,
                content_id=content_id,
                sha256=change.sha256,
                relative_fileloc=fileloc,
                source=texts.get(fileloc) or texts.get(change.path),
                number=previous.number if previous else 0,
            )
    return after


def _contents(connection: Connection, tables: Tables, wanted: Collection[str]) -> dict[str, tuple[int, str]]:
    if not wanted:
        return {}
    table = tables.dag_content
    rows = connection.execute(
        sa.select(table.c.sha256, table.c.id, table.c.relative_fileloc).where(
            bulk.is_in(connection, table.c.sha256, wanted)
        )
    )
    return {row.sha256: (row.id, row.relative_fileloc) for row in rows}


def _pins_after(
    after: Mapping[str, Definition], judgement: Judgement, pinned: Mapping[str, Pin], *, before: str, version: str
) -> dict[str, Pin]:
    """Pin what keeps running older code: kept DAGs, and all that this publish does not speak of."""
    spoken = {change.dag_id: change.change for change in judgement.changes}
    pins = {}
    for dag_id in after:
        change = spoken.get(dag_id)
        old = pinned.get(dag_id)
        if change is Change.KEPT:
            pins[dag_id] = Pin(old.bundle_version if old else before, kept=True)
        elif change is None and (old or before != version):
            pin = old or Pin(before, kept=False)
            if pin.kept or pin.bundle_version != version:
                pins[dag_id] = pin
    return pins


def _standing(found: Iterable[Finding], settled: Collection[str], subdirs: Collection[str]) -> list[Finding]:
    """Keep what a publish says nothing about: findings in subdirs that still exist and whose results it does not hold."""
    return [item for item in found if item.subdir not in settled and item.subdir in subdirs]


def _compare(before: Mapping[str, Definition], after: Mapping[str, Definition]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for dag_id in before.keys() | after.keys():
        old, new = before.get(dag_id), after.get(dag_id)
        if old is None or new is None:
            counts["removed" if new is None else "added"] += 1
        elif old.place == new.place:
            counts["unchanged"] += 1
        else:
            counts["moved" if (old.subdir, old.path) != (new.subdir, new.path) else "changed"] += 1
    return counts


# --- Writing it -----------------------------------------------------------------------------------------------------


def _write(
    connection: Connection,
    tables: Tables,
    owner: sa.Row[Any],
    before: Mapping[str, Definition],
    step: _Next,
    *,
    pinned: Mapping[str, Pin] | None = None,
) -> int:
    """Make the next state live and return its revision, or the present one when it is the same state already."""
    if pinned is None:
        pinned = state.pins(connection, tables, owner.id)
    known_errors = state.findings(connection, tables.import_error, owner.id)
    known_warnings = state.findings(connection, tables.parse_warning, owner.id)
    same_places = before.keys() == step.definitions.keys() and all(
        item.place == before[dag_id].place for dag_id, item in step.definitions.items()
    )
    is_same = (
        same_places
        and pinned == step.pins
        and (owner.version, owner.template_hash) == (step.version, step.template_hash)
        and known_errors.keys() == set(step.errors)
        and known_warnings.keys() == set(step.warnings)
    )
    if is_same and owner.revision and step.kind is not PublicationKind.ROLLBACK:
        return int(owner.revision)
    revision = int(owner.revision) + 1
    _move_pointers(connection, tables, owner, before, step.definitions, revision)
    _move_pins(connection, tables, owner.id, pinned, step.pins, revision)
    _move_findings(connection, tables.import_error, owner.id, known_errors, step.errors, revision)
    _move_findings(connection, tables.parse_warning, owner.id, known_warnings, step.warnings, revision)
    connection.execute(
        sa.insert(tables.publication).values(
            bundle_id=owner.id,
            revision=revision,
            token=step.token,
            kind=step.kind,
            rollout=step.rollout,
            restored=step.restored,
            version=step.version,
            template_hash=step.template_hash,
            counts={**step.counts, "importErrors": len(step.errors)},
            created_at=bundles.now(),
        )
    )
    connection.execute(
        sa.update(tables.bundle)
        .where(tables.bundle.c.id == owner.id, tables.bundle.c.revision == owner.revision)
        .values(revision=revision, version=step.version, template_hash=step.template_hash)
    )
    return revision


def _move_pointers(
    connection: Connection,
    tables: Tables,
    owner: sa.Row[Any],
    before: Mapping[str, Definition],
    after: Mapping[str, Definition],
    revision: int,
) -> None:
    """Write the difference between two sets of definitions: release first, then claim, so that a dag_id can move."""
    removed = sorted(before.keys() - after.keys())
    added = [after[dag_id] for dag_id in sorted(after.keys() - before.keys())]
    common = [(before[dag_id], after[dag_id]) for dag_id in sorted(before.keys() & after.keys())]
    changed = [dataclasses.replace(new, number=old.number + 1) for old, new in common if old.place != new.place]
    dag, version = tables.dag, tables.dag_version
    if removed:
        connection.execute(
            sa.delete(dag).where(dag.c.bundle_id == owner.id, bulk.is_in(connection, dag.c.dag_id, removed))
        )
    ended = [*removed, *(item.dag_id for item in changed)]
    if ended:
        connection.execute(
            sa.update(version)
            .where(
                version.c.bundle_id == owner.id,
                version.c.to_revision.is_(None),
                bulk.is_in(connection, version.c.dag_id, ended),
            )
            .values(to_revision=revision)
        )
    bulk.update(
        connection,
        dag,
        ("dag_id",),
        ("subdir", "path", "content_id", "number", "source"),
        [(item.dag_id, item.subdir, item.path, item.content_id, item.number, item.source) for item in changed],
    )
    bulk.update(  # the same DAG in an edited file: only what is shown as its source follows
        connection,
        dag,
        ("dag_id",),
        ("source",),
        [(new.dag_id, new.source) for old, new in common if old.place == new.place and old.source != new.source],
    )
    numbers = {item.dag_id: item.number for item in changed} | _fresh_numbers(connection, tables, added)
    claimed = bulk.insert_missing(
        connection,
        dag,
        ("dag_id", "bundle_id", "subdir", "path", "content_id", "number", "source"),
        [
            (item.dag_id, owner.id, item.subdir, item.path, item.content_id, numbers[item.dag_id], item.source)
            for item in added
        ],
    )
    if claimed != len(added):
        _refuse_owned(connection, tables, owner, [item.dag_id for item in added])
    bulk.insert(
        connection,
        version,
        ("dag_id", "number", "bundle_id", "subdir", "path", "content_id", "source", "from_revision"),
        [
            (
                item.dag_id,
                numbers[item.dag_id],
                owner.id,
                item.subdir,
                item.path,
                item.content_id,
                item.source,
                revision,
            )
            for item in (*changed, *added)
        ],
    )


def _fresh_numbers(connection: Connection, tables: Tables, added: Collection[Definition]) -> dict[str, int]:
    """Number the DAGs that were not live: a dag_id that comes back counts on."""
    if not added:
        return {}
    table = tables.dag_version
    ids = [item.dag_id for item in added]
    rows = connection.execute(
        sa.select(table.c.dag_id, sa.func.max(table.c.number))
        .where(bulk.is_in(connection, table.c.dag_id, ids))
        .group_by(table.c.dag_id)
    )
    return dict.fromkeys(ids, 1) | {row[0]: row[1] + 1 for row in rows}


def _refuse_owned(connection: Connection, tables: Tables, owner: sa.Row[Any], dag_ids: Collection[str]) -> None:
    """Say who owns the dag_ids that the primary key refused."""
    found = state.owners(connection, tables, bulk.is_in(connection, tables.dag.c.dag_id, dag_ids))
    key = bundles.key_of(owner)
    names = [f"{dag_id} belongs to bundle {other}" for dag_id, other in sorted(found.items()) if other != key]
    shown = "; ".join(names[:10]) + (f"; and {len(names) - 10} more" if len(names) > 10 else "")
    raise errors.OwnershipError(
        f"Bundle {key} cannot publish: {shown or 'a dag_id was claimed by another bundle at the same time'}",
        hint="Rename the DAG, or remove it from the other bundle first",
    )


def _move_pins(
    connection: Connection,
    tables: Tables,
    bundle_id: int,
    before: Mapping[str, Pin],
    after: Mapping[str, Pin],
    revision: int,
) -> None:
    table = tables.pin
    ended = [dag_id for dag_id, pin in before.items() if after.get(dag_id) != pin]
    if ended:
        connection.execute(
            sa.update(table)
            .where(
                table.c.bundle_id == bundle_id,
                table.c.to_revision.is_(None),
                bulk.is_in(connection, table.c.dag_id, ended),
            )
            .values(to_revision=revision)
        )
    bulk.insert(
        connection,
        table,
        ("dag_id", "bundle_id", "from_revision", "bundle_version", "kept"),
        [
            (dag_id, bundle_id, revision, pin.bundle_version, pin.kept)
            for dag_id, pin in after.items()
            if before.get(dag_id) != pin
        ],
    )


def _move_findings(
    connection: Connection,
    table: sa.Table,
    bundle_id: int,
    before: Mapping[Finding, int],
    after: Collection[Finding],
    revision: int,
) -> None:
    """End what is gone and add what is new; what stays keeps its row, and so since when it is known."""
    wanted = set(after)
    ended = [number for finding, number in before.items() if finding not in wanted]
    bulk.update(connection, table, ("id",), ("to_revision",), [(number, revision) for number in ended])
    bulk.insert(
        connection,
        table,
        ("bundle_id", "subdir", "path", "kind", "message", "line", "from_revision"),
        [
            (bundle_id, item.subdir, item.path, item.kind, item.message, item.line, revision)
            for item in sorted(wanted - before.keys(), key=lambda item: (item.subdir, item.path, item.line or 0))
        ],
    )


def _write_claims(
    connection: Connection, tables: Tables, owner: sa.Row[Any], rollout_id: str, judgement: Judgement
) -> None:
    """Replace the bundle's claims; they are no part of what is live, so they make no revision."""
    table = tables.claim
    wanted = sorted({(item.dag_id, item.subdir, item.path, rollout_id) for item in judgement.claims})
    rows = connection.execute(
        sa.select(table.c.dag_id, table.c.subdir, table.c.path, table.c.rollout).where(table.c.bundle_id == owner.id)
    )
    if sorted(tuple(row) for row in rows) != wanted:
        connection.execute(sa.delete(table).where(table.c.bundle_id == owner.id))
        bulk.insert_missing(
            connection,
            table,
            ("bundle_id", "dag_id", "subdir", "path", "rollout"),
            [(owner.id, *item) for item in wanted],
        )

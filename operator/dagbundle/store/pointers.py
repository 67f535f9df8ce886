"""Moving pointers: the difference between the state that is live and the one to be, in a fixed number of statements.

Only rows that differ are touched: an unchanged DAG, a standing error and a pin that stays cost nothing. The number of
statements depends on what kinds of things changed, never on how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import Claim, Json
from dagbundle.store import assets, bulk, bundles, following, state
from dagbundle.store.following import LiveChange
from dagbundle.store.records import PublicationKind
from dagbundle.store.state import Definition, Finding, Pin, Present
from dagbundle.store.tables import AnyRow, Tables
from dagbundle.store.target import Origin, Target

_SHOWN = 10
"""How many refused dag_ids a message names."""


@dataclass(frozen=True, slots=True)
class Next:
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
    heads: Sequence[AnyRow] = ()
    """Of contents that were not live before (`reading.heads`), where a target will want them."""
    origin: Origin | None = None
    """What parsed it, where whoever publishes has that at hand."""
    durations: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that each file took to parse, by (subdir, path)."""


def write(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    now: Present,
    step: Next,
    *,
    target: Target | None = None,
) -> int:
    """Make the next state live and return its revision, or the present one when it is the same state already."""
    before = now.definitions
    same_places = before.keys() == step.definitions.keys() and all(
        item is before[dag_id] or item.place == before[dag_id].place for dag_id, item in step.definitions.items()
    )
    is_same = (
        same_places
        and now.pins == step.pins
        and (owner.version, owner.template_hash) == (step.version, step.template_hash)
        and now.errors.keys() == set(step.errors)
        and now.warnings.keys() == set(step.warnings)
    )
    stays = is_same and owner.revision and step.kind is not PublicationKind.ROLLBACK
    if stays and not following.is_behind(connection, tables, target, owner):
        return int(owner.revision)
    revision = int(owner.revision) + (0 if stays else 1)
    restated: Mapping[str, Json] = {}
    if not stays:
        _move_pointers(connection, tables, owner, before, step.definitions, revision=revision)
        enforce = target is not None and target.owns_assets
        restated = assets.settle(connection, tables, owner, before, step.definitions, enforce=enforce)
        _move_pins(connection, tables, owner.id, now.pins, step.pins, revision=revision)
        _move_findings(connection, tables.import_error, owner.id, now.errors, step.errors, revision=revision)
        _move_findings(connection, tables.parse_warning, owner.id, now.warnings, step.warnings, revision=revision)
        _publication(connection, tables, owner, step, revision)
    change = LiveChange(
        revision,
        step.version,
        before=before,
        after=step.definitions,
        pins=step.pins,
        errors=step.errors,
        heads=step.heads,
        origin=step.origin,
        durations=step.durations,
        restated=restated,
    )
    following.mirror(connection, tables, target, owner, change)
    return revision


def _publication(connection: Connection, tables: Tables, owner: AnyRow, step: Next, revision: int) -> None:
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


def _move_pointers(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    before: Mapping[str, Definition],
    after: Mapping[str, Definition],
    *,
    revision: int,
) -> None:
    """Write the difference between two sets of definitions: release first, then claim, so that a dag_id can move."""
    removed = sorted(before.keys() - after.keys())
    added = [after[dag_id] for dag_id in sorted(after.keys() - before.keys())]
    differing = sorted(dag_id for dag_id, item in after.items() if item is not before.get(dag_id, item))
    common = [(before[dag_id], after[dag_id]) for dag_id in differing]
    changed = [new._replace(number=old.number + 1) for old, new in common if old.place != new.place]
    _release(connection, tables, owner, removed, [item.dag_id for item in changed], revision=revision)
    dag = tables.dag
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
    numbers = _fresh_numbers(connection, tables, added)
    fresh = [item._replace(number=numbers[item.dag_id]) for item in added]
    _claim(connection, tables, owner, fresh)
    bulk.insert(
        connection,
        tables.dag_version,
        ("dag_id", "number", "bundle_id", "subdir", "path", "content_id", "source", "from_revision"),
        [
            (item.dag_id, item.number, owner.id, item.subdir, item.path, item.content_id, item.source, revision)
            for item in (*changed, *fresh)
        ],
    )


def _release(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    removed: Collection[str],
    changed: Collection[str],
    *,
    revision: int,
) -> None:
    """Let go of the dag_ids that are removed, and end the versions of these and of the changed ones."""
    dag, version = tables.dag, tables.dag_version
    if removed:
        connection.execute(
            sa.delete(dag).where(dag.c.bundle_id == owner.id, bulk.is_in(connection, dag.c.dag_id, removed))
        )
    if ended := [*removed, *changed]:
        connection.execute(
            sa.update(version)
            .where(
                version.c.bundle_id == owner.id,
                version.c.to_revision.is_(None),
                bulk.is_in(connection, version.c.dag_id, ended),
            )
            .values(to_revision=revision)
        )


def _claim(connection: Connection, tables: Tables, owner: AnyRow, added: Collection[Definition]) -> None:
    """Make DAGs live that were not. Raises `OwnershipError` where another bundle has a dag_id."""
    claimed = bulk.insert_missing(
        connection,
        tables.dag,
        ("dag_id", "bundle_id", "subdir", "path", "content_id", "number", "source"),
        [(item.dag_id, owner.id, item.subdir, item.path, item.content_id, item.number, item.source) for item in added],
    )
    if claimed != len(added):
        _refuse_owned(connection, tables, owner, [item.dag_id for item in added])


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


def _refuse_owned(connection: Connection, tables: Tables, owner: AnyRow, dag_ids: Collection[str]) -> None:
    """Say who owns the dag_ids that the primary key refused."""
    found = state.owners(connection, tables, bulk.is_in(connection, tables.dag.c.dag_id, dag_ids))
    key = bundles.key_of(owner)
    names = [f"{dag_id} belongs to bundle {other}" for dag_id, other in sorted(found.items()) if other != key]
    more = f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = "; ".join(names[:_SHOWN]) + more
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
    *,
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
    *,
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


def write_claims(
    connection: Connection,
    tables: Tables,
    owner: AnyRow,
    rollout_id: str,
    claims: Collection[Claim],
    *,
    before: AbstractSet[tuple[str, str, str, str]],
) -> None:
    """Replace the bundle's claims; they are no part of what is live, so they make no revision."""
    table = tables.claim
    wanted = {(item.subject, item.subdir, item.path, rollout_id) for item in claims}
    if wanted != before:
        connection.execute(sa.delete(table).where(table.c.bundle_id == owner.id))
        bulk.insert_missing(
            connection,
            table,
            ("bundle_id", "dag_id", "subdir", "path", "rollout"),
            [(owner.id, *item) for item in sorted(wanted)],
        )


def compare(before: Mapping[str, Definition], after: Mapping[str, Definition]) -> Counter[str]:
    """Count what became of DAGs between two states."""
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

"""Publishing: one transaction that takes a bundle from one revision to the next, whole or not at all.

A publish, a rollback and a deactivation differ in where the next state comes from, which is decided here, and share how
it is written (`pointers`). The compare-and-swap on the bundle's revision is made under a lock on the bundle's row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.rollout.model import BundleKey, Change, Changeset, Claim, DagChange, Hold, Judgement, Verdict
from dagbundle.store import (
    bulk,
    bundles,
    database,
    deactivating,
    memory,
    outcomes,
    pointers,
    reading,
    staging,
    state,
)
from dagbundle.store.pointers import Next
from dagbundle.store.records import PublicationKind, RolloutRow
from dagbundle.store.state import Definition, Finding, Pin
from dagbundle.store.tables import AnyRow, Tables
from dagbundle.store.target import Origin, Target


def publish(
    connection: Connection,
    tables: Tables,
    rollout_id: str,
    changeset: Changeset,
    judgement: Judgement,
    *,
    token: str,
    basis: object = None,
    target: Target | None = None,
) -> int:
    """See `DagStore.publish`. A call repeated with the same `token` finds what the first one did."""
    if judgement.verdict is not Verdict.PUBLISH:
        raise errors.StoreError(f"A changeset judged {judgement.reason} cannot be published: {judgement.message}")
    givers = deactivating.lock_givers(connection, tables, changeset.bundle, judgement.taken)
    owner = bundles.find(connection, tables, changeset.bundle, lock=True)
    if (owner.rollout, owner.revision) != (rollout_id, changeset.base_revision):
        done = state.published_as(connection, tables, token)
        if done is not None:
            return done
        raise _overtaken(owner, rollout_id, changeset)
    staging.hold_content(connection)
    deactivating.take(connection, tables, judgement.taken, givers, token=token, target=target)
    rollout = bundles.rollout(connection, tables, rollout_id, lock=True)
    now = state.present(connection, tables, owner, basis)
    step = _next(
        connection, tables, now, rollout, changeset=changeset, judgement=judgement, token=token, before=owner.version,
        target=target,
    )  # fmt: skip
    revision = pointers.write(connection, tables, owner, now, step, target=target)
    pointers.write_claims(connection, tables, owner, rollout_id, judgement.claims, before=now.claims)
    if now.basis.held:  # one version until another one comes, and this is another one: the judge blocks held ones
        connection.execute(sa.delete(tables.hold).where(tables.hold.c.bundle_id == owner.id))
    memory.remember(connection, tables, owner.id, rollout, revision=revision, subdirs=judgement.subdirs)
    bundles.published(connection, tables, rollout_id, judgement, revision)
    return revision


def _overtaken(owner: AnyRow, rollout_id: str, changeset: Changeset) -> errors.ConflictError:
    """Say what came first: a newer rollout, or another publication of this one."""
    if owner.rollout != rollout_id:
        return errors.SupersededError(
            f"Rollout {rollout_id} of bundle {changeset.bundle} was superseded by {owner.rollout or 'its deletion'}"
        )
    return _published_by_another(owner, changeset.base_revision)


def _next(
    connection: Connection,
    tables: Tables,
    now: state.Present,
    rollout: RolloutRow,
    *,
    changeset: Changeset,
    judgement: Judgement,
    token: str,
    before: str,
    target: Target | None,
) -> Next:
    """Return the state that a judgement makes live."""
    closed = outcomes.closed(connection, tables, rollout.id)
    if missing := sorted(set(judgement.subdirs) - closed.keys()):
        raise errors.RunOpenError(f"The run of {missing[0]} is not closed: its results cannot be published")
    unchanged = Change.UNCHANGED
    moved = {change.path for change in judgement.changes if change.change is not unchanged}
    places, warnings = memory.staged(connection, tables, rollout.id, judgement.subdirs, moved)
    after, heads = _definitions_after(connection, tables, now.definitions, judgement, places, target=target)
    settled = {*judgement.subdirs, *(item.subdir for item in judgement.problems)}
    there = {*rollout.subdirs, *(item.subdir for item in after.values())}  # DAGs may outlive their subdir's name
    found = {
        Finding(item.subdir, item.path, item.problem.kind, item.problem.message, item.problem.line)
        for item in judgement.problems
    }
    return Next(
        kind=PublicationKind.PUBLISH,
        token=token,
        version=changeset.version,
        template_hash=changeset.template_hash,
        definitions=after,
        pins=_pins_after(after, judgement, now.pins, before=before, version=changeset.version),
        errors={*_standing(now.errors, settled, there), *found},
        warnings={*_standing(now.warnings, set(judgement.subdirs), there), *warnings},
        counts=_counted(judgement),
        rollout=rollout.id,
        heads=heads if target else (),
        origin=Origin(rollout.document, {subdir: version for subdir, version in closed.items() if version}),
        durations={
            (run.subdir, file.path): file.duration for run in changeset.runs for file in run.files if not file.unchanged
        },
    )


def block(
    connection: Connection, tables: Tables, rollout_id: str, reason: str, message: str, *, claims: Collection[Claim]
) -> None:
    """See `DagStore.block`."""
    blocked = bundles.block(connection, tables, rollout_id, reason, message)
    owner = bundles.find(connection, tables, blocked.bundle, lock=True)
    before = state.claims(connection, tables, owner.id)
    pointers.write_claims(connection, tables, owner, rollout_id, claims, before=before)


def republish(
    connection: Connection,
    tables: Tables,
    bundle: BundleKey,
    *,
    to_revision: int,
    base_revision: int,
    hold: Hold | None,
    token: str,
    target: Target | None = None,
) -> int:
    """See `DagStore.republish`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    if owner.revision != base_revision:
        done = state.published_as(connection, tables, token)
        if done is not None:
            return done
        raise _published_by_another(owner, base_revision)
    staging.hold_content(connection)
    then = state.publication(connection, tables, owner, to_revision)
    now = state.present(connection, tables, owner)
    after = state.definitions(connection, tables, owner.id, to_revision)
    step = Next(
        kind=PublicationKind.ROLLBACK,
        token=token,
        version=then.version,
        template_hash=then.template_hash,
        definitions=after,
        pins=state.pins(connection, tables, owner.id, to_revision),
        errors=state.findings(connection, tables.import_error, owner.id, to_revision),
        warnings=state.findings(connection, tables.parse_warning, owner.id, to_revision),
        counts=pointers.compare(now.definitions, after),
        restored=to_revision,
    )
    revision = pointers.write(connection, tables, owner, now, step, target=target)
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
    database.notify(connection, owner.rollout)
    return revision


def resume(connection: Connection, tables: Tables, bundle: BundleKey) -> tuple[Hold, ...]:
    """See `DagStore.resume`."""
    owner = bundles.find(connection, tables, bundle, lock=True)
    found = state.holds(connection, tables, owner.id)
    connection.execute(sa.delete(tables.hold).where(tables.hold.c.bundle_id == owner.id))
    database.notify(connection, owner.rollout)
    return found


# --- The next state -------------------------------------------------------------------------------------------------


def _published_by_another(owner: AnyRow, base_revision: int) -> errors.ConflictError:
    return errors.ConflictError(
        f"Bundle {bundles.key_of(owner)} is at revision {owner.revision}, not {base_revision} any more: "
        "somebody else published first",
        hint="Judge again on what is live now",
    )


def _speaking(judgement: Judgement, places: memory.Sources) -> list[DagChange]:
    """Return the changes that say where a DAG's definition is, or that it is gone."""
    unchanged, kept = Change.UNCHANGED, Change.KEPT
    return [
        change
        for change in judgement.changes
        if change.change is not kept
        # where a file was not parsed, the source of its DAGs is the same as well
        and (change.change is not unchanged or (change.subdir, change.path) in places)
    ]


def _definitions_after(
    connection: Connection,
    tables: Tables,
    before: Mapping[str, Definition],
    judgement: Judgement,
    places: memory.Sources,
    *,
    target: Target | None,
) -> tuple[dict[str, Definition], Sequence[AnyRow]]:
    """Apply the judged changes to what is live. Their names are for people; where they point is what counts.

    Returns:
        What is live then, and the heads of the contents that were not live in the bundle before.
    """
    changes = _speaking(judgement, places)
    wanted = {change.sha256 for change in changes if change.change is not Change.REMOVED}
    stored = {
        item.sha256: (item.content_id, item.relative_fileloc) for item in before.values() if item.sha256 in wanted
    }
    heads = _heads(connection, tables, wanted - stored.keys(), target)
    stored |= {row.sha256: (row.id, row.relative_fileloc) for row in heads}
    after = dict(before)
    for change in changes:
        if change.change is Change.REMOVED:
            after.pop(change.dag_id, None)
            continue
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
    return after, heads


def _heads(connection: Connection, tables: Tables, wanted: Collection[str], target: Target | None) -> Sequence[AnyRow]:
    """Return where contents are, and all else of their `reading.heads` where a target will want it."""
    if not wanted:
        return ()
    if target is not None:
        return reading.heads(connection, tables, wanted)
    table = tables.dag_content.c
    columns = (table.id, table.sha256, table.relative_fileloc)
    return connection.execute(sa.select(*columns).where(bulk.is_in(connection, table.sha256, wanted))).all()


def _pins_after(
    after: Mapping[str, Definition], judgement: Judgement, pinned: Mapping[str, Pin], *, before: str, version: str
) -> dict[str, Pin]:
    """Pin what keeps running older code: kept DAGs, and all that this publish does not speak of."""
    pins = {}
    kept = Change.KEPT
    for change in judgement.changes:
        if change.change is kept and change.dag_id in after:
            old = pinned.get(change.dag_id)
            pins[change.dag_id] = Pin(old.bundle_version if old else before, kept=True)
    for dag_id in after.keys() - {change.dag_id for change in judgement.changes}:
        pin = pinned.get(dag_id) or Pin(before, kept=False)
        if pin.kept or pin.bundle_version != version:
            pins[dag_id] = pin
    return pins


def _standing(found: Iterable[Finding], settled: Collection[str], subdirs: Collection[str]) -> list[Finding]:
    """Keep what a publish says nothing about: findings in subdirs that exist but whose results it does not hold."""
    return [item for item in found if item.subdir not in settled and item.subdir in subdirs]


def _counted(judgement: Judgement) -> Counter[str]:
    counts = Counter([change.change for change in judgement.changes])
    return Counter({change.value.lower(): count for change, count in counts.items()})

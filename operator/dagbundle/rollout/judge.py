"""Judges a changeset: state in, judgement out. The one place that decides what a publish adds, keeps and removes.

The rules, each held by a test in tests/unit/rollout:

* A file is the unit: one with any problem is broken as a whole, and `onImportError` says what becomes of its DAGs.
* A dag_id has one place. Of two parsed files that define it, the one where it is live wins, else the first by path,
  Python before YAML. A file that gets none of its dag_ids is broken; one that gets some is published without the
  others, and the message names them. A parsed file beats a kept one, so a DAG that moves out of a broken file moves.
* A dag_id of another bundle is that bundle's; this file is broken and waits (a claim), unless the other one gives way.
* What was live in the scope and is neither parsed nor kept is removed. A run that did not close removes nothing, an
  empty listing where DAGs were is refused, and the guards bound the rest.
* With scope Bundle one subdir's failure blocks everything; with scope Subdir it leaves that subdir as it was. While a
  run did not close, DAGs of subdirs that left the spec stay, unless they move: the spec may misspell such a subdir.

Nothing here does I/O, so every rule is a table of values.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dagbundle.rollout import duplicates, guards, wording
from dagbundle.rollout import policy as policies
from dagbundle.rollout.guards import Blocked
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Changeset,
    Claim,
    DagChange,
    FileOutcome,
    FileProblem,
    Judgement,
    Live,
    ParsedDag,
    Problem,
    Verdict,
    short_version,
)

_dag_id = operator.attrgetter("dag_id")
Place = tuple[str, str]
"""(subdir, path)."""


class _Definition(NamedTuple):
    subdir: str
    path: str
    dag: ParsedDag


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a publish of some subdirs would do."""

    changes: tuple[DagChange, ...]
    problems: tuple[FileProblem, ...]
    claims: tuple[Claim, ...]
    twice: Collection[duplicates.Twice] = ()


def judge(
    changeset: Changeset,
    *,
    live: Live,
    owners: Mapping[str, BundleKey],
    policy: policies.Policy,
    yielding: Collection[str] = (),
    is_dry_run: bool = False,
) -> Judgement:
    """Judge a changeset against what is live.

    Args:
        changeset: What was parsed: a rollout, so DAGs of subdirs that it does not name are gone from the bundle.
        live: The bundle as it is published now.
        owners: Live owner of each dag_id that the changeset defines, where there is one (this bundle included).
        policy: The spec's policy, narrowed by the grant.
        yielding: dag_ids of other bundles' that give way: DAGs that are kept only while their file waits.
        is_dry_run: Nothing will be published: the message says what would be.

    Returns:
        A judgement. `changes` is complete for the published scope (unchanged DAGs included) and sorted by dag_id; in
        one that blocks it says what a publish would have done, as far as that is known.
    """
    for hold in live.holds:
        if hold.template_hash == changeset.template_hash:
            return _block("Held", wording.held(live, hold))
    named = {run.subdir for run in changeset.runs}
    gone = {dag.subdir for dag in live.dags.values()} - named
    staying = gone if policy.scope == "Subdir" and any(not run.closed for run in changeset.runs) else frozenset()
    note = f"; DAGs of subdirs that left the spec ({wording.names(staying)}) stay until it does" if staying else ""
    blocked = {
        run.subdir: Blocked("RunFailed", f"the run of subdir {run.subdir} did not finish: {run.failure}{note}")
        for run in changeset.runs
        if not run.closed
    }
    owners = {dag_id: owner for dag_id, owner in owners.items() if dag_id not in yielding} if yielding else owners
    draft = _Draft((), (), ())
    while True:
        if blocked and policy.scope == "Bundle":
            return _block_all(blocked, draft)
        scope = (named | gone) - set(blocked)
        draft = _draft(changeset, live, owners, policy, scope, staying=staying)
        found = guards.failures(changeset.runs, draft.changes, draft.problems, live=live, policy=policy, scope=scope)
        if not found:
            break
        blocked |= found
    if blocked and not scope & named:
        return _block_all(blocked, draft)
    judgement = _verdict(changeset, draft, policy, scope, blocked, is_dry_run=is_dry_run)
    if not yielding:
        return judgement
    taken = tuple(change.dag_id for change in draft.changes if change.dag_id in yielding)
    return dataclasses.replace(judgement, taken=taken)


def _draft(
    changeset: Changeset,
    live: Live,
    owners: Mapping[str, BundleKey],
    policy: policies.Policy,
    scope: Collection[str],
    *,
    staying: Collection[str],
) -> _Draft:
    """Work out what publishing `scope` would do, before the guards look at it."""
    files = {(run.subdir, file.path): file for run in changeset.runs if run.subdir in scope for file in run.files}
    broken: dict[Place, list[Problem]] = {}
    claims: list[Claim] = []
    mine = changeset.bundle
    is_restricted = bool(policy.prefixes or policy.granted_prefixes)
    for (subdir, path), file in files.items():
        problems = list(file.problems)
        if is_restricted or len(file.dags) > 1:  # most files of most bundles, of which there are many, need no look
            problems += _refused(file, subdir, policy)
        for dag in file.dags:
            owner = owners.get(dag.dag_id, mine)
            if owner is not mine and owner != mine:
                claims.append(Claim(dag.dag_id, subdir, path, owner))
                problems.append(_owned(dag.dag_id, owner, mine))
            elif (current := live.dags.get(dag.dag_id)) is not None and current.subdir not in scope:
                problems.append(
                    Problem(
                        "DagIdHeldBySubdir",
                        f"dag_id {dag.dag_id!r} is live in subdir {current.subdir}, whose run is not published now: "
                        "it moves once that subdir publishes without it",
                    )
                )
        if problems:
            broken[subdir, path] = problems
    definitions, twice = settle(files, broken, live)
    changes = [*_defined(definitions, live), *_undefined(definitions, broken, live, policy, {*scope} - {*staying})]
    return _Draft(
        changes=tuple(sorted(changes, key=_dag_id)),
        problems=tuple(
            FileProblem(subdir, path, problem)
            for (subdir, path), problems in sorted(broken.items())
            for problem in problems
        ),
        claims=tuple(sorted(claims, key=lambda claim: (claim.dag_id, claim.path))),
        twice=twice,
    )


def _refused(file: FileOutcome, subdir: str, policy: policies.Policy) -> Iterable[Problem]:
    """Yield what the policies refuse in a file (AIP-43's DagPolicy, on the trusted side)."""
    prefix = policy.prefixes.get(subdir, "")
    seen: set[str] = set()
    for dag in file.dags:
        if not dag.dag_id.startswith(prefix):
            yield Problem(
                "DagIdNotAllowed",
                f"dag_id {dag.dag_id!r} does not start with {prefix!r}, which subdir {subdir} requires",
            )
        elif policy.granted_prefixes and not dag.dag_id.startswith(tuple(policy.granted_prefixes)):
            yield Problem(
                "DagIdNotAllowed",
                f"dag_id {dag.dag_id!r} is outside what the namespace is granted "
                f"(granted: {', '.join(policy.granted_prefixes)})",
            )
        if dag.dag_id in seen:
            yield Problem("DuplicateDagId", f"dag_id {dag.dag_id!r} is defined twice in this file")
        seen.add(dag.dag_id)


def _owned(dag_id: str, owner: BundleKey, mine: BundleKey) -> Problem:
    where = f" of cluster {owner.cluster!r}" if owner.cluster != mine.cluster else ""
    return Problem(
        "DagIdOwned",
        f"dag_id {dag_id!r} belongs to bundle {owner.namespace}/{owner.name}{where}: rename it, or have it removed "
        "there; this file is judged again, without parsing, when that bundle lets go of it",
    )


def settle(
    files: Mapping[Place, FileOutcome], broken: dict[Place, list[Problem]], live: Live
) -> tuple[dict[str, _Definition], Collection[duplicates.Twice]]:
    """Give every dag_id one place.

    Args:
        files: What was parsed.
        broken: Problems of files that define nothing. Files that get none of their dag_ids are added.
        live: Where a dag_id is live, it stays.

    Returns:
        Where each dag_id is defined, and what files do not get that are published with the rest.
    """
    settled: dict[str, _Definition] = {}
    contested: dict[str, list[_Definition]] = {}
    for place, file in files.items():
        if place not in broken:
            for dag in file.dags:
                found = _Definition(*place, dag)
                first = settled.setdefault(dag.dag_id, found)
                if first is not found:
                    contested.setdefault(dag.dag_id, [first]).append(found)
    lost: dict[Place, list[duplicates.Twice]] = {}
    for dag_id, rivals in contested.items():
        rivals.sort(key=lambda rival: (*duplicates.order(rival.path), rival.subdir))
        current = live.dags.get(dag_id)
        winner = next(
            (r for r in rivals if current and (r.subdir, r.path) == (current.subdir, current.path)), rivals[0]
        )
        settled[dag_id] = winner
        is_live = current is not None and (winner.subdir, winner.path) == (current.subdir, current.path)
        for rival in rivals:
            if rival is not winner:
                twice = duplicates.Twice(dag_id, winner.path, rival.path, is_live)
                lost.setdefault((rival.subdir, rival.path), []).append(twice)
    some: list[duplicates.Twice] = []
    for place, losses in lost.items():
        if len(losses) == len(files[place].dags):
            broken[place] = [duplicates.problem(loss) for loss in losses]
        else:
            some += losses
    return settled, some


def _defined(definitions: Mapping[str, _Definition], live: Live) -> Iterable[DagChange]:
    unchanged = Change.UNCHANGED  # an enum's member takes longer to look up than all the rest of the loop
    for dag_id, new in definitions.items():
        current = live.dags.get(dag_id)
        sha256 = new.dag.sha256
        if current is None:
            yield DagChange(Change.ADDED, dag_id, new.subdir, new.path, sha256)
            continue
        if current.path != new.path or current.subdir != new.subdir:
            change = Change.MOVED
        else:
            change = unchanged if current.sha256 == sha256 else Change.CHANGED
        yield DagChange(change, dag_id, new.subdir, new.path, sha256, current.sha256)


def _undefined(
    definitions: Mapping[str, _Definition],
    broken: Mapping[Place, object],
    live: Live,
    policy: policies.Policy,
    scope: Collection[str],
) -> Iterable[DagChange]:
    """Yield what becomes of live DAGs of the scope that no parsed file defines any more."""
    for dag_id, current in live.dags.items():
        if dag_id in definitions or current.subdir not in scope:
            continue
        keep = (current.subdir, current.path) in broken and policy.on_import_error != "Deactivate"
        change = Change.KEPT if keep else Change.REMOVED
        yield DagChange(change, dag_id, current.subdir, current.path, current.sha256, current.sha256)


def _verdict(
    changeset: Changeset,
    draft: _Draft,
    policy: policies.Policy,
    scope: Collection[str],
    blocked: Mapping[str, Blocked],
    *,
    is_dry_run: bool,
) -> Judgement:
    broken = sorted({problem.path for problem in draft.problems})
    kept = [change.change for change in draft.changes].count(Change.KEPT)
    if blocked:
        reason = next(iter(blocked.values())).reason
        held_back = "; ".join(
            f"subdir {subdir} is as it was: {item.message}" for subdir, item in sorted(blocked.items())
        )
        done = "would be published" if is_dry_run else "published"
        message, ready = f"{done} without {wording.counted(len(blocked), 'subdir')}: {held_back}", False
    elif broken and policy.on_import_error == "KeepLastGood":
        reason, ready = "KeptLastGood", False
        message = (
            f"{wording.counted(len(broken), 'broken file')}: {wording.names(broken)}; "
            f"{wording.counted(kept, 'DAG')} {'would be ' if is_dry_run else ''}kept at the last good definition"
            f"{wording.said(draft.problems)}"
        )
    else:
        reason, ready = "Published", True
        done = "would be" if is_dry_run else "is"
        message = f"version {short_version(changeset.version)} {done} published" + (
            f", {wording.counted(len(broken), 'broken file')}" if broken else ""
        )
    return Judgement(
        verdict=Verdict.PUBLISH,
        reason=reason,
        message=message + duplicates.note(draft.twice),
        ready=ready,
        changes=draft.changes,
        problems=draft.problems,
        claims=draft.claims,
        subdirs=tuple(sorted(run.subdir for run in changeset.runs if run.subdir in scope)),
    )


def compare(before: Live, after: Live) -> tuple[DagChange, ...]:
    """Say what became of each DAG between two states of one bundle: after a rollback, or for a look at history."""
    files = [_Definition(dag.subdir, dag.path, ParsedDag(dag.dag_id, dag.sha256)) for dag in after.dags.values()]
    defined = _defined({item.dag.dag_id: item for item in files}, before)
    removed = [
        DagChange(Change.REMOVED, dag_id, dag.subdir, dag.path, dag.sha256, dag.sha256)
        for dag_id, dag in before.dags.items()
        if dag_id not in after.dags
    ]
    return tuple(sorted([*defined, *removed], key=_dag_id))


def _block(reason: str, message: str) -> Judgement:
    return Judgement(verdict=Verdict.BLOCK, reason=reason, message=message, ready=False)


def _block_all(blocked: Mapping[str, Blocked], draft: _Draft) -> Judgement:
    distinct = list(dict.fromkeys(item.message for _, item in sorted(blocked.items())))
    return dataclasses.replace(
        _block(next(iter(blocked.values())).reason, "; ".join(distinct)),
        changes=draft.changes,
        problems=draft.problems,
        claims=draft.claims,
    )

"""The part of DagStore that speaks to a target: a copy of what is live, elsewhere in the same database."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from dagbundle import errors
from dagbundle.rollout import assets as rollout_assets
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Claim,
    DagContent,
    FileProblem,
    Judgement,
    LookupKind,
    LookupValue,
)
from dagbundle.rollout.moves import Symptom
from dagbundle.store import assets, following, lookups
from dagbundle.store.database import Mode
from dagbundle.store.lookups import Lookup
from dagbundle.store.passes import Passes
from dagbundle.store.reader import DagReader
from dagbundle.store.target import Target

_log = logging.getLogger(__name__)

MOST_REFUSED = 20
"""Bundles that may fail in one refresh before all of it has failed."""
MOST_LOST = 3
"""Steps of one refresh that may lose their connection before the database counts as away."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh found.

    Attributes:
        behind: Bundles of which the target does not show all that is live: `follow` mends that.
        failed: Bundles that could not be refreshed, each with what was raised.
    """

    behind: tuple[BundleKey, ...] = ()
    failed: Mapping[BundleKey, BaseException] = field(default_factory=dict)


class TargetedStore(DagReader):
    """A store that may have a target.

    Attributes:
        target: Is told what is published, in the same transaction; None where there is none.
    """

    target: Target | None = None

    def owners(self, dag_ids: Collection[str]) -> dict[str, BundleKey]:
        """Return who has live DAGs of these names, by dag_id.

        A bundle that only the target knows, such as one of Airflow's own processor, is named by its name there.
        """
        return self.db.read(lambda c: following.owners(c, self.db.tables, self.target, dag_ids))

    def prepare(self) -> None:
        """Let the target begin what a publish will need, which takes a while. Returns at once."""
        if self.target is not None:
            self.target.prepare()

    def refused(
        self,
        bundle: BundleKey,
        judgement: Judgement,
        contents: Mapping[str, DagContent] | None = None,
        *,
        least: int = 1,
    ) -> tuple[tuple[FileProblem, ...], tuple[Claim, ...]]:
        """Return what the target would not take of what a judgement publishes.

        Args:
            bundle: Whose it is.
            judgement: One that publishes.
            contents: Contents that are not in the store; those that are nowhere are looked at when they are published.
            least: How many files break where the bundle would name too many assets.

        Returns:
            Problems of the files, and the claims of those that define assets of other bundles.

        Raises:
            TargetError: There is too much wrong to look at it all.
        """
        target = self.target
        if target is None:
            return (), ()
        wanted, given = following.written(judgement), contents or {}
        known = {**self.contents(wanted - given.keys()), **given} if wanted - given.keys() else given
        candidates = following.candidates(judgement, known)
        found = dict(target.refused(candidates, bundle)) if candidates else {}
        if vetted := [item for item in candidates if item.dag_id not in found]:
            found |= self.db.read(lambda c: target.forbidden(c, vetted))
        problems = [
            FileProblem(item.subdir, item.path, found[item.dag_id]) for item in candidates if item.dag_id in found
        ]
        others = {item.dag_id for item in judgement.changes if item.change in {Change.UNCHANGED, Change.KEPT}}
        problems += rollout_assets.too_many(
            [item for item in candidates if item.dag_id not in found],
            lambda few: self.db.read(lambda c: target.named(c, others, few)),
            least=least,
        )
        named = {key for item in candidates for key in rollout_assets.named(item.content)}
        if not named or not target.owns_assets:
            return tuple(problems), ()
        owners = self.db.read(lambda c: assets.owners(c, self.db.tables, named))
        owned, claims = assets.refused(candidates, owners, bundle)
        return (*problems, *owned), tuple(claims)

    def handed_over(self) -> frozenset[str]:
        """Return the claims of assets that are nobody's any more, or the claimant's, or defined as it does."""
        return self.db.read(lambda c: assets.handed_over(c, self.db.tables))

    def is_settled(self, bundle: BundleKey, revision: int, document: RolloutDocument, judgement: Judgement) -> bool:
        """Tell whether a rollout with this document published the bundle's revision, and nothing waits for another one.

        It was judged as now: one that held a subdir back is not over. What may wait is a hold, a claim, a request to
        parse again, or a target that has not followed.
        """
        return self.db.read(
            lambda c: following.is_settled(
                c, self.db.tables, self.target, bundle, revision=revision, document=document, judgement=judgement
            )
        )

    def follow(self, bundle: BundleKey) -> None:
        """Tell the target all that is live of a bundle again, whatever it has of it.

        Raises:
            NotFoundError: No such bundle.
            TargetError: The target cannot take it.
            OwnershipError: Another bundle has one of its dag_ids in the target.
        """
        target = self.target
        if target is not None:
            self.db.write(lambda c: following.follow(c, self.db.tables, target, bundle))

    def refresh(self, *, cluster: str = "") -> Refreshed:
        """Refresh what the target shows of this cluster's bundles.

        All of them in one transaction, and what has become due in others after it. Where the first fails, halves of
        them are tried on their own, and halves of those: a bundle that cannot be refreshed keeps none of the others.

        Raises:
            StoreUnavailableError: The database is away.
            DagBundleError: More than `MOST_REFUSED` bundles fail: then it is the target that does, and no bundle.
        """
        target = self.target
        if target is None:
            return Refreshed()
        names = self.db.read(lambda c: following.names_of(c, self.db.tables, cluster))
        pending, behind = [sorted(names)] if names else [], set[BundleKey]()
        failed: dict[BundleKey, BaseException] = {}
        while pending:
            some = pending.pop()
            try:
                behind.update(self._refresh(target, {name: names[name] for name in some}))
            except (errors.StoreUnavailableError, errors.SchemaError):
                raise
            except (Exception, SystemExit) as error:  # whatever Airflow makes of a tenant's document
                half = len(some) // 2
                if half:
                    pending += [some[:half], some[half:]]
                    continue
                failed[names[some[0]]] = error
                if len(failed) > MOST_REFUSED:
                    raise
        self._compute_overdue(target, names)
        return Refreshed(tuple(sorted(behind)), failed)

    def _compute_overdue(self, target: Target, names: Mapping[str, BundleKey]) -> None:
        """Take each of the target's steps; one that loses its connection, by waiting too long, ends no other."""
        lost = 0
        namespaces = {name: bundle.namespace for name, bundle in names.items()}
        for step in self.db.read(lambda c: target.overdue(c, namespaces)):
            try:
                self.db.write(step)
            except errors.StoreUnavailableError as error:
                lost += 1
                if lost > MOST_LOST:
                    raise
                _log.warning("overdue dates of some DAGs were not computed, the next upkeep tries again: %s", error)

    def _refresh(self, target: Target, names: Mapping[str, BundleKey]) -> tuple[BundleKey, ...]:
        return self.db.write(lambda c: following.refresh(c, self.db.tables, target, names))

    def attend(self, identity: str, *, cluster: str = "") -> Mapping[BundleKey, Collection[str]]:
        """Show the target that its processor lives, and take what it asks for.

        What is asked for is kept until a pass over these files, or a rollout of the bundle, starts.

        Args:
            identity: Names this replica.
            cluster: Whose bundles are ours.

        Returns:
            Files to be parsed again, relative to their bundle's root, by bundle; empty for the whole bundle.
        """
        target = self.target
        if target is None:
            return {}
        self.db.write(lambda c: target.beat(c, identity))
        return self.db.write(lambda c: following.attend(c, self.db.tables, target, cluster))

    @functools.cached_property
    def passes(self) -> Passes:
        """The passes over files that are parsed again."""
        return Passes(self.db)

    def look_up(self, kind: LookupKind, key: str) -> LookupValue | None:
        """Return a Variable's text or a Connection's fields, as the target has it; None where there is none.

        Raises:
            TargetError: It cannot be said; the message holds nothing of a value.
        """
        target = self.target
        return None if target is None else self.db.read(lambda c: target.look_up(c, kind, key))

    def record_lookup(self, run_id: str, kind: LookupKind, key: str, value: LookupValue | None, *, most: int) -> bool:
        """Keep that a run's files asked for a value, with a digest of what they were given.

        Args:
            run_id: A run that is a Job.
            kind: Of what.
            key: Its name.
            value: What they were given; None for nothing.
            most: How many different ones a run may ask for.

        Returns:
            False where that is one too many.

        Raises:
            ConflictError: The run is gone.
        """
        return self.db.write(
            lambda c: lookups.record(c, self.db.tables, run_id, kind=kind, key=key, value=value, most=most),
            mode=Mode.STAGE,
        )

    def lookups(self, *, cluster: str = "") -> tuple[Lookup, ...]:
        """Return what the newest rollouts of a cluster's bundles asked for, of those that are over.

        Bundles that are to be parsed again already are left out.
        """
        return self.db.read(lambda c: lookups.settled(c, self.db.tables, cluster))

    def digest_key(self) -> str:
        """Return the key of this database's digests."""
        return self.db.write(lambda c: lookups.secret(c, self.db.tables), mode=Mode.STAGE)

    def request_parse(self, wanted: Collection[BundleKey]) -> None:
        """Ask for bundles to be parsed again; that is kept until a rollout of each starts.

        Raises:
            NotFoundError: No such bundle.
        """
        self.db.write(lambda c: lookups.request(c, self.db.tables, wanted))

    def examine(self) -> Sequence[Symptom]:
        """Say what would go wrong with the target, or is worth knowing of it; empty where there is none."""
        target = self.target
        return () if target is None else self.db.read(lambda c: following.examine(c, self.db.tables, target))

    def depart(self, identity: str) -> None:
        """Show the target that its processor ended in order."""
        target = self.target
        if target is not None:
            self.db.write(lambda c: target.rest(c, identity))

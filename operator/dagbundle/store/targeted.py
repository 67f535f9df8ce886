"""The part of DagStore that speaks to a target: a copy of what is live, elsewhere in the same database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dagbundle.rollout.model import BundleKey
from dagbundle.rollout.moves import Symptom
from dagbundle.store import following
from dagbundle.store.following import Target
from dagbundle.store.reader import DagReader


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

    def is_settled(self, bundle: BundleKey, revision: int, spec: Mapping[str, Any]) -> bool:
        """Tell whether a rollout by this spec published the bundle's revision, and nothing waits for another one.

        What may wait is a hold, a claim, a request to parse again, or a target that has not followed.
        """
        return self.db.read(
            lambda c: following.is_settled(c, self.db.tables, self.target, bundle, revision=revision, spec=spec)
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

    def refresh(self, *, cluster: str = "") -> tuple[BundleKey, ...]:
        """Refresh what the target shows of this cluster's bundles.

        Returns:
            The bundles of which it does not show all that is live: `follow` mends that.
        """
        target = self.target
        return () if target is None else self.db.write(lambda c: following.refresh(c, self.db.tables, target, cluster))

    def attend(self, identity: str, *, cluster: str = "") -> Mapping[BundleKey, Collection[str]]:
        """Show the target that its processor lives, and take what it asks for.

        What is asked for is kept until a rollout of the bundle starts.

        Args:
            identity: Names this replica.
            cluster: Whose bundles are ours.

        Returns:
            Files to be parsed again, relative to their bundle's root, by bundle.
        """
        target = self.target
        if target is None:
            return {}
        return self.db.write(lambda c: following.attend(c, self.db.tables, target, identity, cluster))

    def examine(self) -> Sequence[Symptom]:
        """Say what would go wrong with the target, or is worth knowing of it; empty where there is none."""
        target = self.target
        return () if target is None else self.db.read(lambda c: following.examine(c, self.db.tables, target))

    def depart(self, identity: str) -> None:
        """Show the target that its processor ended in order."""
        target = self.target
        if target is not None:
            self.db.write(lambda c: target.rest(c, identity))

"""Publishes what a rollout staged, or blocks it, and judges again whoever waited for what it let go of.

What one bundle's content makes of a publish ends as a block of that bundle, with its reason: whoever publishes another
bundle, and the controller's upkeep, go on.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from dagbundle import errors
from dagbundle.engine import events, judging
from dagbundle.engine.applied import Applied
from dagbundle.engine.patience import Patience
from dagbundle.rollout import policy, wording
from dagbundle.rollout.model import BundleKey, Change, Changeset, DagContent, Judgement, Live, Verdict
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

MAX_JUDGEMENTS = 20
"""How often one changeset is judged again because somebody else published first."""


class _Refusal(NamedTuple):
    """What the store refused to publish, and why."""

    revision: int
    judgement: Judgement
    message: str


class Publisher:
    """Judges and publishes on one store.

    Args:
        store: Where DAGs are kept.
        watch: Is told which bundles could not be judged again.
    """

    def __init__(self, store: DagStore, watch: events.Watcher) -> None:
        self._store = store
        self._watch = watch
        self._patience = Patience()

    def live(self, key: BundleKey) -> Live:
        """Return a bundle as it is published now; empty where it never was."""
        try:
            return self._store.live(key)
        except errors.NotFoundError:
            return Live(key)

    def judged(
        self,
        changeset: Changeset,
        live: Live,
        rules: policy.Policy,
        contents: Mapping[str, DagContent] | None = None,
    ) -> tuple[Changeset, Judgement]:
        """Judge a changeset on what is live. See `judging.judged`."""
        owners = self._owners(changeset, live)
        others = {dag_id for dag_id, owner in owners.items() if owner != live.bundle}
        return judging.judged(
            self._store,
            changeset,
            live=live,
            owners=owners,
            policy=rules,
            yielding=self._store.yielding(others) if others else (),
            contents=contents,
        )

    def _owners(self, changeset: Changeset, live: Live) -> Mapping[str, BundleKey]:
        asked = {dag.dag_id for run in changeset.runs for file in run.files for dag in file.dags} - live.dags.keys()
        return {**dict.fromkeys(live.dags, live.bundle), **(self._store.owners(asked) if asked else {})}

    def finish(self, rollout_id: str) -> Applied:
        """Judge what was staged for a rollout, and publish or block it. Raises like `publish`."""
        rollout = self._store.rollout(rollout_id)
        changeset = Changeset(
            bundle=rollout.bundle,
            version=rollout.version,
            template_hash=rollout.template_hash,
            base_revision=rollout.base_revision,
            runs=self._store.outcomes(rollout.id),
        )
        return self.publish(rollout_id, changeset, rollout.document.policy)

    def publish(self, rollout_id: str, changeset: Changeset, rules: policy.Policy) -> Applied:
        """Judge and publish, again and again while others publish first.

        Raises:
            SupersededError: A newer rollout of the bundle began meanwhile.
            ConflictError: What the store refuses is the same when it is judged again, or others publish all the time.
            StoreError: The database refused, for a reason outside of the publication; nothing was published.
        """
        refusals: list[_Refusal] = []  # the first and the newest
        for _ in range(MAX_JUDGEMENTS):
            live = self._store.live(changeset.bundle)
            current = dataclasses.replace(changeset, base_revision=live.revision)
            current, judgement = self.judged(current, live, rules)
            applied = Applied(
                bundle=current.bundle,
                version=current.version,
                judgement=judgement,
                runs=current.runs,
                base_revision=live.revision,
                revision=live.revision,
            )
            if judgement.verdict is Verdict.BLOCK:
                self._store.block(rollout_id, judgement.reason, judgement.message, claims=judgement.claims)
                return applied
            try:
                revision = self._store.publish(rollout_id, current, judgement, basis=live.basis)
            except (errors.SupersededError, errors.RunOpenError):
                raise
            except (errors.TargetError, errors.ContentError) as error:
                return self._refused(rollout_id, applied, error)
            except (errors.ConflictError, errors.OwnershipError) as error:
                # somebody else published, or claimed a dag_id, first: judge on what is live now
                refusal = _Refusal(live.revision, judgement, error.message)
                if refusal in refusals[-1:]:  # the same was judged on the same: it is no race
                    raise errors.ConflictError(
                        f"bundle {changeset.bundle} cannot be published: {error.message}", hint=error.hint
                    ) from error
                refusals[1:] = [refusal]
                continue
            rejudged = self.rejudge(_released(judgement)) if revision != live.revision else ()
            return dataclasses.replace(applied, revision=revision, rejudged=rejudged, lifted=live.holds)
        raise errors.ConflictError(_outrun(changeset, refusals[0].revision, refusals[-1]), hint="apply again")

    def _refused(self, rollout_id: str, applied: Applied, error: errors.TargetError | errors.ContentError) -> Applied:
        """Block a rollout whose content target or database cannot take: the same again would end the same."""
        message = error.message + (f". Next: {error.hint}" if error.hint else "")
        if isinstance(error, errors.ContentError):
            message = f"bundle {applied.bundle} has a value that the database cannot hold: {message}"
        self._store.block(rollout_id, error.reason, message)
        blocked = Judgement(Verdict.BLOCK, error.reason, message, ready=False, changes=applied.judgement.changes)
        return dataclasses.replace(applied, judgement=blocked)

    def hand_over(self) -> tuple[BundleKey, ...]:
        """Judge again whoever waits for a dag_id that nobody owns, or whose owner gives way.

        Returns:
            The bundles that were published.
        """
        claimed = {subject for subject in self._store.claimed() if not subject.startswith("asset:")}
        owned = self._store.owners(claimed).keys() if claimed else set[str]()
        return self.rejudge((claimed - owned) | (self._store.yielding(owned) if owned else set()))

    def rejudge(self, released: Collection[str]) -> tuple[BundleKey, ...]:
        """Judge again, unparsed, the bundles that waited for a dag_id, or an asset, that was let go of.

        What goes wrong with one of them is told to the watcher and the log, and keeps nobody else. A bundle whose
        judgement failed is passed over for a while: each publish of another bundle would pay for the next failure.
        """
        published: list[BundleKey] = []
        subjects = {*released, *self._store.handed_over()}
        waiting = {claim.rollout_id: claim.bundle for claim in self._store.waiting_claims(subjects)} if subjects else {}
        for rollout_id, bundle in waiting.items():
            if not self._patience.allows(rollout_id):
                continue
            try:
                applied = self.finish(rollout_id)
            except errors.ConflictError:
                continue  # a newer rollout of it judges for itself, or it stays as it was published
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a defect, or code of Airflow's that ends: likewise
                self._patience.failed(rollout_id)
                self._failed(bundle, error)
                continue
            self._patience.ended(rollout_id)
            if applied.revision != applied.base_revision:
                published.append(bundle)
        return tuple(published)

    def _failed(self, bundle: BundleKey, error: BaseException) -> None:
        known = isinstance(error, errors.DagBundleError)
        _LOG.warning(
            "a bundle that waited for a dag_id cannot be judged again",
            extra={"bundle": str(bundle), "error": str(error)},
            exc_info=None if known else error,
        )
        self._watch(events.RejudgeFailed(bundle, str(error)))


def _outrun(changeset: Changeset, first: int, last: _Refusal) -> str:
    """Say why a changeset that was judged again and again was never published."""
    if last.revision == first:
        return f"bundle {changeset.bundle} was judged {MAX_JUDGEMENTS} times and not published; last: {last.message}"
    times = wording.counted(last.revision - first, "time")
    return f"bundle {changeset.bundle} was published {times} by others while this apply was judged"


def _released(judgement: Judgement) -> set[str]:
    """Return the dag_ids that a publication let go of, or may give way with."""
    waiting = {(claim.subdir, claim.path) for claim in judgement.claims}
    return {
        change.dag_id
        for change in judgement.changes
        if change.change is Change.REMOVED
        or (waiting and change.change is Change.KEPT and (change.subdir, change.path) in waiting)
    }

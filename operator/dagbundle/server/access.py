"""Who may speak for a run: from a token to the run's identity, in the order in which a stranger learns least.

Nothing of the request is believed but the token and the run's name: namespace and account come from Kubernetes and must
be those that the controller recorded, the pod must be alive and of the recorded Job, and it says which shard it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from dagbundle import errors
from dagbundle.rollout.document import RolloutDocument
from dagbundle.server.limits import Buckets, Remembered
from dagbundle.server.metrics import Metrics
from dagbundle.server.settings import Settings
from dagbundle.server.tokens import Caller, Pod, TokenReviewer
from dagbundle.server.workers import Workers
from dagbundle.store import keys
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import JobRow, RolloutRow, RolloutState, RunState

T = TypeVar("T")

_RUN = re.compile(r"[A-Za-z0-9_-]{1,200}")
_KEY = re.compile(r"[0-9a-f]{64}")
_MOST_TOKEN = 16 * 1024
_ALIVE = frozenset({"Pending", "Running"})
_WAIT_SECONDS = 3.0
"""How long a question may wait for its turn at the API server."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who asks, and for what. The only source of identity from here on."""

    job: JobRow
    caller: Caller
    shard: int
    rollout_open: bool
    document: RolloutDocument
    """The rollout's: what the bundle asked for, and what it is granted."""
    state: RunState | None
    """Of the current attempt at this shard; None when there is none yet."""
    own: bool
    """Whether that attempt is the caller's."""
    runs: int = 1
    """How many runs the rollout has, roughly: they share what is kept of errors."""

    @property
    def attempt(self) -> str:
        """What names this attempt at the run."""
        return self.caller.pod_uid


class Gate:
    """Lets callers in.

    Args:
        store: Knows the runs and their Jobs.
        tokens: Knows the tokens and their pods.
        settings: Bounds.
        workers: Ask the store.
        metrics: Count.
    """

    def __init__(
        self, store: DagStore, tokens: TokenReviewer, settings: Settings, workers: Workers, metrics: Metrics
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._workers = workers
        self._metrics = metrics
        self._cluster = settings.cluster
        self._reviewers = Workers(settings.reviews, "reviews")
        self._answers: Remembered[Caller | errors.CallerError] = Remembered(settings.token_seconds)
        self._addresses: Buckets[str] = Buckets(settings.calls_per_second)
        self._pods: Buckets[str] = Buckets(settings.requests_per_second)
        self._lookups: Buckets[str] = Buckets(settings.lookups_per_second)

    def close(self) -> None:
        """End the threads that ask Kubernetes."""
        self._reviewers.close()

    async def who(self, authorization: str | None, address: str, *, looks_up: bool = False) -> Caller:
        """Tell who asks.

        Args:
            authorization: The header of that name.
            address: Where the connection comes from.
            looks_up: It asks for a value, as which its pod may ask more often.

        Raises:
            CallerError: `TooManyRequests`, `TokenMissing`, `TokenRefused`, `NoPod` or `ClusterUnavailable`.
        """
        if not self._addresses.take(address):
            raise errors.CallerError("TooManyRequests", f"{address} asks too often")
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise errors.CallerError("TokenMissing", "send the pod's token as `Authorization: Bearer …`")
        if len(token) > _MOST_TOKEN or not token.isascii() or not token.isprintable():
            raise errors.CallerError("TokenRefused", "this is no token")
        caller = await self._reviewed(token)
        if not (self._lookups if looks_up else self._pods).take(caller.pod_uid):
            raise errors.CallerError("TooManyRequests", f"pod {caller.pod} asks too often")
        return caller

    async def admit(self, caller: Caller, run_id: str, key: str, *, claims: bool) -> Admitted:
        """Let a caller speak for a run.

        Args:
            caller: Whose token came.
            run_id: For which run.
            key: What the caller proves by that it is the process that asked first; empty for none.
            claims: The key, if it is the pod's first, is the one that counts from now on.

        Raises:
            CallerError: Why not.
            StoreUnavailableError: The database is away.
        """
        if not _RUN.fullmatch(run_id):
            raise errors.CallerError("UnknownRun", "this is no run's name")
        job, rollout, states = await self._workers.run(lambda: self._recorded(run_id), caller.namespace)
        if job.bundle.cluster != self._cluster:  # namespaces and accounts of the same name are others' there
            raise errors.CallerError("OtherCluster", f"the run is of cluster {job.bundle.cluster!r}", told="UnknownRun")
        if job.namespace != caller.namespace:
            raise errors.CallerError("OtherNamespace", f"the run is of namespace {job.namespace}", told="UnknownRun")
        if job.service_account != caller.account:
            raise errors.CallerError(
                "WrongAccount",
                f"the run is of ServiceAccount {job.service_account}, the token of {caller.account}",
            )
        if not job.uid:
            raise errors.CallerError("JobUnknown", f"Job {job.namespace}/{job.name} is not recorded yet: ask again")
        shard = _shard(job, caller, await self._asked(lambda: self._tokens.pod(caller), caller.namespace))
        await self._workers.run(lambda: self._require_key(run_id, caller.pod_uid, key, claims=claims), caller.namespace)
        state, attempt = states.get(shard, (None, ""))
        is_open = rollout.state is RolloutState.OPEN
        return Admitted(
            job,
            caller,
            shard,
            is_open,
            rollout.document,
            state,
            attempt == caller.pod_uid,
            len(rollout.subdirs) * job.shards,
        )

    def _require_key(self, run_id: str, attempt: str, key: str, *, claims: bool) -> None:
        if key and not _KEY.fullmatch(key):
            raise errors.CallerError("KeyRefused", "this is no key")
        check = keys.claim if key and claims else keys.is_held
        if not check(self._store, run_id, attempt, key):
            raise errors.CallerError("KeyRefused", "this pod's parser made another key before DAG files ran")

    def _recorded(self, run_id: str) -> tuple[JobRow, RolloutRow, dict[int, tuple[RunState, str]]]:
        try:
            job = self._store.job(run_id)
            rollout = self._store.rollout(job.rollout_id)
        except errors.NotFoundError as error:
            raise errors.CallerError("UnknownRun", error.message) from error
        runs = self._store.run_states(job.rollout_id)
        states = {row.shard: (row.state, row.attempt) for row in runs if row.subdir == job.subdir}
        return job, rollout, states

    async def _reviewed(self, token: str) -> Caller:
        answer = self._answers.get(token)
        if answer is None:
            try:
                answer = await self._asked(lambda: self._tokens.review(token))
            except errors.CallerError as error:
                if error.reason == "ClusterUnavailable":
                    self._metrics.reviews.labels("unavailable").inc()
                    raise
                answer = error
            self._answers.put(token, answer)
            self._metrics.reviews.labels("accepted" if isinstance(answer, Caller) else "refused").inc()
        else:
            self._metrics.reviews.labels("remembered").inc()
        if isinstance(answer, errors.CallerError):
            raise errors.CallerError(answer.reason, answer.message)
        return answer

    async def _asked(self, question: Callable[[], T], namespace: str = "") -> T:
        """Ask Kubernetes, when it is our turn."""
        try:
            return await self._reviewers.run(question, namespace, within=_WAIT_SECONDS)
        except TimeoutError as error:
            raise errors.CallerError("ClusterUnavailable", "too many questions wait for the API server") from error


def _shard(job: JobRow, caller: Caller, pod: Pod | None) -> int:
    """Hold the pod against the run's Job, and tell which shard it is.

    Raises:
        CallerError: `NoPod` or `WrongPod`.
    """
    if pod is None or pod.uid != caller.pod_uid:
        raise errors.CallerError("NoPod", f"pod {caller.pod}, which the token was made for, is gone")
    if pod.terminating or pod.phase not in _ALIVE:
        raise errors.CallerError(
            "NoPod", f"pod {caller.pod} is {'being deleted' if pod.terminating else pod.phase or 'in no phase'}"
        )
    if job.uid not in pod.owners:
        raise errors.CallerError("WrongPod", f"pod {caller.pod} does not belong to Job {job.name} ({job.uid})")
    shard = pod.index if job.shards > 1 else 0
    if shard is None or shard >= job.shards:
        raise errors.CallerError("WrongPod", f"pod {caller.pod} has no index among the run's {job.shards} shards")
    return shard

"""Wires it together: kopf watches, a queue, workers, the Lease, and the ports for probes and metrics.

kopf only brings events: its own handlers, which write to objects, are not used (docs/architecture.md, The controller).
Who loses the Lease, or a watch, ends the process; a restart is cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import kopf
from kubernetes.aio import client as aio_client
from kubernetes.aio import config as aio_config
from kubernetes.aio.leaderelection import electionconfig, leaderelection

from dagbundle import errors
from dagbundle.controller import health, metrics, workers
from dagbundle.controller.activity import Activity
from dagbundle.controller.lease import Lease
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.slots import Slots
from dagbundle.controller.upkeep import Upkeep
from dagbundle.controller.watchdog import Watchdog
from dagbundle.resources import bundle as bundle_models
from dagbundle.runtime.kubernetes import jobs
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger(__name__)

LEASE_SECONDS = 15
RENEW_SECONDS = 10
RETRY_SECONDS = 2
GATHER_SECONDS = 0.5
WATCH_SECONDS = 300
"""How long one watch lasts before it is renewed, so that none hangs on a dead connection for longer."""


class Operator:
    """One replica.

    Args:
        settings: From the environment.
        store: Where rollouts are kept.
        cluster: The API server; default: the one that this runs in.
    """

    def __init__(self, settings: Settings, store: DagStore, cluster: Cluster | None = None) -> None:
        self._settings = settings
        self._store = store
        self._queue: Queue[Key] = Queue(share=_namespace)
        enabled = [tenant.namespace for tenant in settings.grants.tenants]
        self._seen = Seen(Slots(settings.max_pods, self._queue.add), enabled)
        self._cluster = cluster or Cluster()
        self._reconciler = Reconciler(store, self._cluster, self._seen, settings)
        self._watchdog = Watchdog()
        self._activity = Activity()
        self._upkeep = Upkeep(store, self._cluster, self._seen, self._watchdog, self._activity, settings)
        self._stop = threading.Event()

    async def run(self) -> None:
        """Wait for the Lease, then lead until it is lost, a watch dies, or the process is told to end.

        Raises:
            ClusterError: Leading ended by anything but a signal; starting again is the remedy.
        """
        elected, told = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # kopf takes them over once it leads
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        metrics.serve(self._settings.metrics_port, self._seen, self._queue, self._activity)
        health.serve(self._settings.health_port, self.problem)
        await _load_config()
        async with aio_client.ApiClient() as api:
            lease = Lease(self._settings.lease, self._settings.namespace, self._settings.identity, api)
            election = asyncio.create_task(self._election(lease, elected).run(), name="the Lease")
            leading = asyncio.create_task(self._lead(elected), name="the watches")
            told_to_end = asyncio.create_task(told.wait(), name="the signal")
            tasks = {election, leading, told_to_end}
            ended, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await lease.release()
        for task in ended:
            problem = task.exception()
            if problem is not None or task is election:
                raise errors.ClusterError(
                    f"{task.get_name()} ended: {problem or 'another replica holds it'}"
                ) from problem

    def _election(self, lease: Lease, elected: asyncio.Event) -> leaderelection.LeaderElection:
        async def started() -> None:
            elected.set()

        async def stopped() -> None:
            _LOG.error("the Lease is lost")

        return leaderelection.LeaderElection(
            electionconfig.Config(
                lease,
                lease_duration=LEASE_SECONDS,
                renew_deadline=RENEW_SECONDS,
                retry_period=RETRY_SECONDS,
                onstarted_leading=started,
                onstopped_leading=stopped,
            )
        )

    async def _lead(self, elected: asyncio.Event) -> None:
        """Lead once elected; an election that ends before cancels this."""
        await elected.wait()
        _LOG.info("leading", extra={"identity": self._settings.identity})
        metrics.LEADING.set(1)
        self._count_jobs()
        workers.start(self._queue, self._reconciler, self._settings.workers, self._activity)
        listener = threading.Thread(
            target=workers.hear,
            args=(listen_url(self._settings), self._store, self._queue, self._queue_all, self._stop),
            name="listener",
            daemon=True,
        )
        listener.start()
        upkeep = threading.Thread(target=self._upkeep.keep_up, args=(self._stop,), name="upkeep", daemon=True)
        self._activity.watch(upkeep)
        upkeep.start()
        threading.Thread(
            target=workers.attend,
            args=(self._store, self._queue, self._settings, self._stop),
            name="target",
            daemon=True,
        ).start()
        await kopf.operator(
            registry=self._registry(),
            settings=_kopf_settings(),
            clusterwide=True,
            standalone=True,
            # kopf's own default asks for the user's name, which a container's arbitrary UID does not have
            identity=cast("Any", self._settings.identity),
        )

    def _count_jobs(self) -> None:
        """Let the Jobs that the controller before made have their slots; those that are gone lapse."""
        try:
            rows = self._store.open_jobs(cluster=self._settings.cluster)
        except errors.StoreError as error:  # each is counted when its bundle is looked at
            _LOG.warning("the Jobs that run cannot be counted", extra={"error": error.message})
            return
        for row in rows:
            self._seen.slots.hold((row.bundle.namespace, row.bundle.name), row.name, row.shards, row.uid, shown=False)

    def stop(self) -> None:
        """End workers and listener; what they are at is repeated by whoever leads next."""
        self._stop.set()
        self._queue.close()

    def problem(self) -> str:
        """Say what is wrong with this replica; empty when nothing is, as with one that waits for the Lease."""
        return self._watchdog.problem or self._activity.problem

    def _queue_all(self) -> None:
        for key in self._seen.bundles():
            self._queue.add(key)

    def _registry(self) -> kopf.OperatorRegistry:
        """Say what is watched; handlers only note what came and queue the bundle that it belongs to.

        They are coroutines, though they wait for nothing: kopf hands plain functions to threads, which costs more.
        """
        registry = kopf.OperatorRegistry()
        plural = f"{bundle_models.KIND.lower()}s"

        @kopf.on.login(registry=registry)
        def login(**given: Any) -> kopf.ConnectionInfo | None:
            return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

        @kopf.on.event(bundle_models.API_GROUP, bundle_models.API_VERSION, plural, registry=registry)
        async def bundle_event(event: kopf.RawEvent, **_: Any) -> None:
            key = self._seen.take_bundle(_plain(event["object"]), deleted=event["type"] == "DELETED")
            self._queue.add(key, _gathered() if event["type"] is None else 0.0)

        ours = {jobs.MANAGED_LABEL: jobs.MANAGED}
        for group, version, kinds, kind in (("batch", "v1", "jobs", "Job"), ("", "v1", "pods", "Pod")):
            kopf.on.event(group, version, kinds, labels=ours, registry=registry)(self._child_handler(kind))
        for kinds, kind in (("deployments", "Deployment"), ("statefulsets", "StatefulSet")):
            kopf.on.event("apps", "v1", kinds, registry=registry)(self._workload_handler(kind))

        return registry

    def _child_handler(self, kind: str) -> Callable[..., Awaitable[None]]:
        async def child_event(event: kopf.RawEvent, **_: Any) -> None:
            key = self._seen.take_child(kind, _plain(event["object"]), deleted=event["type"] == "DELETED")
            if key is not None:
                self._queue.add(key)

        child_event.__name__ = f"{kind.lower()}_event"
        return child_event

    def _workload_handler(self, kind: str) -> Callable[..., Awaitable[None]]:
        async def workload_event(event: kopf.RawEvent, **_: Any) -> None:
            metadata = event["object"]["metadata"]
            for key in self._seen.followers(kind, str(metadata["namespace"]), str(metadata["name"])):
                self._queue.add(key)

        workload_event.__name__ = f"{kind.lower()}_event"
        return workload_event


def listen_url(settings: Settings) -> str:
    """Return where the store is listened to: past a pooler where there is one."""
    return settings.listen_url or settings.database_url


def _namespace(key: Key) -> str:
    """Return whose turn it is when a bundle is taken: each namespace has as many."""
    return key[0]


def _gathered() -> float:
    """Return the seconds that a bundle waits which a watch lists when it starts, so that many are looked at at once."""
    return GATHER_SECONDS - time.monotonic() % GATHER_SECONDS


def _plain(body: Any) -> dict[str, Any]:
    """Return the event's object without managedFields, which are half of its size and of no use here."""
    kept = dict(body)
    kept["metadata"] = {name: value for name, value in kept["metadata"].items() if name != "managedFields"}
    return kept


class _NoDifferences(kopf.DiffBaseStorage):
    """Remembers nothing: kopf copies every object to see what changed, half of its work, and nobody here asks that."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Never called: no handler is about changes."""


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # the kinds are known, and looking for others needs rights of its own
    settings.posting.enabled = False  # Events are ours, on transitions only
    settings.watching.server_timeout = WATCH_SECONDS  # the API server takes whole seconds only
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.queueing.idle_timeout = 1.0
    settings.persistence.diffbase_storage = _NoDifferences()
    return settings


async def _load_config() -> None:
    try:
        aio_config.load_incluster_config()  # type: ignore[no-untyped-call] # untyped in the client
    except aio_config.ConfigException:
        with contextlib.suppress(FileNotFoundError):
            await aio_config.load_kube_config()  # type: ignore[no-untyped-call] # likewise


def run(settings: Settings, store: DagStore) -> None:
    """Run one replica in this thread. Raises like `Operator.run`."""
    asyncio.run(Operator(settings, store).run())

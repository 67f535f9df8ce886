"""The threads behind the watches: workers that reconcile, and a listener that hears from the store."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from dagbundle import errors
from dagbundle.controller import metrics
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Key, Seen
from dagbundle.controller.settings import Settings
from dagbundle.controller.watchdog import Watchdog
from dagbundle.engine import engine, lookups, orphans
from dagbundle.runtime.kubernetes.client import Cluster
from dagbundle.store.dagstore import DagStore
from dagbundle.store.notifications import listen
from dagbundle.store.records import Head

_LOG = logging.getLogger(__name__)
_LISTEN_SECONDS = 60.0
_LISTEN_PAUSE = 2.0
UPKEEP_SECONDS = 120.0
ATTEND_SECONDS = 5.0
"""Airflow's health page takes a processor for dead after 30 s; a request of its UI waits for so long."""
GLANCED = 100
"""Bundles that a worker takes at a time: a controller that starts has thousands to look at, nearly all at rest."""
_SETTLED_SECONDS = 60.0
"""After the start, until which the watches may not have shown every bundle."""


def start(queue: Queue[Key], reconciler: Reconciler, number: int) -> list[threading.Thread]:
    """Start workers; they end when the queue is closed."""
    threads = [
        threading.Thread(target=_work, args=(queue, reconciler), name=f"worker-{index}", daemon=True)
        for index in range(number)
    ]
    for thread in threads:
        thread.start()
    return threads


def _work(queue: Queue[Key], reconciler: Reconciler) -> None:
    """Take what is due. Of several bundles those at rest are dealt with after one look at the store for all of them."""
    while keys := queue.take(GLANCED):
        heads = _glance(reconciler, keys) if len(keys) > 1 else {}
        for key in keys:
            if len(keys) > 1 and key not in heads:
                queue.put_back(key)
            else:
                _reconcile(queue, reconciler, key, heads.get(key))


def _glance(reconciler: Reconciler, keys: Collection[Key]) -> Mapping[Key, Head]:
    """Return nothing where the store cannot be asked: each bundle then says so when it is reconciled alone."""
    try:
        return reconciler.heads(keys)
    except errors.DagBundleError as error:
        _LOG.debug("no glance at the store", extra={"error": error.message})
    except Exception:  # noqa: BLE001 - as below
        _LOG.exception("the glance at the store broke")
    return {}


def _reconcile(queue: Queue[Key], reconciler: Reconciler, key: Key, head: Head | None) -> None:
    name = "/".join(key)
    started = time.monotonic()
    try:
        result = reconciler.reconcile(key) if head is None else reconciler.rest(key, head)
    except errors.StaleError:
        queue.failed(key)
        metrics.RECONCILES.labels("stale").inc()
    except errors.DagBundleError as error:
        pause = queue.failed(key, within=reconciler.retry_within(key))
        metrics.RECONCILES.labels("error").inc()
        _LOG.warning("reconcile failed", extra={"bundle": name, "error": error.message, "again_in": pause})
    except Exception:  # noqa: BLE001 - a defect in one bundle's reconcile must not take the worker from the others
        queue.failed(key)
        metrics.RECONCILES.labels("defect").inc()
        _LOG.exception("reconcile broke", extra={"bundle": name})
    else:
        if result is None:
            queue.put_back(key)
            return
        queue.done(key, result.again_in)
        metrics.RECONCILES.labels("ok").inc()
    metrics.RECONCILE_SECONDS.observe(time.monotonic() - started)


def hear(url: str, store: DagStore, queue: Queue[Key], everything: Callable[[], None], stop: threading.Event) -> None:
    """Queue the bundles whose runs or rollouts moved, as the store tells; until `stop` is set.

    Args:
        url: The database.
        store: Knows which bundle a rollout is of.
        queue: Takes the bundles.
        everything: Queues all bundles: what was told while nobody listened is lost.
        stop: Ends it.
    """
    while not stop.is_set():
        try:
            with listen(url) as listener:
                everything()
                while not stop.is_set():
                    for rollout_id in listener.wait(_LISTEN_SECONDS):
                        bundle = store.rollout(rollout_id).bundle  # of another cluster's, it is no key here
                        queue.add((bundle.namespace, bundle.name))
        except errors.NotFoundError:
            continue  # a rollout that was collected meanwhile
        except errors.StoreError as error:
            _LOG.warning("the store cannot be listened to", extra={"error": error.message})
            stop.wait(_LISTEN_PAUSE)
        except Exception:  # noqa: BLE001 - nobody would notice that the thread has ended
            _LOG.exception("the listener broke")
            stop.wait(_LISTEN_PAUSE)


def keep_up(  # noqa: PLR0917 - a thread is given its arguments by place
    store: DagStore, cluster: Cluster, seen: Seen, watchdog: Watchdog, settings: Settings, stop: threading.Event
) -> None:
    """Now and then look after watches and store; until `stop` is set.

    Args:
        store: Its bundles that nothing stands for are counted, and what nothing needs is deleted.
        cluster: The API server.
        seen: Which bundles are there.
        watchdog: Is told what is there and what was seen.
        settings: The controller's.
        stop: Ends it.
    """
    pause = _SETTLED_SECONDS
    while not stop.wait(pause):
        pause = UPKEEP_SECONDS
        try:
            look_after(store, cluster, seen, watchdog, settings)
        except errors.DagBundleError as error:
            _LOG.warning("upkeep failed", extra={"error": error.message})
        except Exception:  # noqa: BLE001 - nobody would notice that the thread has ended
            _LOG.exception("upkeep broke")


def look_after(store: DagStore, cluster: Cluster, seen: Seen, watchdog: Watchdog, settings: Settings) -> None:
    """Look after watches and store once. Raises `ClusterError` and `StoreError`."""
    known = store.bundles_known()
    there = cluster.bundle_versions()
    watchdog.look(there, seen.versions())
    metrics.ORPHANED.set(len(orphans.orphans(known, there.keys(), cluster=settings.cluster)))
    engine.Engine(store, cluster=settings.cluster).hand_over()
    for bundle in store.refresh(cluster=settings.cluster):
        try:
            store.follow(bundle)
        except (errors.TargetError, errors.OwnershipError) as error:
            _LOG.warning("the target cannot be mended", extra={"bundle": str(bundle), "error": error.message})
    follow_values(store, settings)
    store.collect_garbage(keep_revisions=settings.keep_revisions)


def follow_values(store: DagStore, settings: Settings) -> None:
    """Have bundles parsed again whose files read a Variable or Connection that is another now."""
    changed, unknown = lookups.changed(store, settings.grants, cluster=settings.cluster)
    if changed:
        store.request_parse(changed)
        metrics.VALUE_CHANGES.inc(len(changed))
        _LOG.info("values changed", extra={"bundles": sorted(map(str, changed))})
    if unknown:
        _LOG.warning("values cannot be looked up", extra={"number": unknown})


def attend(store: DagStore, queue: Queue[Key], settings: Settings, stop: threading.Event) -> None:
    """Be the target's processor: show that it lives, and queue the bundles that it is asked to parse again.

    Args:
        store: Has the target; without one this ends at once.
        queue: Takes the bundles.
        settings: The controller's.
        stop: Ends it.
    """
    while store.target is not None and not stop.is_set():
        try:
            for bundle in store.attend(settings.identity, cluster=settings.cluster):
                queue.add((bundle.namespace, bundle.name))
        except errors.DagBundleError as error:
            _LOG.warning("the target cannot be attended", extra={"error": error.message})
        except Exception:  # noqa: BLE001 - nobody would notice that the thread has ended
            _LOG.exception("attending the target broke")
        stop.wait(ATTEND_SECONDS)
    with contextlib.suppress(errors.DagBundleError):  # it shows by itself when nobody is heard of for a while
        store.depart(settings.identity)

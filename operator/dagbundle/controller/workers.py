"""The threads behind the watches: workers that reconcile, a listener to the store, and the target's processor."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from dagbundle import errors
from dagbundle.controller import metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.reconciler import Reconciler
from dagbundle.controller.seen import Key
from dagbundle.controller.settings import Settings
from dagbundle.store.dagstore import DagStore
from dagbundle.store.notifications import listen
from dagbundle.store.records import Head

_LOG = logging.getLogger(__name__)
_LISTEN_SECONDS = 60.0
_LISTEN_PAUSE = 2.0
ATTEND_SECONDS = 5.0
"""Airflow's health page takes a processor for dead after 30 s; a request of its UI waits for so long."""
GLANCED = 100
"""Bundles that a worker takes at a time: a controller that starts has thousands to look at, nearly all at rest."""


def start(queue: Queue[Key], reconciler: Reconciler, number: int, activity: Activity) -> list[threading.Thread]:
    """Start workers; they end when the queue is closed.

    Args:
        queue: Hands out bundles.
        reconciler: Reconciles them.
        number: How many workers.
        activity: Is told what each of them does.
    """
    threads = [
        threading.Thread(target=_work, args=(queue, reconciler, activity), name=f"worker-{index}", daemon=True)
        for index in range(number)
    ]
    for thread in threads:
        activity.watch(thread)
        thread.start()
    return threads


def _work(queue: Queue[Key], reconciler: Reconciler, activity: Activity) -> None:
    """Take what is due. Of several bundles those at rest are dealt with after one look at the store for all of them."""
    while keys := queue.take(GLANCED):
        with activity.doing("a look at many bundles"):
            heads = _glance(reconciler, keys) if len(keys) > 1 else {}
        for key in keys:
            if len(keys) > 1 and key not in heads:
                queue.put_back(key)
                continue
            with activity.doing("/".join(key)):
                _reconcile(queue, reconciler, key, heads.get(key))
    activity.ended()


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
    except (Exception, SystemExit):  # noqa: BLE001 - neither a defect nor code of Airflow's that ends the process takes the worker from the others
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
        url: The database, past any pooler.
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
        except errors.UsageError as error:  # a restart with the same settings would end the same
            _LOG.error("notifications cannot be received: all bundles are looked at every minute",
                       extra={"error": error.message, "hint": error.hint})  # fmt: skip
            everything()
            stop.wait(_LISTEN_SECONDS)
        except Exception:  # noqa: BLE001 - nobody would notice that the thread has ended
            _LOG.exception("the listener broke")
            stop.wait(_LISTEN_PAUSE)


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

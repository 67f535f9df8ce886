"""What a controller does with the target besides publishing."""

from __future__ import annotations

import threading

from dagbundle.controller import workers
from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Key
from dagbundle.controller.settings import Settings
from dagbundle.resources.grants import Grants
from dagbundle.rollout.document import RolloutDocument
from dagbundle.runtime.kubernetes import jobs
from publisher.conftest import SALES, Deployment, dag
from publisher.test_upkeep import ask, newest_job

SETTINGS = Settings(
    database_url="", jobs=jobs.Settings("https://server.invalid", "", "parser:1"), grants=Grants(tenants=[]),
    identity="controller-1",
)  # fmt: skip


def test_a_bundle_that_airflow_asks_for_is_queued_and_the_processor_shows_until_the_end(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    ask(deployment, "a.py")
    queue: Queue[Key] = Queue()
    stop = threading.Event()
    thread = threading.Thread(target=workers.attend, args=(deployment.store, queue, SETTINGS, stop))
    thread.start()
    assert queue.take() == [("team-sales", "sales")]
    assert newest_job(deployment).is_alive()
    stop.set()
    thread.join(timeout=30)
    assert not newest_job(deployment).is_alive()


def test_a_request_stays_until_a_pass_or_a_rollout_starts(deployment: Deployment) -> None:
    deployment.submit({"a.py": [dag("a")]})
    ask(deployment, "a.py")
    deployment.store.attend("controller-1")
    assert deployment.store.head(SALES).asked == ("a.py",)
    deployment.store.start_rollout(SALES, version="v2", template_hash="v2", subdirs=["."], document=RolloutDocument())
    assert deployment.store.head(SALES).asked == ()


def test_without_a_target_nobody_is_attended(deployment: Deployment) -> None:
    deployment.store.target = None
    workers.attend(deployment.store, Queue(), SETTINGS, threading.Event())
    assert deployment.rows("SELECT * FROM job") == []
    assert deployment.store.refresh().behind == ()
    assert deployment.store.examine() == ()
    assert deployment.store.owners({"a"}) == {}

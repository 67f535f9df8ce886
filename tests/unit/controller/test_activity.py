"""Liveness sees a thread that never comes to an end, and one that has ended."""

from __future__ import annotations

import threading

from dagbundle.controller import workers
from dagbundle.controller.activity import STUCK_SECONDS, Activity


def test_work_that_takes_as_long_as_it_may_is_no_problem_and_longer_is_one() -> None:
    now = [0.0]
    activity = Activity(clock=lambda: now[0])
    with activity.doing("team/sales"):
        now[0] = STUCK_SECONDS
        assert (activity.problem, activity.longest) == ("", STUCK_SECONDS)
        now[0] += 1
        assert "team/sales" in activity.problem
    assert (activity.problem, activity.longest) == ("", 0.0)


def test_a_thread_that_waits_for_work_is_never_stuck() -> None:
    now = [0.0]
    activity = Activity(clock=lambda: now[0])
    now[0] = STUCK_SECONDS * 10
    assert activity.problem == ""


def test_a_worker_that_has_ended_is_a_problem_unless_it_was_told_to() -> None:
    activity = Activity()

    def run(orderly: bool) -> threading.Thread:
        thread = threading.Thread(target=activity.ended if orderly else lambda: None, name=f"worker-{orderly}")
        activity.watch(thread)
        assert activity.problem == ""
        thread.start()
        thread.join()
        return thread

    run(orderly=True)
    assert activity.problem == ""
    run(orderly=False)
    assert activity.problem == "worker-False has ended"


def test_a_worker_survives_code_that_ends_its_process() -> None:
    from dagbundle.controller.queue import Queue  # noqa: PLC0415 - for this test only
    from dagbundle.controller.seen import Key  # noqa: PLC0415 - likewise

    class Ending:
        def reconcile(self, key: Key) -> None:
            queue.add(key)
            if len(asked) == 2:
                queue.close()
            asked.append(key)
            raise SystemExit(3)

        def retry_within(self, key: Key) -> float:
            raise AssertionError(key)

    asked: list[Key] = []
    queue: Queue[Key] = Queue(clock=lambda: 0.0)
    queue.add(("team", "sales"))
    activity = Activity()
    (thread,) = workers.start(queue, Ending(), 1, activity)  # type: ignore[arg-type] # all that a worker calls
    thread.join(timeout=30)
    assert len(asked) == 3

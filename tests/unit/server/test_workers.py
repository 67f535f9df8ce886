"""The server's threads are shared fairly by namespaces."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dagbundle.server.workers import Workers


def test_one_namespaces_hundreds_of_calls_let_anothers_single_one_in_at_once() -> None:
    async def scenario() -> None:
        workers, gate, done = Workers(4, "test"), threading.Event(), list[str]()
        crowd = [asyncio.create_task(workers.run(gate.wait, "team-a")) for _ in range(500)]
        await asyncio.sleep(0)
        await workers.run(lambda: done.append("team-b"), "team-b")
        assert done == ["team-b"]
        assert not any(task.done() for task in crowd)
        gate.set()
        await asyncio.gather(*crowd)
        workers.close()

    asyncio.run(scenario())


def test_where_one_thread_is_left_each_namespace_is_taken_in_turn() -> None:
    async def scenario() -> list[str]:
        workers, gate, order = Workers(1, "test"), threading.Event(), list[str]()
        first = asyncio.create_task(workers.run(gate.wait, "team-a"))
        await asyncio.sleep(0)
        rest = [
            asyncio.create_task(workers.run(lambda name=name: order.append(name), name))  # type: ignore[misc] # its default binds it
            for name in ("team-a", "team-a", "team-a", "team-b")
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *rest)
        workers.close()
        return order

    assert "team-b" in asyncio.run(scenario())[:2]


def test_who_waits_longer_than_it_may_is_told_and_takes_no_turn() -> None:
    async def scenario() -> None:
        workers, gate = Workers(1, "test"), threading.Event()
        first = asyncio.create_task(workers.run(gate.wait))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await workers.run(lambda: None, "team-a", within=0.01)
        gate.set()
        await first
        assert await workers.run(lambda: 7, "team-a", within=60) == 7
        workers.close()

    asyncio.run(scenario())


def test_what_the_work_raises_is_raised_and_its_thread_is_free_again() -> None:
    async def scenario() -> None:
        workers = Workers(1, "test")
        with pytest.raises(KeyError):
            await workers.run(lambda: dict[str, int]()["x"], "team-a")
        assert await workers.run(lambda: 7, "team-a") == 7
        workers.close()

    asyncio.run(scenario())

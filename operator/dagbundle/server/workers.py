"""The threads in which the database is asked and reports are decoded: the event loop only moves bytes.

They are shared fairly: one namespace has at most half of them at once, and where many wait, each namespace's work is
taken in turn. So no number of calls of one team's delays another's by more than the work that is being done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """Threads, for the coroutines of one event loop.

    Args:
        count: How many.
        name: What they are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._count = count
        self._each = max(1, count // 2)
        self._busy: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, work: Callable[[], T], namespace: str = "", *, within: float | None = None) -> T:
        """Do some work in one of them.

        Args:
            work: What.
            namespace: For whom; empty for the server itself, which may have all threads.
            within: How many seconds it may wait for its turn.

        Raises:
            TimeoutError: Its turn did not come in that time; nothing was done.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.setdefault(namespace, deque()).append(turn)
        self._hand_out()
        try:
            async with asyncio.timeout(within):
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had got its turn at the same moment
                self._done(namespace)
            raise
        future = self._pool.submit(work)

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._done, namespace)

        future.add_done_callback(ended)
        return await asyncio.wrap_future(future)

    def _done(self, namespace: str) -> None:
        self._busy[namespace] -= 1
        if not self._busy[namespace]:
            del self._busy[namespace]
        self._hand_out()

    def _hand_out(self) -> None:
        """Give free threads to those who wait, a namespace after the other."""
        for namespace in list(self._waiting):
            if self._busy.total() >= self._count:
                return
            waiting = self._waiting[namespace]
            while waiting and waiting[0].done():  # cancelled
                waiting.popleft()
            if waiting and namespace and self._busy[namespace] >= self._each:
                continue
            if waiting:
                self._busy[namespace] += 1
                waiting.popleft().set_result(None)
                self._waiting.move_to_end(namespace)
            if not waiting:
                del self._waiting[namespace]

    def close(self) -> None:
        """End them when they are done."""
        self._pool.shutdown(wait=False)

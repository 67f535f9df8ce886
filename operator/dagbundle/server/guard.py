"""What uvicorn leaves open: connections that say nothing, or too many of them.

A request's body has its own bounds (`reports`); here it is about what comes before there is a request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar

from prometheus_client import Gauge
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from dagbundle.server.settings import Settings


class Guarded(H11Protocol):
    """HTTP/1.1 whose connections are counted, and must say what they want in time.

    Attributes:
        settings: How many, and in what time.
        open_from: How many are open, by address.
    """

    settings: ClassVar[Settings]
    open_from: ClassVar[Counter[str]]
    _address: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _unread: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base does
        """Let a connection in, if there are not too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if (
            self.open_from.total() >= self.settings.connections
            or self.open_from[address] >= self.settings.connections_per_address
        ):
            transport.abort()
            return
        self._address = address
        self.open_from[address] += 1
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See the base."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """See the base."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See the base."""
        self._stop_timer()
        if self._address is not None:
            self.open_from[self._address] -= 1
            if not self.open_from[self._address]:
                del self.open_from[self._address]
            self._address = None
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the clock run exactly while there is no request; an answer that is not read yet has longer."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop_timer()
            return
        unread = cycle is not None and self.transport.get_write_buffer_size() > 0
        if self._timer is not None and self._unread and not unread:
            self._stop_timer()
        if self._timer is None:
            self._unread = unread
            seconds = self.settings.request_seconds if unread else self.settings.head_seconds
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def guarded(settings: Settings, connections: Gauge | None = None) -> type[Guarded]:
    """Make the protocol of one server; its connections are counted together, and shown by a gauge."""
    open_from: Counter[str] = Counter()
    if connections is not None:
        connections.set_function(open_from.total)
    return type("GuardedHere", (Guarded,), {"settings": settings, "open_from": open_from})

"""What uvicorn leaves open: connections that do not say what they want.

A request's body has its own bounds (`reports`), and how many connections there are is counted at the `door`; here it is
about what comes between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from dagbundle.server.settings import Settings


class Guarded(H11Protocol):
    """HTTP/1.1 whose connections must say what they want in time.

    Attributes:
        settings: In what time.
        on_lost: Called when the connection is gone.
    """

    settings: ClassVar[Settings]
    on_lost: Callable[[], None] = staticmethod(lambda: None)
    _timer: asyncio.TimerHandle | None = None
    _unread: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as its base does
        """See the base."""
        super().connection_made(transport)
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
        self.on_lost()
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


def guarded(settings: Settings) -> type[Guarded]:
    """Make the protocol of one server."""
    return type("GuardedHere", (Guarded,), {"settings": settings})

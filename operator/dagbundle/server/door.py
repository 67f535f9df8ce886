"""Accepts connections: counts them before anything is made for them, and gives TLS only to those that begin to speak.

asyncio's own servers make a TLS connection of every socket that they accept, which takes some 150 KB, before a protocol
can say that there are too many. Here a socket that is over a bound is closed at once, and one that says nothing stays
a bare socket until it has to go. `serving` opens one door for each listening socket.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Gauge

from dagbundle.server.settings import Settings

_LOG = logging.getLogger("dagbundle.server")
_AT_ONCE = 256
"""How many sockets are accepted before others have their turn."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS = 1.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: forget the connection instead of waiting for its client."""


class Guest(Protocol):
    """A protocol that says when its connection is gone."""

    on_lost: Callable[[], None]


class Door:
    """Accepts connections at one socket; with `close` and `wait_closed` as uvicorn wants of a server.

    Args:
        opened: Listens.
        make: Makes the protocol of one connection.
        settings: How many connections there may be, and how long one may say nothing.
        context: For TLS; None speaks plain HTTP.
        connections: Shows how many are open.
    """

    def __init__(
        self,
        opened: socket.socket,
        make: Callable[[], asyncio.Protocol],
        settings: Settings,
        *,
        context: ssl.SSLContext | None = None,
        connections: Gauge | None = None,
    ) -> None:
        self._socket = opened
        self._make = make
        self._settings = settings
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._open_from: Counter[str] = Counter()
        self._waiting: dict[socket.socket, tuple[asyncio.TimerHandle, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        if connections is not None:
            connections.set_function(self._open_from.total)
        opened.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Take no more connections, and drop those that have said nothing yet."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        for found in tuple(self._waiting):
            self._drop(found)

    async def wait_closed(self) -> None:
        """Wait until no handshake goes on any more."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                found, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _LOG.warning("no connection can be accepted for now", extra={"detail": str(error)})
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._listen)
                return
            self._let_in(found, str(peer[0]))

    def _let_in(self, found: socket.socket, address: str) -> None:
        """Count a connection, and wait for its first byte; or close it where there are too many."""
        most, most_each = self._settings.connections, self._settings.connections_per_address
        if self._open_from.total() >= most or self._open_from[address] >= most_each:
            if not self._open_from[address]:
                del self._open_from[address]
            _reset(found)
            return
        found.setblocking(False)
        self._open_from[address] += 1
        timer = self._loop.call_later(self._settings.handshake_seconds, self._drop, found)
        self._waiting[found] = (timer, address)
        self._loop.add_reader(found, self._begin, found)

    def _drop(self, found: socket.socket) -> None:
        address = self._stop_waiting(found)
        _reset(found)
        self._leave(address)

    def _begin(self, found: socket.socket) -> None:
        """Make a connection of a socket that has begun to speak."""
        address = self._stop_waiting(found)
        task = self._loop.create_task(self._connect(found, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, found: socket.socket, address: str) -> None:
        protocol = self._make()
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._leave(address)

        protocol.on_lost = leave  # type: ignore[attr-defined] # `guard.Guarded` has it
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                found,
                ssl=self._context,
                ssl_handshake_timeout=self._settings.handshake_seconds if self._context else None,
                # asyncio's default is 30 s; a client that does not read its answer gets the time of a request
                ssl_shutdown_timeout=self._settings.request_seconds if self._context else None,
            )
        except OSError as error:  # of TLS too: the client left, was too slow, or speaks something else
            _LOG.debug("a connection did not begin", extra={"address": address, "detail": str(error)})
            found.close()
            leave()
        except BaseException:
            leave()
            raise

    def _stop_waiting(self, found: socket.socket) -> str:
        self._loop.remove_reader(found)
        timer, address = self._waiting.pop(found)
        timer.cancel()
        return address

    def _leave(self, address: str) -> None:
        self._open_from[address] -= 1
        if not self._open_from[address]:
            del self._open_from[address]


def _reset(found: socket.socket) -> None:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    found.close()

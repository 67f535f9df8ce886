"""Runs the server: sockets, TLS with certificates that are renewed, probes on their own port, an orderly end.

At SIGTERM it is not ready any more, takes no new connections, and lets what is going on end for a while. What is cut
then is sent again, to another replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import pathlib
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fastapi
import uvicorn
from prometheus_client import Gauge
from starlette.types import ASGIApp

from dagbundle import errors
from dagbundle.server import app as applications
from dagbundle.server import probes
from dagbundle.server.door import Door
from dagbundle.server.guard import guarded
from dagbundle.server.metrics import Metrics
from dagbundle.server.settings import Settings
from dagbundle.server.tokens import TokenReviewer
from dagbundle.store.dagstore import DagStore

_LOG = logging.getLogger("dagbundle.server")
_LOOK_SECONDS = 5.0
"""How often certificate files are looked at."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: A name or an address; empty is every one of this machine.
        port: 0 takes a free one.
    """

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def listen(self) -> socket.socket:
        """Listen.

        Raises:
            UsageError: It cannot be done.
        """
        try:
            if not self.host and socket.has_dualstack_ipv6():
                return socket.create_server(("", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
            family = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as error:
            raise errors.UsageError(f"cannot listen at {self.host or '*'}:{self.port}: {error.strerror}") from error


class Certificate:
    """A certificate and its key in files that somebody renews: a Secret's volume, for one.

    Args:
        certificate: The chain, as PEM.
        key: Its key.

    Raises:
        UsageError: They cannot be used.
    """

    def __init__(self, certificate: pathlib.Path, key: pathlib.Path) -> None:
        self._files = (certificate, key)
        self._seen = b""
        self.context = _context()
        try:
            self.renew()
        except (OSError, ssl.SSLError) as error:
            raise errors.UsageError(f"{certificate} and {key} cannot be used for TLS: {error}") from error

    def renew(self) -> bool:
        """Use the files as they are now for new connections; tell whether they had changed.

        Raises:
            OSError: They cannot be read, or do not belong together (yet): the old ones stay in use.
        """
        found = hashlib.sha256(b"\0".join(file.read_bytes() for file in self._files)).digest()
        if found == self._seen:
            return False
        _context().load_cert_chain(*self._files)  # one that does not fit would leave the one in use without its key
        self.context.load_cert_chain(*self._files)
        self._seen = found
        return True

    async def keep_renewed(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if await asyncio.to_thread(self.renew):
                    _LOG.info("the certificate was renewed")
            except OSError as error:  # SSLError is one
                _LOG.warning("the certificate cannot be renewed yet", extra={"detail": str(error)})


def run(
    store: DagStore,
    tokens: TokenReviewer,
    settings: Settings,
    *,
    api: Address,
    monitoring: Address | None = None,
    certificate: Certificate | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        store: Where runs are looked up and staged.
        tokens: Whom tokens are asked of.
        settings: Bounds.
        api: Where parsers connect to.
        monitoring: Where the platform asks how it is going; None nowhere.
        certificate: For the API. Without one it speaks plain HTTP.

    Raises:
        UsageError: An address cannot be listened at, or it is plain HTTP and not of this machine.
    """
    if certificate is None and not api.is_local:
        raise errors.UsageError(
            f"tokens would travel unencrypted to {api.host or 'every address'}",
            hint="Give --tls-cert and --tls-key, or listen at 127.0.0.1",
        )
    sockets = [api.listen(), *([monitoring.listen()] if monitoring else [])]
    asyncio.run(_serve(store, tokens, settings, sockets, certificate))


async def _serve(
    store: DagStore,
    tokens: TokenReviewer,
    settings: Settings,
    sockets: list[socket.socket],
    certificate: Certificate | None,
) -> None:
    metrics = Metrics()
    stopping = asyncio.Event()
    application = applications.create(store, tokens, settings, metrics)
    served = _Server(_config(application, settings, certificate), settings, sockets[:1], metrics.connections)
    watched = _Server(
        _config(probes.create(store, metrics, is_stopping=stopping.is_set), settings), settings, sockets[1:]
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    helpers = [loop.create_task(watched.serve())]
    if certificate is not None:
        helpers.append(loop.create_task(certificate.keep_renewed()))
    serving = loop.create_task(served.serve())
    stop = loop.create_task(stopping.wait())
    _LOG.info("listening", extra={"ports": [opened.getsockname()[1] for opened in sockets]})
    await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
    _LOG.info("stopping", extra={"seconds": settings.grace_seconds})
    served.should_exit = True
    await serving
    watched.should_exit = True
    await helpers[0]
    for helper in (*helpers, stop):
        helper.cancel()
    _LOG.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to us and connections to a door."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        sockets: Sequence[socket.socket],
        connections: Gauge | None = None,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._sockets = sockets
        self._connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        doors = [
            Door(opened, self._protocol, self._settings, context=self.config.ssl, connections=self._connections)
            for opened in self._sockets
        ]
        self.servers = doors  # type: ignore[assignment] # they have all that uvicorn asks of a server
        self.started = True

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg] # uvicorn's own types say less
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _config(
    application: ASGIApp | fastapi.FastAPI,
    settings: Settings,
    certificate: Certificate | None = None,
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=guarded(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whose address it is decides how much it may ask
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        ssl_context_factory=(lambda _config, _default: certificate.context) if certificate else None,
    )


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

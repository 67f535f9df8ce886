"""Around every request: how long it may take, one line in the log, and its metrics.

A line says who asked, for which run, and how it ended, with the real reason of a refusal. It never holds a token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagbundle.server.metrics import Metrics
from dagbundle.server.settings import Settings

_KEY = "dagbundle.entry"
_LOG = logging.getLogger("dagbundle.server")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_REPORT = "/v1/runs/{run}/report"

Entry = dict[str, Any]


def entry_of(scope: Scope) -> Entry:
    """Return what the log will say of a request, to add to it."""
    found: Entry = scope.setdefault(_KEY, {})
    return found


class Ledger:
    """The middleware.

    Args:
        app: What it is around.
        settings: How long requests may take.
        metrics: Where it counts.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        entry = entry_of(scope)
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            # a report has a bound of its own
            seconds = None if scope["path"].endswith("/report") else self._settings.request_seconds
            async with asyncio.timeout(seconds):
                await self._app(scope, receive, watch)
        except TimeoutError:
            entry["reason"] = "Slow"  # the connection is closed as it is: whoever reads this slowly gets no answer
            if not status:
                raise
        except Exception:
            status = status or 500
            entry["reason"] = "InternalError"
            raise
        finally:
            self._write(scope, entry, status, time.monotonic() - began)

    def _write(self, scope: Scope, entry: Entry, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, scope["method"] if route != "other" else "other", str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if reason := entry.get("reason"):
            self._metrics.refusals.labels(reason).inc()
        if route == _REPORT:
            self._metrics.report_seconds.observe(seconds)
        if route in _QUIET and not reason:
            return
        client = scope.get("client")
        _LOG.info(
            "request",
            extra={
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 3),
                "address": client[0] if client else "",
                **entry,
            },
        )

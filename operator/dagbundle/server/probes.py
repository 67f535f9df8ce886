"""What the platform asks, on a port of its own: is the server alive, is it ready, and how is it doing.

Apart from the API, so that a flood there neither restarts the server nor blinds whoever watches, and no tenant reads
the metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import fastapi
from fastapi import Response

from dagbundle import errors
from dagbundle.server.metrics import Metrics
from dagbundle.server.workers import Workers
from dagbundle.store import schema
from dagbundle.store.dagstore import DagStore

_SECONDS = 4.0


def create(store: DagStore, metrics: Metrics, *, is_stopping: Callable[[], bool]) -> fastapi.FastAPI:
    """Make the application.

    Args:
        store: Whose database must be there.
        metrics: What to show.
        is_stopping: Whether the server is about to end: then it is not ready.
    """
    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    worker = Workers(1, "probes")

    @app.get("/healthz")
    async def is_alive() -> Response:
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def is_ready() -> Response:
        if is_stopping():
            return Response("stopping\n", 503, media_type="text/plain")
        try:
            async with asyncio.timeout(_SECONDS):
                await worker.run(lambda: schema.check(store.db))
        except TimeoutError:
            return Response("the database does not answer\n", 503, media_type="text/plain")
        except errors.StoreError as error:
            return Response(f"{error.message}\n", 503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app

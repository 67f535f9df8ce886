"""The world of `support.world`, on an API server and a store that are both in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagbundle.store.dagstore import DagStore
from support.api_server import ApiServer
from support.world import NAMESPACE, World


@pytest.fixture
def api() -> ApiServer:
    """An API server with the tenant's namespace."""
    server = ApiServer()
    server.memory.namespaces.add(NAMESPACE)
    return server


@pytest.fixture
def world(api: ApiServer) -> Iterator[World]:
    """A controller's world, in which nothing is yet."""
    with DagStore.open("sqlite:///:memory:", upgrade=True) as store:
        yield World(api, store)

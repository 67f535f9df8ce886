"""The API server in memory does what a real one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.api_server import ApiServer
from support.cluster_contract import ClusterContract, Wait


class TestTheApiServerInMemory(ClusterContract):
    @pytest.fixture
    def wait(self, api: ApiServer) -> Wait:
        def wait(so: Callable[[], bool]) -> None:
            api.memory.collect_garbage()
            assert so()

        return wait

"""A real API server does what the one in memory does, on which the unit tests of the controller stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.bare import NAMESPACE, World
from e2e.replica import eventually
from support.cluster_contract import ClusterContract, Wait


class TestARealApiServer(ClusterContract):
    @pytest.fixture(autouse=True)
    def clean(self, world: World) -> Iterator[None]:
        """Leave nothing to the next test."""
        yield
        world.kubectl.text("delete", "jobs,pods", "--all", "--namespace", NAMESPACE, "--wait=false")
        if (body := world.bundle()) is not None:
            world.cluster.write_finalizers(body, [])
            world.kubectl.text("delete", "dagbundles", "--all", "--namespace", NAMESPACE)
        eventually("the Jobs are gone", lambda: not world.jobs())

    @pytest.fixture
    def wait(self) -> Wait:
        def wait(so: Callable[[], bool]) -> None:
            eventually("the cluster's controllers have done their work", so)

        return wait

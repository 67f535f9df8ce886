"""A step that fails: what the status says of it, and when the bundle is looked at again."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle import errors
from dagbundle.controller.reconciler import Result
from support.api_server import ApiServer
from support.world import KEY, World


@pytest.fixture
def published(world: World) -> World:
    """A world with a published bundle."""
    world.apply()
    world.settle()
    return world


def breaks(world: World, name: str, error: BaseException) -> None:
    """Let a call of the store or the API server fail."""

    def fails(*_: Any, **__: Any) -> None:
        raise error

    target = world.cluster if hasattr(world.cluster, name) else world.store
    setattr(target, name, fails)


def mend(world: World, name: str) -> None:
    del (world.cluster if name in vars(world.cluster) else world.store).__dict__[name]


def ready(world: World) -> tuple[str, str, str]:
    condition = world.bundle()["status"]["conditions"][0]
    return condition["status"], condition["reason"], condition["message"]


def test_what_passes_by_itself_says_nothing_of_a_version_that_is_published(published: World) -> None:
    before = published.bundle()
    breaks(published, "head", errors.StoreUnavailableError("it restarts"))
    with pytest.raises(errors.StoreUnavailableError):
        published.reconcile()
    assert published.bundle() == before


def test_what_passes_by_itself_is_said_of_a_generation_that_is_not_dealt_with(published: World) -> None:
    published.apply("registry.test/sales:2")
    breaks(published, "head", errors.StoreUnavailableError("it restarts"))
    with pytest.raises(errors.StoreUnavailableError):
        published.reconcile()
    assert ready(published) == ("Unknown", "StoreUnavailable", "it restarts")
    assert published.bundle()["status"]["dags"]["total"] == 3  # what could not be asked stays
    assert published.bundle()["status"]["observedGeneration"] == 1


def test_what_does_not_pass_is_said_even_of_a_version_that_is_published(published: World) -> None:
    breaks(published, "head", errors.StoreError("no"))
    with pytest.raises(errors.StoreError):
        published.reconcile()
    assert ready(published)[:2] == ("False", "StoreRefused")


@pytest.mark.parametrize("error", [KeyError("a value of somebody's"), SystemExit(1)])
def test_a_defect_is_said_without_its_words(published: World, error: BaseException) -> None:
    breaks(published, "head", error)
    with pytest.raises(type(error)):
        published.reconcile()
    assert ready(published)[:2] == ("False", "OperatorFailed")
    assert type(error).__name__ in ready(published)[2]
    assert "somebody" not in ready(published)[2]


def test_a_name_that_another_bundle_owns_is_waited_for(world: World) -> None:
    world.apply()
    world.reconcile()
    breaks(world, "register_bundle", errors.OwnershipError("it is another's"))
    assert world.reconcile() == Result(60.0, "BundleNameOwned")
    assert ready(world) == ("False", "BundleNameOwned", "it is another's")


def test_a_step_that_waits_keeps_the_status_where_the_store_cannot_be_asked_either(world: World) -> None:
    world.apply(subdirs=[{"path": "ingest", "serviceAccountName": "nobody"}])
    world.reconcile()
    world.reconcile()
    before = world.bundle()["status"]
    real, asked = world.store.head, []

    def only_once(key: Any) -> Any:
        asked.append(key)
        if len(asked) > 1:
            raise errors.StoreUnavailableError("it restarts")
        return real(key)

    world.store.head = only_once  # type: ignore[method-assign]
    assert world.reconcile() == Result(60.0, "AccessDenied")
    assert len(asked) == 2
    assert world.bundle()["status"] == before


def test_an_object_that_changed_meanwhile_is_stale_and_not_written(published: World) -> None:
    published.apply(suspend=True)
    controller = published.controller()
    published.apply(suspend=False)
    before = published.bundle()
    with pytest.raises(errors.StaleError):
        controller.reconcile(KEY)
    assert published.bundle() == before


def test_a_failure_that_cannot_be_written_is_raised_all_the_same(published: World) -> None:
    before = published.bundle()
    breaks(published, "head", errors.StoreError("no"))
    breaks(published, "write_status", errors.ClusterError("away"))
    with pytest.raises(errors.StoreError, match="no"):
        published.reconcile()
    assert published.bundle() == before


def test_a_status_that_cannot_be_written_is_written_at_the_next_look(world: World) -> None:
    world.apply()
    world.reconcile()
    breaks(world, "write_status", errors.ClusterError("away"))
    with pytest.raises(errors.ClusterError):
        world.reconcile()
    assert "conditions" not in world.bundle()["status"]
    mend(world, "write_status")
    assert world.reconcile() == Result(60.0, "Parsing")
    assert ready(world)[1] == "Parsing"


def test_an_event_that_cannot_be_posted_is_lost_and_the_status_has_it(world: World, api: ApiServer) -> None:
    world.apply()
    world.reconcile()
    api.memory.refusals["POST", "events"] = 500, "away"
    assert world.reconcile() == Result(60.0, "Parsing")
    assert ready(world)[1] == "Parsing"
    assert api.events == []

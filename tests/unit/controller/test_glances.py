"""Many bundles at a time: one look at the store for all of them, and what it is enough for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dagbundle import errors
from dagbundle.controller.reconciler import Result
from dagbundle.store.records import Head
from support.api_server import ApiServer
from support.world import KEY, NAMESPACE, World

IMAGE_2 = "registry.test/sales:2"


@pytest.fixture
def published(world: World) -> World:
    """A world with a published bundle."""
    world.apply()
    world.settle()
    return world


def glance(world: World) -> Result | None:
    """Look as a controller does that has just started."""
    controller = world.controller()
    world.fuse.calls.clear()
    return controller.rest(KEY, controller.heads([KEY])[KEY])


def test_one_look_at_the_store_is_enough_for_a_bundle_at_rest(published: World) -> None:
    before = published.bundle()
    assert glance(published) == Result(None, "Published")
    assert published.fuse.calls == ["heads"]
    assert published.bundle() == before


def test_bundles_are_looked_at_by_the_clusters_name(api: ApiServer, world: World) -> None:
    other = World(api, world.store, "west")
    other.apply()
    other.settle()
    heads = other.controller().heads([KEY, (NAMESPACE, "none")])
    assert {key: head.revision for key, head in heads.items()} == {KEY: 1, (NAMESPACE, "none"): 0}
    assert world.controller().heads([KEY])[KEY].revision == 0


def test_a_bundle_that_is_gone_needs_nothing(published: World) -> None:
    controller = published.controller()
    head = controller.heads([KEY])[KEY]
    controller._seen.take_bundle(published.bundle(), deleted=True)
    assert controller.rest(KEY, head) == Result()


@pytest.mark.parametrize(("suspend", "outcome"), [(True, "Suspended"), (False, "Published")])
def test_a_glance_writes_the_status_that_a_reconcile_would(published: World, *, suspend: bool, outcome: str) -> None:
    published.apply(suspend=not suspend)
    published.reconcile()
    published.apply(suspend=suspend)
    assert glance(published) == Result(None, outcome)
    told = published.bundle()
    assert told["status"]["conditions"][0]["reason"] == outcome
    assert told["status"]["observedGeneration"] == told["metadata"]["generation"]
    assert published.reconcile() == Result(None, outcome)
    assert published.bundle() == told


def test_a_rollout_that_failed_is_at_rest_until_its_time(world: World) -> None:
    world.apply()
    world.reconcile()
    world.reconcile()
    for job in world.jobs():
        world.fail(job, "BackoffLimitExceeded", "no")
    world.reconcile()
    told = world.bundle()
    found = glance(world)
    assert found is not None
    assert (found.outcome, found.again_in is not None) == ("RunFailed", True)
    assert world.bundle() == told


def unguarded(world: World, _: ApiServer) -> None:
    world.apply()


def without_a_rollout(world: World, api: ApiServer) -> None:
    unguarded(world, api)
    world.reconcile()


def with_an_open_one(world: World, api: ApiServer) -> None:
    without_a_rollout(world, api)
    world.reconcile()


def edited(world: World, api: ApiServer) -> None:
    unguarded(world, api)
    world.settle()
    world.apply(IMAGE_2)


def invalid(world: World, api: ApiServer) -> None:
    unguarded(world, api)
    world.settle()
    world.apply(subdirs=[{"path": "../x"}])


def deleted(world: World, api: ApiServer) -> None:
    unguarded(world, api)
    world.settle()
    api.delete(*KEY)


@pytest.mark.parametrize("made", [unguarded, without_a_rollout, with_an_open_one, edited, invalid, deleted])
def test_what_is_not_at_rest_is_left_alone(
    world: World, api: ApiServer, made: Callable[[World, ApiServer], None]
) -> None:
    made(world, api)
    before = world.bundle()
    assert glance(world) is None
    assert world.fuse.calls == ["heads"]
    assert world.bundle() == before


def test_a_glance_at_what_cannot_be_read_leaves_it_to_a_reconcile(
    published: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("x")

    controller = published.controller()
    head: Head = controller.heads([KEY])[KEY]
    monkeypatch.setattr(controller, "_at_rest", fails)
    assert controller.rest(KEY, head) is None


def test_a_glance_at_an_object_that_changed_meanwhile_is_stale(published: World) -> None:
    published.apply(suspend=True)
    controller = published.controller()
    published.apply(suspend=False)
    with pytest.raises(errors.StaleError):
        controller.rest(KEY, controller.heads([KEY])[KEY])

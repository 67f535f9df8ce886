"""One pass over a DagBundle that is being deleted: what becomes of its DAGs, its finalizer and its Jobs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.controller import deletion
from dagbundle.controller.queue import MAX_BACKOFF
from dagbundle.controller.reconciler import Result
from dagbundle.store.dagstore import DagStore
from support.api_server import ApiServer
from support.world import KEY, NAMESPACE, World

HOLD = "example.com/hold"


@pytest.fixture
def published(world: World) -> World:
    """A world with a published bundle."""
    world.apply()
    world.settle()
    assert sorted(world.state()["dags"]) == ["a", "b", "c"]
    return world


def delete(world: World, api: ApiServer) -> dt.datetime:
    """Delete the bundle, and return when."""
    api.delete(*KEY)
    return dt.datetime.fromisoformat(world.bundle()["metadata"]["deletionTimestamp"])


def told(api: ApiServer) -> tuple[str, str, str]:
    """Return the newest Event."""
    event = api.events[-1]
    return event["type"], event["reason"], event["message"]


def stub(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(DagStore, "deactivate_bundle", fails)


def test_a_deletion_deactivates_the_dags_and_lets_the_bundle_go(published: World, api: ApiServer) -> None:
    delete(published, api)
    assert published.reconcile() == Result(None, "Deleted")
    assert published.bundle() is None
    assert published.state()["dags"] == {}
    assert told(api) == ("Normal", "Deleted", "3 DAGs are deactivated")
    assert api.events[-1]["involvedObject"]["name"] == KEY[1]


def test_its_jobs_go_with_it(published: World, api: ApiServer) -> None:
    delete(published, api)
    published.reconcile()
    api.memory.collect_garbage()
    assert published.jobs() == []


def test_a_deletion_in_the_midst_of_a_rollout_publishes_nothing(world: World, api: ApiServer) -> None:
    world.apply()
    world.reconcile()
    world.reconcile()
    delete(world, api)
    world.node()
    assert world.reconcile() == Result(None, "Deleted")
    assert (world.bundle(), world.state()["dags"]) == (None, {})
    assert world.reconcile() == Result()


def test_a_bundle_that_wants_it_leaves_its_dags_as_they_are(published: World, api: ApiServer) -> None:
    published.apply(deletionPolicy="Orphan")
    delete(published, api)
    published.reconcile()
    assert published.bundle() is None
    assert sorted(published.state()["dags"]) == ["a", "b", "c"]
    assert told(api) == ("Normal", "Deleted", "its DAGs stay as they are (deletionPolicy Orphan)")


def test_a_bundle_that_was_never_rolled_out_goes_too(world: World, api: ApiServer) -> None:
    world.apply()
    world.reconcile()
    delete(world, api)
    assert world.reconcile() == Result(None, "Deleted")
    assert world.bundle() is None
    assert told(api)[2] == "it had no DAGs"


def test_a_bundle_whose_spec_is_invalid_goes_too(published: World, api: ApiServer) -> None:
    published.apply(subdirs=[{"path": "../x"}])
    delete(published, api)
    assert published.reconcile() == Result(None, "Deleted")
    assert (published.bundle(), published.state()["dags"]) == (None, {})


def test_finalizers_of_others_stay_and_nothing_is_done_twice(published: World, api: ApiServer) -> None:
    published.cluster.write_finalizers(published.bundle(), [deletion.FINALIZER, HOLD])
    delete(published, api)
    assert published.reconcile() == Result(None, "Deleted")
    left = published.bundle()
    assert left["metadata"]["finalizers"] == [HOLD]
    assert published.state()["dags"] == {}
    published.fuse.calls.clear()
    assert published.reconcile() == Result(None, "Deleted")
    assert (published.fuse.calls, published.bundle()) == ([], left)


def test_a_bundle_without_our_finalizer_gets_none_while_it_is_deleted(world: World, api: ApiServer) -> None:
    world.apply()
    world.cluster.write_finalizers(world.bundle(), [HOLD])
    delete(world, api)
    before = world.bundle()
    world.reconcile()
    assert world.bundle() == before


def test_a_deletion_waits_for_the_database_and_says_so(
    published: World, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = delete(published, api)
    stub(monkeypatch, errors.StoreUnavailableError("it restarts"))
    moment = since + dt.timedelta(seconds=deletion.PATIENCE - 1)
    published.now = lambda: moment
    with pytest.raises(errors.StoreUnavailableError):
        published.reconcile()
    body = published.bundle()
    assert body["metadata"]["finalizers"] == [deletion.FINALIZER]
    assert body["status"]["conditions"][0]["reason"] == "StoreUnavailable"
    assert sorted(published.state()["dags"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(errors.StoreUnavailableError("it restarts"), "it restarts"), (KeyError("x"), "KeyError"), (SystemExit(), "Exit")],
)
def test_a_deletion_goes_on_without_the_database_when_it_has_waited(
    published: World, api: ApiServer, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    since = delete(published, api)
    stub(monkeypatch, error)
    moment = since + dt.timedelta(seconds=deletion.PATIENCE)
    published.now = lambda: moment
    assert published.reconcile() == Result(None, "Deleted")
    assert published.bundle() is None
    assert sorted(published.state()["dags"]) == ["a", "b", "c"]
    kind, reason, message = told(api)
    assert (kind, reason) == ("Warning", "Deleted")
    assert "dagbundle prune" in message
    assert words in message


def test_a_deletion_that_failed_is_tried_when_its_patience_is_over_and_not_much_later(
    published: World, api: ApiServer
) -> None:
    assert published.controller().retry_within(KEY) == MAX_BACKOFF
    since = delete(published, api)
    for seconds, within in ((0.0, deletion.PATIENCE + 1), (deletion.PATIENCE - 10, 11.0), (400.0, MAX_BACKOFF)):
        moment = since + dt.timedelta(seconds=seconds)
        published.now = lambda moment=moment: moment  # type: ignore[misc]
        assert published.controller().retry_within(KEY) == pytest.approx(within)
    assert published.controller().retry_within((NAMESPACE, "none")) == MAX_BACKOFF


def test_a_resource_that_changed_meanwhile_is_looked_at_again(published: World, api: ApiServer) -> None:
    delete(published, api)
    controller = published.controller()
    published.cluster.write_status(published.bundle(), {"revision": 7})
    with pytest.raises(errors.StaleError):
        controller.reconcile(KEY)
    assert published.bundle()["status"]["revision"] == 7
    assert published.reconcile() == Result(None, "Deleted")
    assert told(api)[2] == "0 DAGs are deactivated"


def test_a_bundle_that_is_made_again_publishes_its_dags_again(published: World, api: ApiServer) -> None:
    delete(published, api)
    published.reconcile()
    published.apply()
    published.settle()
    assert sorted(published.state()["dags"]) == ["a", "b", "c"]
    assert published.bundle()["status"]["conditions"][0]["reason"] == "Published"

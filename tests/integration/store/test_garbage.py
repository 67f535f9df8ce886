from __future__ import annotations

import pytest

from dagbundle import errors
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import Garbage
from integration.store.builder import OPS, SALES, SYNTAX_ERROR, apply, counted, prepare


def test_only_what_nothing_points_at_is_collected(store: DagStore) -> None:
    for number in range(1, 6):
        apply(store, SALES, {"a.py": {"a": str(number)}, "b.py": {"b": "same"}, "e.py": SYNTAX_ERROR})
    apply(store, OPS, {"o.py": {"o": "1"}})
    before = store.live(SALES)
    found = store.collect_garbage(keep_revisions=2)
    assert found == Garbage(rollouts=4, versions=3, contents=3, sources=3)
    assert store.live(SALES) == before
    assert sorted(store.state_at(SALES, 4).dags) == ["a", "b"]
    for revision in (1, 2, 3):
        with pytest.raises(errors.NotFoundError):
            store.state_at(SALES, revision)
        with pytest.raises(errors.NotFoundError):
            store.republish(SALES, to_revision=revision, base_revision=5, hold=None)
    assert [row.revision for row in store.history(SALES).items] == [5, 4]
    assert store.get_dag("b").since_revision == 1
    assert store.list_errors(SALES).items[0].since_revision == 1
    assert store.republish(SALES, to_revision=4, base_revision=5, hold=None) == 6
    assert store.get_serialized_dag("a")["dag"]["description"] == "4"
    assert store.source("a") == "# [('a', '4')]"


def test_collecting_twice_finds_nothing_more(store: DagStore) -> None:
    for number in range(3):
        apply(store, SALES, {"a.py": {"a": str(number)}})
    assert store.collect_garbage(keep_revisions=1) == Garbage(rollouts=2, versions=2, contents=2, sources=2)
    assert store.collect_garbage(keep_revisions=1) == Garbage()


def test_what_is_staged_or_remembered_or_claimed_is_not_garbage(store: DagStore) -> None:
    apply(store, OPS, {"o.py": {"shared": "1"}})
    apply(store, SALES, {"a.py": {"shared": "2"}, "b.py": {"b": "1"}}, claims=True)
    claim = store.waiting_claims(["shared"])[0]
    waiting = prepare(store, SALES, {"a.py": {"shared": "2"}, "c.py": {"c": "1"}})
    store.collect_garbage(keep_revisions=1)
    assert store.outcomes(claim.rollout_id)[0].files
    apply(store, OPS, {"o.py": {}})
    assert waiting.publish(store) == 2
    assert store.get_serialized_dag("shared")["dag"]["description"] == "2"
    assert prepare(store, SALES, {"a.py": None, "c.py": None}).publish(store) == 3


def test_nothing_is_left_of_a_bundle_that_was_emptied_but_its_last_rollout(store: DagStore) -> None:
    apply(store, SALES, {"a.py": {"a": "1"}})
    apply(store, SALES, {})
    store.collect_garbage(keep_revisions=1)
    for table in ("dag", "dag_version", "dag_content", "task", "edge", "task_group", "source_code", "submission"):
        assert counted(store, table) == 0, table


def test_the_live_revision_is_always_kept(store: DagStore) -> None:
    with pytest.raises(errors.UsageError, match="At least"):
        store.collect_garbage(keep_revisions=0)

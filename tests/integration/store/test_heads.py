from __future__ import annotations

import pytest

from dagbundle.rollout.model import BundleKey, Hold
from dagbundle.store.dagstore import DagStore
from integration.store.builder import OPS, SALES, SYNTAX_ERROR, apply, prepare, run, staged, start
from integration.store.test_reading import statements_of

UNKNOWN = BundleKey("team-sales", "unknown")
ABROAD = BundleKey(SALES.namespace, SALES.name, "abroad")


def record(store: DagStore, rollout_id: str, subdir: str, shards: int = 1) -> None:
    row = store.record_job(
        rollout_id, subdir, namespace="team-sales", service_account="parser", name=f"job-{subdir}", shards=shards,
        request={},
    )  # fmt: skip
    store.job_created(row.run_id, f"uid-{subdir}")


@pytest.fixture
def lived(store: DagStore) -> DagStore:
    """A store with bundles in every situation that a controller meets."""
    apply(store, SALES, {"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    apply(store, SALES, {"a.py": {"a": "2"}, "b.py": SYNTAX_ERROR})
    apply(store, OPS, {"ops": {"ops/a.py": {"c": "1"}}, "more": {"more/a.py": {"d": "1"}}})
    apply(store, ABROAD, {"e.py": {"e": "1"}})
    going = start(store, OPS, ("ops", "more"))
    record(store, going.id, "ops", shards=2)
    record(store, going.id, "more")
    run(store, going, "more", [staged("more/a.py", {"d": "2"})])
    live = store.live(ABROAD)
    apply(store, ABROAD, {"e.py": {"e": "2"}})
    hold = Hold(live.template_hash, live.version, "because")
    store.republish(ABROAD, to_revision=1, base_revision=2, hold=hold)
    return store


@pytest.mark.parametrize("bundle", [SALES, OPS, ABROAD], ids=str)
def test_a_head_says_what_the_other_questions_would(lived: DagStore, bundle: BundleKey) -> None:
    head, live, rollout = lived.head(bundle), lived.live(bundle), lived.latest_rollout(bundle)
    assert rollout is not None
    assert (head.revision, head.version, head.template_hash, head.holds) == (
        live.revision, live.version, live.template_hash, live.holds,
    )  # fmt: skip
    assert (head.dags, head.kept) == (len(live.dags), sum(dag.kept for dag in live.dags.values()))
    assert head.counts == lived.history(bundle, limit=1).items[0].counts
    assert head.rollout == rollout
    assert (head.jobs, head.states) == (lived.jobs(rollout.id), lived.run_states(rollout.id))


def test_a_head_of_what_is_not_known_has_nothing(lived: DagStore) -> None:
    head = lived.head(UNKNOWN)
    assert (head.bundle, head.revision, head.dags, head.counts, head.rollout) == (UNKNOWN, 0, 0, None, None)


def test_a_bundle_that_never_published_has_its_rollout(lived: DagStore) -> None:
    rollout = start(lived, UNKNOWN)
    head = lived.head(UNKNOWN)
    assert (head.revision, head.counts, head.rollout) == (0, None, rollout)


def test_the_heads_of_many_are_the_heads_of_each(lived: DagStore) -> None:
    wanted = [SALES, OPS, ABROAD, UNKNOWN]
    assert lived.heads(wanted) == {bundle: lived.head(bundle) for bundle in wanted}
    assert lived.heads([]) == {}


def test_the_number_of_statements_does_not_depend_on_the_number_of_bundles(store: DagStore) -> None:
    bundles = [BundleKey("team-sales", f"bundle-{index}") for index in range(20)]
    for index, bundle in enumerate(bundles):
        prepare(store, bundle, {"a.py": {f"dag-{index}": "1"}}).publish(store)
    one = statements_of(store, lambda: store.heads(bundles[:1]))
    assert len(statements_of(store, lambda: store.heads(bundles))) == len(one)

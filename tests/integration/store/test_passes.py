"""Passes: some files of a published rollout are parsed again, and amend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from dagbundle import errors
from dagbundle.engine.publishing import Publisher
from dagbundle.rollout import budgets
from dagbundle.rollout.model import BundleKey, Hold, Problem
from dagbundle.store import bundles, passes
from dagbundle.store.dagstore import DagStore
from dagbundle.store.records import RolloutRow
from integration.store.builder import OPS, SALES, SYNTAX_ERROR, run, staged, start

What = Mapping[str, str] | Problem


def publish(store: DagStore, rollout: RolloutRow) -> None:
    Publisher(store, lambda _: None).finish(rollout.id)


def published(store: DagStore, bundle: BundleKey, **subdirs: Mapping[str, What]) -> RolloutRow:
    """Publish files by subdir; `here` is the bundle's root."""
    found = {"." if name == "here" else name: files for name, files in subdirs.items()}
    rollout = start(store, bundle, tuple(found))
    for subdir, files in found.items():
        run(store, rollout, subdir, [staged(path, what) for path, what in files.items()])
    publish(store, rollout)
    return store.rollout(rollout.id)


def ask(store: DagStore, bundle: BundleKey, *paths: str) -> None:
    store.db.write(lambda c: passes.ask(c, store.db.tables, bundles.find(c, store.db.tables, bundle), paths or None))


def begin(store: DagStore, base: RolloutRow, *paths: str) -> RolloutRow:
    ask(store, base.bundle, *paths)
    found = store.passes.start(base.bundle, base.id)
    assert found is not None
    return found


def amend(store: DagStore, base: RolloutRow, **files: What) -> None:
    """Parse files of the root again, by their names without `.py`, and publish what that makes of the rollout."""
    found = begin(store, base, *(f"{name}.py" for name in files))
    run(store, found, ".", [staged(f"{name}.py", what) for name, what in files.items()])
    store.passes.amend(found.id)
    publish(store, base)


def salts(store: DagStore, bundle: BundleKey = SALES) -> dict[str, str]:
    return {
        dag_id: store.get_serialized_dag(dag_id)["dag"]["description"] for dag_id in sorted(store.live(bundle).dags)
    }


def test_a_pass_publishes_what_changed_in_its_files_and_leaves_the_others(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "2", "second": "2"})
    assert salts(store) == {"a": "2", "b": "1", "second": "2"}
    live = store.live(SALES)
    assert (live.version, live.revision) == (base.version, 2)
    assert [dag.bundle_version for dag in live.dags.values()] == [base.version] * 3
    assert store.rollout(base.id).reason == "Published"


def test_a_pass_removes_what_its_files_define_no_more(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1", "second": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "1"})
    assert salts(store) == {"a": "1", "b": "1"}


def test_a_pass_over_a_file_that_broke_keeps_its_dags(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a=SYNTAX_ERROR)
    assert salts(store) == {"a": "1", "b": "1"}
    row = store.rollout(base.id)
    assert (row.reason, "a.py" in row.message) == ("KeptLastGood", True)


def test_a_pass_mends_a_file_while_another_one_stays_broken(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": SYNTAX_ERROR})
    amend(store, base, a={"a": "2"})
    row = store.rollout(base.id)
    assert (salts(store), row.reason, "b.py" in row.message) == ({"a": "2"}, "KeptLastGood", True)


def test_a_pass_that_finds_all_as_it_was_makes_no_revision(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "1"})
    assert store.live(SALES).revision == 1


def test_a_claim_of_another_file_is_judged_again_with_what_a_pass_amended(store: DagStore) -> None:
    owner = published(store, OPS, here={"x.py": {"x": "1"}})
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"x": "sales"}})
    amend(store, base, a={"a": "2"})
    fresh = start(store, OPS)
    run(store, fresh, ".", [staged("x.py", {"y": "1"})])
    publish(store, fresh)
    assert salts(store) == {"a": "2", "x": "sales"}
    assert owner.bundle == OPS


def test_a_pass_supersedes_nothing_and_its_rollout_is_published_meanwhile(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    begin(store, base, "a.py")
    head = store.head(SALES)
    assert head.rollout == store.rollout(base.id)
    assert (head.rollout.state, head.asked, head.requested) == ("Published", (), False)
    assert head.amending is not None
    assert (head.amending.rollout.document.files, head.amending.rollout.document.amends) == ({".": ("a.py",)}, base.id)


def test_a_newer_rollout_supersedes_a_pass(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    found = begin(store, base, "a.py")
    start(store, SALES)
    with pytest.raises(errors.SupersededError):
        run(store, found, ".", [staged("a.py", {"a": "2"})])
    store.passes.amend(found.id)
    assert store.rollout(found.id).state == "Superseded"
    assert store.head(SALES).amending is None


def test_a_pass_does_not_amend_a_bundle_that_was_rolled_back(store: DagStore) -> None:
    published(store, SALES, here={"a.py": {"a": "1"}})
    base = published(store, SALES, here={"a.py": {"a": "2"}})
    found = begin(store, base, "a.py")
    run(store, found, ".", [staged("a.py", {"a": "3"})])
    hold = Hold(base.template_hash, base.version, "because")
    store.republish(SALES, to_revision=1, base_revision=2, hold=hold)
    with pytest.raises(errors.SupersededError, match="is not as"):
        store.passes.amend(found.id)
    assert salts(store) == {"a": "1"}


def test_a_pass_whose_run_is_not_closed_amends_nothing(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    found = begin(store, base, "a.py")
    with pytest.raises(errors.RunOpenError):
        store.passes.amend(found.id)
    store.passes.fail(found.id, "RunFailed", "its pod was killed")
    assert (store.rollout(found.id).state, store.rollout(base.id).state) == ("Blocked", "Published")
    assert store.head(SALES).amending is None


def test_files_that_a_pass_was_not_asked_for_are_left_out(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    found = begin(store, base, "a.py")
    run(store, found, ".", [staged("a.py", {"a": "2"}), staged("b.py", {"b": "forged"}), staged("c.py", {"c": "new"})])
    store.passes.amend(found.id)
    publish(store, base)
    assert salts(store) == {"a": "2", "b": "1"}


def test_amending_again_changes_nothing(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    amend(store, base, a={"a": "2"})
    found = store.db.read(
        lambda c: c.execute(
            sa.select(store.db.tables.rollout.c.id).where(store.db.tables.rollout.c.id != base.id)
        ).scalar_one()
    )
    store.passes.amend(found)
    assert store.rollout(base.id).state == "Published"


@pytest.mark.parametrize("paths", [("a.py", "unknown.py"), tuple(f"{number}.py" for number in range(101)), ()])
def test_the_whole_bundle_is_asked_for_where_a_pass_cannot_do_it(store: DagStore, paths: Sequence[str]) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    ask(store, SALES, *paths)
    assert store.passes.start(SALES, base.id) is None
    head = store.head(SALES)
    assert (head.requested, head.asked, head.amending) == (True, (), None)


def test_files_that_are_asked_for_one_after_the_other_are_parsed_together(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}}, etl={"etl/b.py": {"b": "1"}})
    ask(store, SALES, "a.py")
    found = begin(store, base, "etl/b.py")
    assert found.document.files == {".": ("a.py",), "etl": ("etl/b.py",)}
    assert found.subdirs == (".", "etl")


def test_what_is_asked_for_while_a_pass_is_open_waits_for_the_next_one(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    first = begin(store, base, "a.py")
    assert begin(store, base, "b.py").id == first.id
    assert store.head(SALES).asked == ("b.py",)
    store.passes.fail(first.id, "RunFailed", "")
    second = store.passes.start(SALES, base.id)
    assert second is not None
    assert second.document.files == {".": ("b.py",)}


def test_a_pass_that_gives_up_asks_for_the_whole_bundle(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    found = begin(store, base, "a.py")
    store.passes.give_up(found.id, "SourceChanged", "the tag names another image")
    assert (store.head(SALES).requested, store.rollout(found.id).reason) == (True, "SourceChanged")


def test_a_file_that_a_pass_parsed_is_remembered_as_it_was_then(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "2"})
    found = store.remembered(SALES, ".")
    assert [dag.sha256 for dag in found["a.py"].dags] == [store.live(SALES).dags["a"].sha256]
    table = store.db.tables.source_file
    rows = store.db.read(lambda c: dict(c.execute(sa.select(table.c.path, table.c.revision)).all()))
    assert rows == {"a.py": 2, "b.py": 1}


def test_passes_add_up_to_no_more_errors_than_a_rollout_has(store: DagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "TEXT_BYTES", 2000)
    base = published(store, SALES, here={f"{name}.py": {name: "1"} for name in "abc"})
    amend(store, base, a=Problem("SyntaxError", "x" * 1000))
    found = begin(store, base, "b.py")
    run(store, found, ".", [staged("b.py", Problem("SyntaxError", "x" * 1000))])
    with pytest.raises(errors.ConflictError, match="more than 2,000 bytes of errors"):
        store.passes.amend(found.id)
    store.passes.give_up(found.id, "TooManyErrors", "")
    assert {path: bool(file.problems) for path, file in store.remembered(SALES, ".").items()} == {
        "a.py": True, "b.py": False, "c.py": False,
    }  # fmt: skip


def test_a_pass_undoes_no_rollback_to_an_earlier_revision_of_the_same_rollout(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "bad"})
    store.republish(SALES, to_revision=1, base_revision=2, hold=None)
    ask(store, SALES, "b.py")
    assert store.passes.start(SALES, base.id) is None
    assert (salts(store)["a"], store.head(SALES).requested) == ("1", True)


def test_a_file_that_a_pass_reports_as_unchanged_is_not_taken(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}})
    found = begin(store, base, "a.py")
    run(store, found, ".", [staged("a.py", None)])
    with pytest.raises(errors.ConflictError, match=r"a\.py was to be parsed"):
        store.passes.amend(found.id)


def test_files_that_many_ask_for_at_once_are_all_kept(store: DagStore) -> None:
    published(store, SALES, here={"a.py": {"a": "1"}})
    names = [f"{number}.py" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: ask(store, SALES, name), names))
    assert store.head(SALES).asked == tuple(names)


def test_values_that_passes_ask_for_are_bounded(store: DagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "LOOKUPS", 5)

    def job(rollout: RolloutRow, *keys: str) -> None:
        row = store.record_job(
            rollout.id, ".", namespace="n", service_account="a", name=f"job-{rollout.id}", request={}
        )
        for key in keys:
            assert store.record_lookup(row.run_id, "variable", key, None, most=5)

    base = start(store, SALES)
    job(base, "a", "b", "c")
    run(store, base, ".", [staged("a.py", {"a": "1"})])
    publish(store, base)
    for keys in (("c", "d"), ("e", "f")):
        found = begin(store, base, "a.py")
        job(found, *keys)
        run(store, found, ".", [staged("a.py", {"a": keys[0]})])
        if keys[0] == "e":
            with pytest.raises(errors.ConflictError, match="more than 5 Variables"):
                store.passes.amend(found.id)
        else:
            store.passes.amend(found.id)
            publish(store, base)
    assert salts(store) == {"a": "c"}


def test_counts_of_a_run_follow_a_pass(store: DagStore) -> None:
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    amend(store, base, a={"a": "2", "second": "2"})
    [state] = store.run_states(base.id)
    assert (state.files, state.dags) == (2, 3)


@pytest.mark.postgres
def test_a_file_that_is_asked_for_while_a_pass_starts_is_kept_for_the_next_one(postgres_store: DagStore) -> None:
    store = postgres_store
    base = published(store, SALES, here={"a.py": {"a": "1"}, "b.py": {"b": "1"}})
    ask(store, SALES, "a.py")
    waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as pool, store.db.engine.begin() as starting:
        assert passes._start(starting, store.db.tables, SALES, base.id, "pass") is not None
        asking = pool.submit(ask, store, SALES, "b.py")
        while not (starting.execute(waits).scalar_one() or asking.done()):
            pass
        starting.commit()
        asking.result()
    head = store.head(SALES)
    assert head.amending is not None
    assert (head.amending.rollout.document.files, head.asked) == ({".": ("a.py",)}, ("b.py",))

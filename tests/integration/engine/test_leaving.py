"""Subdirs that leave the spec take their DAGs along, and what the store refuses for good is said at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.engine import engine
from dagbundle.rollout import policy
from dagbundle.rollout.model import BundleKey, Change, Judgement, Live
from dagbundle.store.dagstore import DagStore
from support import reports
from support.applying import apply, live, resource

SALES = BundleKey("team", "sales")


def spec(*subdirs: str, scope: str = "Bundle") -> dict[str, Any]:
    """A spec with these subdirs; the root alone is a spec that names none."""
    named = {} if subdirs == (".",) else {"subdirs": [{"path": path} for path in subdirs]}
    return {"rollout": {"scope": scope}, **named}


def scripts(**files: str) -> dict[str, reports.Script]:
    """By subdir a parser that finds one file, with one DAG of the subdir's name."""
    return {subdir: reports.whole(reports.parsed(path, subdir)) for subdir, path in files.items()}


A, B, TEAM, ROOT = "a/a.py", "b/b.py", "team/t.py", "root.py"


@pytest.mark.parametrize("scope", ["Bundle", "Subdir"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": A, "b": B}, {"a": A}),
        ({".": ROOT}, {"a": A, "b": B}),
        ({"team": TEAM, ".": ROOT}, {".": ROOT}),
        ({"a": A, "b": B}, {"team": TEAM}),
    ],
    ids=["one of two", "the root for two others", "the one below the root", "all"],
)
def test_a_subdir_that_leaves_the_spec_takes_its_dags_along(
    store: DagStore, scope: str, before: dict[str, str], after: dict[str, str]
) -> None:
    apply(store, script=scripts(**before), **spec(*before, scope=scope))
    applied = apply(store, script=scripts(**after), **spec(*after, scope=scope))
    assert (applied.revision, applied.judgement.reason, applied.judgement.ready) == (2, "Published", True)
    assert applied.judgement.subdirs == tuple(sorted(after))
    assert live(store).keys() == after.keys()


def test_what_is_broken_in_a_subdir_that_left_is_no_error_any_more(store: DagStore) -> None:
    broken = {**scripts(a=A), "b": reports.whole(reports.parsed(B, "b"), reports.broken("b/c.py"))}
    apply(store, script=broken, **spec("a", "b"))
    apply(store, script=scripts(a=A), **spec("a"))
    assert store.list_errors().items == ()
    assert store.known_files(SALES, "b") == {}


def test_a_dag_moves_out_of_a_subdir_that_left(store: DagStore) -> None:
    apply(store, script={"team": reports.whole(reports.parsed(TEAM, "x"))}, **spec("team"))
    applied = apply(store, reports.parsed(TEAM, "x"))
    assert [change.change for change in applied.judgement.changes] == [Change.MOVED]
    assert live(store) == {"x": "v1"}


def test_a_guard_holds_for_a_subdir_that_left(store: DagStore) -> None:
    rules = {"rollout": {"maxRemovedDags": 0}}
    apply(store, script=scripts(a=A, b=B), **{**spec("a", "b"), **rules})
    applied = apply(store, script=scripts(a=A), **{**spec("a"), **rules})
    assert applied.judgement.reason == "TooManyRemovedDags"
    assert live(store).keys() == {"a", "b"}


def test_a_preview_of_a_subdir_that_leaves_says_what_goes(store: DagStore) -> None:
    apply(store, script=scripts(a=A, b=B), **spec("a", "b"))
    runtime = reports.ScriptedRuntime(scripts(a=A))
    found = engine.Engine(store).preview(resource(**spec("a")), runtime=runtime, rules=policy.Policy())
    assert {change.dag_id: change.change for change in found.judgement.changes} == {
        "a": Change.UNCHANGED, "b": Change.REMOVED
    }  # fmt: skip
    assert live(store).keys() == {"a", "b"}


def test_a_bundle_that_waits_is_judged_again_after_a_subdir_of_it_left(store: DagStore) -> None:
    apply(store, reports.parsed("o.py", "shared"), name="owner")
    apply(store, script=scripts(a=A, b=B), **spec("a", "b"))
    apply(store, script={"a": reports.whole(reports.parsed("a/s.py", "shared"))}, **spec("a"))
    assert live(store) == {}
    gone = apply(store, reports.parsed("o.py", "other"), name="owner", version="v2")
    assert gone.rejudged == (SALES,)
    assert live(store).keys() == {"shared"}


def test_a_bundle_that_was_blocked_with_a_subdir_that_left_is_published_when_it_is_judged_again(
    store: DagStore,
) -> None:
    rules = {"rollout": {"onImportError": "Fail"}}
    apply(store, reports.parsed("o.py", "shared"), name="owner")
    apply(store, script=scripts(a=A, b=B), **{**spec("a", "b"), **rules})
    waits = {"a": reports.whole(reports.parsed("a/s.py", "shared"))}
    assert apply(store, script=waits, **{**spec("a"), **rules}).judgement.reason == "ImportErrors"
    apply(store, reports.parsed("o.py", "other"), name="owner", version="v2")
    assert live(store).keys() == {"shared"}


# --- Conflicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "times"),
    [
        (errors.ConflictError("it is never staged"), 2),
        (errors.OwnershipError("it is never staged"), 2),
        (errors.RunOpenError("it is never staged"), 1),
    ],
)
def test_a_conflict_that_is_no_race_is_said_at_once_and_as_it_is(
    store: DagStore, monkeypatch: pytest.MonkeyPatch, refusal: errors.StoreError, times: int
) -> None:
    judged: list[Judgement] = []

    def refusing(_rollout: str, _changeset: object, judgement: Judgement, **_: object) -> int:
        judged.append(judgement)
        raise refusal

    monkeypatch.setattr(store, "publish", refusing)
    with pytest.raises(errors.ConflictError, match="it is never staged") as caught:
        apply(store, reports.parsed("a.py", "a"))
    assert (len(judged), "others" in caught.value.message) == (times, False)


@pytest.mark.parametrize("revisions", [0, 1])
def test_others_published_only_where_the_revision_moved(
    store: DagStore, monkeypatch: pytest.MonkeyPatch, revisions: int
) -> None:
    """Each time another refusal; the real one of a moved revision needs a publish between judging and publishing."""
    apply(store, reports.parsed("a.py", "a"))
    look, looks = store.live, iter(range(1, 1000))

    def moving(key: BundleKey) -> Live:
        found = look(key)
        return dataclasses.replace(found, revision=found.revision + revisions * next(looks))

    counted = iter(range(1000))

    def refusing(*_: object, **__: object) -> int:
        raise errors.ConflictError(f"refusal {next(counted)}")

    monkeypatch.setattr(store, "live", moving)
    monkeypatch.setattr(store, "publish", refusing)
    words = "published 19 times by others" if revisions else "not published; last: refusal 19"
    with pytest.raises(errors.ConflictError, match=words):
        apply(store, reports.parsed("a.py", "b"), version="v2")

"""The engine on a real store: what is published, kept, blocked, rolled back and judged again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.engine import engine
from dagbundle.engine.applied import Applied
from dagbundle.resources import protocol
from dagbundle.rollout import policy
from dagbundle.rollout.model import BundleKey, Change, Verdict
from dagbundle.store.dagstore import DagStore
from support import reports
from support.applying import apply, live, resource


def test_a_first_apply_publishes_everything_as_revision_1(store: DagStore) -> None:
    applied = apply(store, reports.parsed("a.py", "a", "b"))
    assert (applied.revision, applied.judgement.reason, applied.judgement.ready) == (1, "Published", True)
    assert live(store) == {"a": "v1", "b": "v1"}


def test_applying_the_same_again_writes_no_revision(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"))
    again = apply(store, reports.parsed("a.py", "a"))
    assert again.revision == again.base_revision == 1
    assert len(store.list_versions("a").items) == 1


def test_a_broken_file_keeps_its_last_good_dags_and_shows_its_error(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"), reports.parsed("b.py", "b"))
    applied = apply(store, reports.parsed("a.py", "a", doc_md="new"), reports.broken("b.py"), version="v2")
    assert (applied.judgement.reason, applied.judgement.ready) == ("KeptLastGood", False)
    assert live(store) == {"a": "v2", "b": "v1"}
    assert [row.path for row in store.list_errors().items] == ["b.py"]
    assert store.get_dag("b").kept


def test_an_error_is_gone_when_its_file_is_mended(store: DagStore) -> None:
    apply(store, reports.broken("a.py"))
    apply(store, reports.parsed("a.py", "a"), version="v2")
    assert store.list_errors().items == ()


def test_with_fail_nothing_is_published(store: DagStore) -> None:
    rules = {"rollout": {"onImportError": "Fail"}}
    apply(store, reports.parsed("a.py", "a"), **rules)
    applied = apply(store, reports.parsed("n.py", "n"), reports.broken("a.py"), version="v2", **rules)
    assert (applied.judgement.verdict, applied.judgement.reason) == (Verdict.BLOCK, "ImportErrors")
    assert live(store) == {"a": "v1"}


def test_with_deactivate_a_broken_files_dags_go(store: DagStore) -> None:
    rules = {"rollout": {"onImportError": "Deactivate"}}
    apply(store, reports.parsed("a.py", "a"), reports.parsed("b.py", "b"), **rules)
    applied = apply(store, reports.parsed("a.py", "a"), reports.broken("b.py"), version="v2", **rules)
    assert applied.judgement.ready
    assert live(store) == {"a": "v2"}
    assert [row.path for row in store.list_errors().items] == ["b.py"]


# --- Streams that cannot be trusted ---------------------------------------------------------------------------------


def cut(request: protocol.RunRequest) -> Iterator[bytes]:
    yield from reports.lines(request, [reports.parsed("n.py", "n"), reports.parsed("m.py", "m")])[:-1]


def wrong_digest(request: protocol.RunRequest) -> Iterator[bytes]:
    *most, last = reports.lines(request, [reports.parsed("n.py", "n")])
    yield from most
    yield last.replace(b'"digest": "', b'"digest": "0')


def repeated(request: protocol.RunRequest) -> Iterator[bytes]:
    first, second, *rest = reports.lines(request, [reports.parsed("n.py", "n"), reports.parsed("m.py", "m")])
    yield from [first, second, second, *rest]


def died(request: protocol.RunRequest) -> Iterator[bytes]:
    yield reports.lines(request, [reports.parsed("n.py", "n")])[0]
    raise errors.RunError("the parser was killed by signal 9")


def died_parsing(request: protocol.RunRequest) -> Iterator[bytes]:
    yield from reports.lines(request, [reports.parsed("n.py", "n"), reports.parsed("m.py", "m")])[:2]
    yield b'{"type": "begin", "paths": ["m.py"]}\n'
    raise errors.RunError("the parser was killed by signal 9")


def cut_parsing(request: protocol.RunRequest) -> Iterator[bytes]:
    with contextlib.suppress(errors.RunError):
        yield from died_parsing(request)


def failed_parsing(request: protocol.RunRequest) -> Iterator[bytes]:
    yield from cut_parsing(request)
    yield b'{"type": "fail", "kind": "ParserKilled", "message": "by SIGKILL"}\n'


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (died_parsing, "killed by signal 9; in flight: m.py"),
        (cut_parsing, "files arrived); in flight: m.py (the parser process ended early"),
        (failed_parsing, "ParserKilled: by SIGKILL; in flight: m.py"),
    ],
)
def test_a_run_that_failed_names_the_files_in_flight(store: DagStore, script: reports.Script, words: str) -> None:
    judgement = apply(store, script=script).judgement
    assert (judgement.reason, words in judgement.message) == ("RunFailed", True), judgement.message


def nothing(request: protocol.RunRequest) -> Iterator[bytes]:
    del request
    yield b""


def failed(request: protocol.RunRequest) -> Iterator[bytes]:
    del request
    yield b'{"type": "fail", "kind": "AirflowNotInstalled", "message": "no airflow here"}\n'


def outside(request: protocol.RunRequest) -> Iterator[bytes]:
    yield from reports.lines(request, [reports.parsed("elsewhere/n.py", "n")])


@pytest.mark.parametrize("script", [cut, wrong_digest, repeated, died, nothing, failed, outside])
def test_a_run_that_did_not_close_publishes_and_removes_nothing(store: DagStore, script: reports.Script) -> None:
    subdirs = [{"path": "in"}]
    apply(store, reports.parsed("in/a.py", "a"), subdirs=subdirs)
    applied = apply(store, script=script, version="v2", subdirs=subdirs)
    assert (applied.judgement.verdict, applied.judgement.reason) == (Verdict.BLOCK, "RunFailed")
    assert live(store) == {"a": "v1"}
    assert apply(store, reports.parsed("in/a.py", "a"), version="v3", subdirs=subdirs).judgement.ready


def test_with_scope_subdir_the_other_subdir_is_published(store: DagStore) -> None:
    spec: dict[str, Any] = {"subdirs": [{"path": "x"}, {"path": "y"}], "rollout": {"scope": "Subdir"}}
    good = {"x": reports.whole(reports.parsed("x/a.py", "a")), "y": reports.whole(reports.parsed("y/b.py", "b"))}
    apply(store, script=good, **spec)
    bad = {"x": reports.whole(reports.parsed("x/a.py", "a", doc_md="2")), "y": cut}
    applied = apply(store, script=bad, version="v2", **spec)
    assert applied.judgement.subdirs == ("x",)
    assert live(store) == {"a": "v2", "b": "v1"}


def test_with_scope_subdir_a_misspelled_subdir_leaves_what_left_the_spec_with_its_errors(store: DagStore) -> None:
    def spec(*names: str) -> dict[str, Any]:
        return {"subdirs": [{"path": name} for name in names], "rollout": {"scope": "Subdir"}}

    x, y = reports.whole(reports.parsed("x/a.py", "a")), reports.whole(reports.parsed("y/b.py", "b"))
    y_broken = reports.whole(reports.parsed("y/b.py", "b"), reports.broken("y/c.py"))
    apply(store, script={"x": x, "y": y_broken}, **spec("x", "y"))
    apply(store, script={"x": x, "yy": died}, version="v2", **spec("x", "yy"))
    assert live(store) == {"a": "v2", "b": "v1"}
    assert [row.path for row in store.list_errors().items] == ["y/c.py"]
    apply(store, script={"x": x, "y": y}, version="v3", **spec("x", "y"))
    assert live(store) == {"a": "v3", "b": "v3"}
    apply(store, script={"x": x}, version="v4", **spec("x"))
    assert live(store) == {"a": "v4"}
    assert store.list_errors().items == ()


def test_unchanged_files_stand_for_what_is_remembered_and_are_judged_under_todays_policy(store: DagStore) -> None:
    apply(store, {**reports.parsed("a.py", "a"), "closure": {"x": "1"}, "fingerprint": "f"})
    narrowed = [{"path": ".", "dagIdPrefix": "team."}]
    applied = apply(store, reports.unchanged("a.py"), version="v2", subdirs=narrowed)
    assert [item.problem.kind for item in applied.judgement.problems] == ["DagIdNotAllowed"]
    assert live(store) == {"a": "v1"}


def test_a_file_that_is_said_to_be_unchanged_but_never_was_seen_ends_the_run(store: DagStore) -> None:
    applied = apply(store, reports.unchanged("a.py"))
    assert applied.judgement.reason == "RunFailed"


# --- Rolling back ---------------------------------------------------------------------------------------------------


def test_a_rollback_restores_the_earlier_result_and_holds_the_refused_version(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"), reports.parsed("b.py", "b"))
    apply(store, reports.parsed("a.py", "a", doc_md="2"), reports.parsed("c.py", "c"), version="v2")
    back = engine.Engine(store).rollback(BundleKey("team", "sales"))
    assert {change.dag_id: change.change for change in back.judgement.changes} == {
        "a": Change.CHANGED, "b": Change.ADDED, "c": Change.REMOVED
    }  # fmt: skip
    assert live(store) == {"a": "v1", "b": "v1"}
    held = apply(store, reports.parsed("c.py", "c"), version="v2")
    assert held.judgement.reason == "Held"
    assert live(store) == {"a": "v1", "b": "v1"}


def test_a_held_version_may_come_back_after_resume(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"))
    apply(store, reports.parsed("a.py", "a", doc_md="2"), version="v2")
    engine.Engine(store).rollback(BundleKey("team", "sales"))
    assert [hold.version for hold in engine.Engine(store).resume(BundleKey("team", "sales"))] == ["v2"]
    assert apply(store, reports.parsed("a.py", "a", doc_md="2"), version="v2").judgement.ready


def test_a_second_rollback_goes_further_back_and_not_to_the_version_that_was_refused(store: DagStore) -> None:
    for number in (1, 2, 3):
        apply(store, reports.parsed("a.py", "a", doc_md=str(number)), version=f"v{number}")
    rolling = engine.Engine(store)
    rolling.rollback(BundleKey("team", "sales"))
    assert live(store) == {"a": "v2"}
    rolling.rollback(BundleKey("team", "sales"))
    assert live(store) == {"a": "v1"}
    with pytest.raises(errors.NotFoundError, match="no earlier version"):
        rolling.rollback(BundleKey("team", "sales"))
    with pytest.raises(errors.UsageError, match="which was rolled back and is held"):
        rolling.rollback(BundleKey("team", "sales"), to_revision=3)


def test_another_version_is_published_in_spite_of_a_hold_and_ends_it(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"))
    apply(store, reports.parsed("a.py", "a", doc_md="2"), version="v2")
    engine.Engine(store).rollback(BundleKey("team", "sales"))
    assert apply(store, reports.parsed("a.py", "a", doc_md="3"), version="v3").judgement.ready
    assert apply(store, reports.parsed("a.py", "a", doc_md="2"), version="v2").judgement.ready


@pytest.mark.parametrize("target", [0, 9, -1])
def test_there_is_no_way_back_to_a_revision_that_is_not_there(store: DagStore, target: int) -> None:
    apply(store, reports.parsed("a.py", "a"))
    apply(store, reports.parsed("a.py", "b"), version="v2")
    with pytest.raises(errors.NotFoundError, match=r"has no .* to go back to \(it is at revision 2\)"):
        engine.Engine(store).rollback(BundleKey("team", "sales"), to_revision=target)


def test_a_rollback_to_the_revision_that_is_live_says_so(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"))
    apply(store, reports.parsed("a.py", "b"), version="v2")
    with pytest.raises(errors.UsageError, match=r"revision 2 of bundle team/sales is live already"):
        engine.Engine(store).rollback(BundleKey("team", "sales"), to_revision=2)


# --- Several bundles, several applies -------------------------------------------------------------------------------


def test_the_second_claimant_of_a_dag_id_is_told_the_owner_and_published_when_it_lets_go(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "shared"), name="first")
    second = apply(store, reports.parsed("b.py", "shared", "mine"), name="second")
    assert "team/first" in second.judgement.problems[0].problem.message
    assert live(store, "second") == {}
    gone = apply(store, reports.parsed("a.py", "other"), name="first", version="v2")
    assert gone.rejudged == (BundleKey("team", "second"),)
    assert live(store, "second") == {"mine": "v1", "shared": "v1"}
    assert store.list_errors().items == ()


def test_a_claim_that_was_forgotten_when_its_owner_let_go_is_handed_over_later(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "shared"), name="first")
    apply(store, reports.parsed("b.py", "shared"), name="second")
    store.deactivate_bundle(BundleKey("team", "first"))  # and here its controller was killed
    assert live(store, "second") == {}
    assert engine.Engine(store).hand_over() == (BundleKey("team", "second"),)
    assert live(store, "second") == {"shared": "v1"}
    assert engine.Engine(store).hand_over() == ()


def test_a_judgement_that_fails_is_not_tried_again_at_once_by_others(
    store: DagStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(store, reports.parsed("a.py", "shared"), name="first")
    apply(store, reports.parsed("b.py", "shared"), name="second")
    store.deactivate_bundle(BundleKey("team", "first"))
    tried: list[str] = []

    def failing(rollout: str, *_: object, **__: object) -> int:
        tried.append(rollout)
        raise errors.StoreUnavailableError("it takes too long")

    carrying = engine.Engine(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "publish", failing)
        assert [carrying.hand_over() for _ in range(3)] == [(), (), ()]
    assert len(tried) == 1
    assert engine.Engine(store).hand_over() == (BundleKey("team", "second"),)


def test_two_bundles_that_exchange_their_dag_ids_in_two_applies_have_each_others(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "x"), name="a")
    apply(store, reports.parsed("b.py", "y"), name="b")
    first = apply(store, reports.parsed("a.py", "y"), name="a", version="v2")
    assert (first.judgement.reason, live(store, "a")) == ("KeptLastGood", {"x": "v1"})
    second = apply(store, reports.parsed("b.py", "x"), name="b", version="v2")
    assert (second.judgement.reason, second.rejudged) == ("Published", (BundleKey("team", "a"),))
    assert (live(store, "a"), live(store, "b")) == ({"y": "v2"}, {"x": "v2"})
    assert store.list_errors().items == ()
    again = apply(store, reports.parsed("a.py", "y"), name="a", version="v2")
    assert again.revision == again.base_revision
    assert engine.Engine(store).hand_over() == ()


def test_dag_ids_go_round_between_three_bundles(store: DagStore) -> None:
    names = ("a", "b", "c")
    for name in names:
        apply(store, reports.parsed(f"{name}.py", f"of_{name}", f"{name}_too"), name=name)
    for name, wanted in zip(names, ("of_b", "of_c", "of_a"), strict=True):
        apply(store, reports.parsed(f"{name}.py", wanted, f"{name}_too"), name=name, version="v2")
    assert [sorted(live(store, name)) for name in names] == [["a_too", "of_b"], ["b_too", "of_c"], ["c_too", "of_a"]]
    assert store.list_errors().items == ()


def test_a_dag_that_is_kept_gives_way_as_soon_as_its_file_waits(store: DagStore) -> None:
    apply(store, reports.parsed("c.py", "taken"), name="c")
    apply(store, reports.parsed("b.py", "wanted"), name="b")
    apply(store, reports.parsed("a.py", "wanted"), name="a")
    second = apply(store, reports.parsed("b.py", "taken"), name="b", version="v2")
    assert second.rejudged == (BundleKey("team", "a"),)
    assert (live(store, "a"), live(store, "b")) == ({"wanted": "v1"}, {})


@pytest.mark.parametrize(
    "files",
    [
        [reports.broken("a.py")],
        [reports.parsed("a.py", "y", "x")],
        [reports.parsed("a.py", "y"), reports.parsed("z.py", "x", "other")],
        [{**reports.parsed("a.py", "y"), "errors": [{"kind": "ValueError", "message": "no", "line": 1}]}],
    ],
    ids=["broken by itself", "still defined", "defined in another file that waits", "waiting and broken by itself"],
)
def test_a_dag_that_is_kept_for_another_reason_does_not_give_way(store: DagStore, files: list[dict[str, Any]]) -> None:
    apply(store, reports.parsed("a.py", "x"), name="a")
    apply(store, reports.parsed("c.py", "y", "other"), name="c")
    apply(store, *files, name="a", version="v2")
    apply(store, reports.parsed("b.py", "x"), name="b")
    assert (live(store, "a"), live(store, "b")) == ({"x": "v1"}, {})


def test_a_dag_that_does_not_give_way_any_more_when_it_is_taken_stays(
    store: DagStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner publishes a version that defines it again, between the judging and the publishing of the other one."""
    apply(store, reports.parsed("a.py", "x"), name="a")
    apply(store, reports.parsed("b.py", "y"), name="b")
    apply(store, reports.parsed("a.py", "y"), name="a", version="v2")
    publish, rounds = store.publish, iter([True])

    def late(*given: Any, **named: Any) -> int:
        if next(rounds, False):
            apply(store, reports.parsed("a.py", "x", doc_md="again"), name="a", version="v3")
        return publish(*given, **named)

    monkeypatch.setattr(store, "publish", late)
    applied = apply(store, reports.parsed("b.py", "x"), name="b", version="v2")
    assert applied.judgement.reason == "KeptLastGood"
    assert (live(store, "a"), live(store, "b")) == ({"x": "v3"}, {"y": "v1"})


def test_a_bundle_that_was_blocked_for_anothers_dag_id_is_published_when_the_owner_lets_go(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "shared"), name="first")
    second = apply(store, reports.parsed("b.py", "shared"), name="second", rollout={"onImportError": "Fail"})
    assert second.judgement.reason == "ImportErrors"
    gone = apply(store, reports.parsed("a.py", "other"), name="first", version="v2")
    assert gone.rejudged == (BundleKey("team", "second"),)
    assert live(store, "second") == {"shared": "v1"}


def test_a_waiting_bundle_that_is_held_meanwhile_stays_as_it_is(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "shared"), name="first")
    apply(store, reports.parsed("c.py", "mine"), name="second")
    apply(store, reports.parsed("b.py", "shared"), reports.parsed("c.py", "mine"), name="second", version="v2")
    engine.Engine(store).rollback(BundleKey("team", "second"))
    gone = apply(store, reports.parsed("a.py", "other"), name="first", version="v2")
    assert gone.rejudged == ()
    assert live(store, "second") == {"mine": "v1"}


def test_a_newer_apply_ends_an_older_one_that_is_still_parsing(store: DagStore) -> None:
    def slow(request: protocol.RunRequest) -> Iterator[bytes]:
        apply(store, reports.parsed("a.py", "new"), version="v2")
        yield from reports.lines(request, [reports.parsed("a.py", "old")])

    with pytest.raises(errors.SupersededError):
        apply(store, script=slow, version="v1")
    assert live(store) == {"new": "v2"}


def test_two_applies_of_two_bundles_that_claim_one_dag_id_at_once_give_it_to_one(store: DagStore) -> None:
    ready = threading.Barrier(2)

    def together(request: protocol.RunRequest) -> Iterator[bytes]:
        ready.wait(timeout=30)
        yield from reports.lines(request, [reports.parsed("a.py", "shared")])

    results: dict[str, Applied] = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: apply(store, script=together, name=name)}))
        for name in ("first", "second")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.judgement.ready for result in results.values()) == [False, True]
    assert len(live(store, "first")) + len(live(store, "second")) == 1


def test_files_that_change_while_they_are_parsed_are_not_published(store: DagStore) -> None:
    class Moving(reports.ScriptedRuntime):
        def resolve_version(self) -> str:
            return f"v{len(self.requests)}"

    wanted = resource()
    runtime = Moving(reports.whole(reports.parsed("a.py", "a")))
    applied = engine.Engine(store).apply(wanted, runtime=runtime, rules=policy.Policy())
    assert (applied.judgement.verdict, applied.judgement.reason) == (Verdict.BLOCK, "SourceChanged")
    assert live(store) == {}


def test_a_suspended_bundle_is_left_alone(store: DagStore) -> None:
    apply(store, reports.parsed("a.py", "a"))
    applied = apply(store, version="v2", suspend=True)
    assert applied.judgement.reason == "Suspended"
    assert live(store) == {"a": "v1"}


# --- Previews -------------------------------------------------------------------------------------------------------


def test_a_preview_judges_like_an_apply_and_writes_nothing(store: DagStore) -> None:
    apply(
        store, {**reports.parsed("a.py", "a"), "closure": {"x": "1"}, "fingerprint": "f"}, reports.parsed("b.py", "b")
    )
    before = store.history(BundleKey("team", "sales")).items
    runtime = reports.ScriptedRuntime(
        reports.whole(reports.unchanged("a.py"), reports.broken("b.py"), reports.parsed("c.py", "c")), "v2"
    )
    found = engine.Engine(store).preview(resource(), runtime=runtime, rules=policy.Policy())
    assert {change.dag_id: change.change for change in found.judgement.changes} == {
        "a": Change.UNCHANGED, "b": Change.KEPT, "c": Change.ADDED
    }  # fmt: skip
    assert found.dry_run
    assert runtime.requests[0].known.keys() == {"a.py"}
    assert store.history(BundleKey("team", "sales")).items == before
    assert live(store) == {"a": "v1", "b": "v1"}


def test_a_preview_of_an_unknown_bundle_leaves_no_trace(store: DagStore) -> None:
    runtime = reports.ScriptedRuntime(reports.whole(reports.parsed("a.py", "a")))
    assert engine.Engine(store).preview(resource(), runtime=runtime, rules=policy.Policy()).judgement.ready
    assert store.list_bundles().items == ()

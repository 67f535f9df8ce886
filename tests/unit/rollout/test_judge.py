"""The judge's rules, each as a table of values (docs/architecture.md, "What a broken file does")."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import pytest

from dagbundle.rollout import judge, policy
from dagbundle.rollout.model import (
    BundleKey,
    Change,
    Changeset,
    FileOutcome,
    Hold,
    Judgement,
    Live,
    LiveDag,
    ParsedDag,
    Problem,
    RunOutcome,
    Verdict,
)

SALES = BundleKey("team-sales", "sales")
OTHER = BundleKey("team-other", "other")
BROKEN = Problem("SyntaxError", "invalid syntax", 3)


def file(path: str, *dag_ids: str, broken: bool = False, sha: str = "new") -> FileOutcome:
    dags = tuple(ParsedDag(dag_id, f"{dag_id}:{sha}") for dag_id in dag_ids)
    return FileOutcome(path, () if broken else dags, (BROKEN,) if broken else ())


def run(*files: FileOutcome, subdir: str = ".", closed: bool = True, failure: str = "") -> RunOutcome:
    return RunOutcome(subdir, closed, files, failure)


def live(*dags: tuple[str, str], subdir: str = ".", sha: str = "old", revision: int = 1) -> Live:
    """(dag_id, path) pairs that are live in one subdir."""
    return Live(
        SALES,
        revision,
        "v1",
        "template-1",
        {dag_id: LiveDag(dag_id, subdir, path, f"{dag_id}:{sha}", "v1") for dag_id, path in dags},
    )


def merged(*states: Live) -> Live:
    dags = {dag_id: dag for state in states for dag_id, dag in state.dags.items()}
    return dataclasses.replace(states[0], dags=dags)


def decide(
    *runs: RunOutcome,
    was: Live | None = None,
    rules: policy.Policy | None = None,
    owners: dict[str, BundleKey] | None = None,
    yielding: Collection[str] = (),
) -> Judgement:
    state = was or Live(SALES)
    known = dict.fromkeys(state.dags, SALES) | (owners or {})
    return judge.judge(
        Changeset(SALES, "v2", "template-2", state.revision, runs),
        live=state,
        owners=known,
        policy=rules or policy.Policy(),
        yielding=yielding,
    )


def changes(judgement: Judgement) -> dict[str, Change]:
    return {change.dag_id: change.change for change in judgement.changes}


def kinds(judgement: Judgement) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in judgement.problems:
        found.setdefault(item.path, []).append(item.problem.kind)
    return found


# --- What a broken file does: the table -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_import_error", "verdict", "of_broken", "ready", "reason"),
    [
        ("KeepLastGood", Verdict.PUBLISH, Change.KEPT, False, "KeptLastGood"),
        ("Fail", Verdict.BLOCK, Change.KEPT, False, "ImportErrors"),
        ("Deactivate", Verdict.PUBLISH, Change.REMOVED, True, "Published"),
    ],
)
def test_a_broken_file_does_what_on_import_error_says(
    on_import_error: str, verdict: Verdict, of_broken: Change, ready: bool, reason: str
) -> None:
    found = decide(
        run(file("a.py", "a", sha="new"), file("b.py", broken=True)),
        was=live(("a", "a.py"), ("b", "b.py")),
        rules=policy.Policy(on_import_error=on_import_error),
    )
    assert (found.verdict, found.ready, found.reason) == (verdict, ready, reason)
    assert changes(found) == {"a": Change.CHANGED, "b": of_broken}
    assert kinds(found) == {"b.py": ["SyntaxError"]}


def test_a_broken_file_that_never_was_live_still_makes_the_deploy_not_ready() -> None:
    found = decide(run(file("new.py", broken=True)))
    assert (found.verdict, found.ready, found.reason) == (Verdict.PUBLISH, False, "KeptLastGood")


def test_the_message_quotes_the_first_errors_and_no_more_of_them_than_a_condition_can_hold() -> None:
    text = "ImportError: No module named 'pandas'" + "x" * 9_999 + "\nTraceback …"
    problem = Problem("ImportError", text, line=3)
    files = [FileOutcome(f"{name}.py", problems=(problem,)) for name in "abcdef"]
    message = decide(run(*files), was=live(("old", "a.py"))).message
    assert "; a.py, line 3: ImportError: No module named 'pandas'" in message
    assert message.count("ImportError") == 3
    assert message.count("x…") == 3
    assert len(message) < 3_500


def test_the_message_quotes_a_long_first_line_whole() -> None:
    text = f"ValueError: {'word ' * 150}the end of the line"
    broken = FileOutcome("a.py", problems=(Problem("ValueError", f"{text}\nTraceback …"),))
    assert f"; a.py: {text}" in decide(run(broken)).message


def test_a_file_with_problems_is_broken_as_a_whole_whatever_dags_it_yielded() -> None:
    half = FileOutcome("a.py", (ParsedDag("a", "a:new"),), (BROKEN,))
    found = decide(run(half), was=live(("a", "a.py"), ("b", "a.py")))
    assert changes(found) == {"a": Change.KEPT, "b": Change.KEPT}


def test_a_kept_dag_becomes_an_ordinary_one_when_its_file_is_mended() -> None:
    state = live(("a", "a.py"), sha="new")
    kept = dataclasses.replace(state, dags={"a": state.dags["a"]._replace(kept=True)})
    found = decide(run(file("a.py", "a")), was=kept)
    assert changes(found) == {"a": Change.UNCHANGED}
    assert found.ready


# --- What is added, changed, moved and removed ----------------------------------------------------------------------


def test_new_changed_and_unchanged_dags_are_told_apart() -> None:
    state = merged(live(("same", "a.py"), sha="new"), live(("changed", "a.py")))
    found = decide(run(file("a.py", "same", "changed", "added")), was=state)
    assert changes(found) == {"added": Change.ADDED, "changed": Change.CHANGED, "same": Change.UNCHANGED}
    assert (found.reason, found.ready, found.subdirs) == ("Published", True, (".",))


def test_a_dag_whose_file_is_gone_is_removed() -> None:
    found = decide(run(file("a.py", "a")), was=live(("a", "a.py"), ("b", "b.py")))
    assert changes(found)["b"] is Change.REMOVED


def test_a_dag_dropped_from_a_surviving_file_is_removed() -> None:
    found = decide(run(file("a.py", "a")), was=live(("a", "a.py"), ("b", "a.py")))
    assert changes(found)["b"] is Change.REMOVED


def test_a_dag_that_moves_between_files_moves() -> None:
    found = decide(run(file("a.py", "a"), file("b.py", "b")), was=live(("a", "a.py"), ("b", "a.py")))
    assert changes(found)["b"] is Change.MOVED


def test_a_dag_that_moves_between_subdirs_moves() -> None:
    found = decide(
        run(file("x/a.py", "a"), subdir="x"), run(file("y/b.py", "b"), subdir="y"),
        was=live(("a", "x/a.py"), ("b", "x/a.py"), subdir="x"),
    )  # fmt: skip
    assert changes(found) == {"a": Change.CHANGED, "b": Change.MOVED}


def test_a_parsed_file_beats_a_kept_one() -> None:
    found = decide(run(file("old.py", broken=True), file("new.py", "a")), was=live(("a", "old.py")))
    assert changes(found) == {"a": Change.MOVED}


def test_dags_of_a_subdir_that_left_the_spec_are_removed() -> None:
    found = decide(run(file("x/a.py", "a"), subdir="x"), was=merged(live(("b", "y/b.py"), subdir="y")))
    assert changes(found) == {"a": Change.ADDED, "b": Change.REMOVED}
    assert found.subdirs == ("x",)  # the other one has no run whose results could be published


# --- Ownership and policies -----------------------------------------------------------------------------------------


def test_a_dag_id_of_another_bundle_breaks_the_file_names_the_owner_and_waits() -> None:
    found = decide(run(file("a.py", "a", "mine")), owners={"a": OTHER}, was=live(("mine", "a.py")))
    assert changes(found) == {"mine": Change.KEPT}
    assert [claim.dag_id for claim in found.claims] == ["a"]
    assert "team-other/other" in found.problems[0].problem.message


def test_a_dag_id_that_its_owner_gives_way_with_is_taken() -> None:
    found = decide(run(file("a.py", "a"), file("b.py", "b")), owners={"a": OTHER, "b": OTHER}, yielding={"a"})
    assert (changes(found), found.taken) == ({"a": Change.ADDED}, ("a",))
    assert [claim.dag_id for claim in found.claims] == ["b"]


def test_a_dag_id_outside_the_subdirs_prefix_breaks_the_file() -> None:
    rules = policy.Policy(prefixes={".": "sales."})
    found = decide(run(file("a.py", "sales.a"), file("b.py", "b")), rules=rules)
    assert changes(found) == {"sales.a": Change.ADDED}
    assert kinds(found) == {"b.py": ["DagIdNotAllowed"]}


def test_a_dag_id_outside_the_grant_breaks_the_file() -> None:
    found = decide(run(file("b.py", "b")), rules=policy.Policy(granted_prefixes=("sales.", "shared.")))
    assert kinds(found) == {"b.py": ["DagIdNotAllowed"]}
    assert "sales., shared." in found.problems[0].problem.message


def test_of_two_files_with_one_dag_id_the_live_one_wins() -> None:
    found = decide(run(file("a.py", "a"), file("z.py", "a")), was=live(("a", "z.py"), sha="new"))
    assert changes(found) == {"a": Change.UNCHANGED}
    assert kinds(found) == {"a.py": ["DuplicateDagId"]}


def test_of_two_new_files_with_one_dag_id_the_first_by_path_wins() -> None:
    found = decide(run(file("z.py", "a"), file("b.py", "a")))
    assert changes(found) == {"a": Change.ADDED}
    assert kinds(found) == {"z.py": ["DuplicateDagId"]}


def test_a_file_that_gets_some_of_its_dag_ids_is_published_without_the_others_and_the_message_names_them() -> None:
    found = decide(run(file("z.py", "a", "zz"), file("b.py", "a", "b")))
    assert {change.dag_id: change.path for change in found.changes} == {"a": "b.py", "b": "b.py", "zz": "z.py"}
    assert (kinds(found), found.reason, found.ready) == ({}, "Published", True)
    assert found.message.endswith("; defined twice, rename one of the two: 'a' of z.py is that of b.py")


def test_two_files_that_each_have_the_others_dag_id_live_both_keep_theirs() -> None:
    was = live(("a", "a.py"), ("b", "b.py"), sha="new")
    found = decide(run(file("a.py", "a", "b"), file("b.py", "a", "b")), was=was)
    assert {change.dag_id: change.path for change in found.changes} == {"a": "a.py", "b": "b.py"}
    assert kinds(found) == {}


def test_a_message_names_five_dag_ids_that_are_defined_twice_at_most() -> None:
    many = [f"d{number}" for number in range(7)]
    found = decide(run(file("a.py", *many), file("b.py", *many, "own")))
    assert "'d4' of b.py is that of a.py and 2 more" in found.message
    assert "d5" not in found.message


def test_of_yaml_and_python_with_one_dag_id_python_wins_and_the_error_names_the_manifest() -> None:
    found = decide(run(file("a.yml", "a"), file("load.py", "a")))
    assert kinds(found) == {"a.yml": ["DuplicateDagId"]}
    (problem,) = found.problems
    assert "if load.py loads a.yml, keep the YAML loader from that file" in problem.problem.message
    assert "also defined in load.py, which comes first" in problem.problem.message


def test_the_error_of_a_duplicate_says_that_it_is_live_only_where_it_is() -> None:
    was = live(("a", "gone.py"), sha="new")
    (problem,) = decide(run(file("z.py", "a"), file("b.py", "a")), was=was).problems
    assert problem.problem.message == "dag_id 'a' is also defined in b.py, which comes first: rename one of the two"


def test_one_dag_id_in_two_subdirs_is_a_duplicate_too() -> None:
    found = decide(run(file("x/a.py", "a"), subdir="x"), run(file("y/a.py", "a"), subdir="y"))
    assert kinds(found) == {"y/a.py": ["DuplicateDagId"]}


def test_a_dag_id_twice_in_one_file_breaks_it() -> None:
    found = decide(run(file("a.py", "a", "a")))
    assert kinds(found) == {"a.py": ["DuplicateDagId"]}
    assert changes(found) == {}


# --- Guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "removed", "verdict"),
    [
        (None, 10, Verdict.PUBLISH),
        (2, 2, Verdict.PUBLISH),
        (2, 3, Verdict.BLOCK),
        (0, 1, Verdict.BLOCK),
        ("10%", 1, Verdict.PUBLISH),
        ("10%", 2, Verdict.BLOCK),
        ("11%", 2, Verdict.PUBLISH),  # 11 % of 10 is rounded up to 2
    ],
)
def test_max_removed_dags_blocks_above_its_value(limit: int | str | None, removed: int, verdict: Verdict) -> None:
    state = live(*((f"d{number}", f"f{number}.py") for number in range(10)))
    kept = [file(f"f{number}.py", f"d{number}") for number in range(removed, 10)]
    found = decide(run(*kept, file("x.py", "x")), was=state, rules=policy.Policy(max_removed_dags=limit))
    assert found.verdict is verdict
    if verdict is Verdict.BLOCK:
        assert (found.reason, found.ready) == ("TooManyRemovedDags", False)
        assert "d0" in found.message
        assert f"raise spec.rollout.maxRemovedDags to {removed}, else bring back their files" in found.message


def test_moves_do_not_count_as_removals() -> None:
    found = decide(run(file("b.py", "a")), was=live(("a", "a.py")), rules=policy.Policy(max_removed_dags=0))
    assert found.verdict is Verdict.PUBLISH


@pytest.mark.parametrize(
    ("limit", "broken", "verdict"),
    [(1, 1, Verdict.PUBLISH), (1, 2, Verdict.BLOCK), ("50%", 2, Verdict.PUBLISH), ("20%", 2, Verdict.BLOCK)],
)
def test_max_import_errors_blocks_above_its_value(limit: int | str, broken: int, verdict: Verdict) -> None:
    files = [file(f"f{number}.py", f"d{number}", broken=number < broken) for number in range(4)]
    found = decide(run(*files), rules=policy.Policy(max_import_errors=limit))
    assert found.verdict is verdict
    assert (found.reason == "TooManyImportErrors") is (verdict is Verdict.BLOCK)
    assert ("Mend them, or raise spec.rollout.maxImportErrors" in found.message) is (verdict is Verdict.BLOCK)


def test_an_empty_listing_where_dags_were_is_blocked() -> None:
    found = decide(run(), was=live(("a", "a.py")))
    assert (found.verdict, found.reason) == (Verdict.BLOCK, "EmptyListing")


def test_an_empty_listing_is_fine_when_all_its_dags_moved_to_another_subdir() -> None:
    found = decide(run(subdir="x"), run(file("y/a.py", "a"), subdir="y"), was=live(("a", "x/a.py"), subdir="x"))
    assert changes(found) == {"a": Change.MOVED}


def test_an_empty_bundle_that_never_had_dags_publishes() -> None:
    assert decide(run()).verdict is Verdict.PUBLISH


def test_a_run_without_a_closed_listing_publishes_and_removes_nothing() -> None:
    found = decide(run(file("a.py", "a"), closed=False, failure="killed"), was=live(("b", "b.py")))
    assert (found.verdict, found.reason) == (Verdict.BLOCK, "RunFailed")
    assert "killed" in found.message


def test_a_held_template_is_blocked() -> None:
    held = dataclasses.replace(live(), holds=(Hold("template-2", "v2", "bad numbers"),))
    found = decide(run(file("a.py", "a")), was=held)
    assert (found.verdict, found.reason) == (Verdict.BLOCK, "Held")
    assert "bad numbers. `dagbundle resume team-sales/sales` lifts the hold" in found.message


# --- Scope ----------------------------------------------------------------------------------------------------------

FAILURES = {
    "an unclosed run": (run(subdir="y", closed=False, failure="killed"), policy.Policy()),
    "a guard": (run(file("y/x.py", "x"), subdir="y"), policy.Policy(max_removed_dags=0)),
    "Fail": (run(file("y/b.py", broken=True), subdir="y"), policy.Policy(on_import_error="Fail")),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_with_scope_bundle_one_subdirs_failure_holds_the_others(failure: str) -> None:
    failed, rules = FAILURES[failure]
    found = decide(run(file("x/a.py", "a"), subdir="x"), failed, was=live(("b", "y/b.py"), subdir="y"), rules=rules)
    assert found.verdict is Verdict.BLOCK


@pytest.mark.parametrize("failure", FAILURES)
def test_with_scope_subdir_the_others_publish_and_the_failed_one_stays_as_it_was(failure: str) -> None:
    failed, rules = FAILURES[failure]
    found = decide(
        run(file("x/a.py", "a"), subdir="x"),
        failed,
        was=live(("b", "y/b.py"), subdir="y"),
        rules=dataclasses.replace(rules, scope="Subdir"),
    )
    assert (found.verdict, found.ready, found.subdirs) == (Verdict.PUBLISH, False, ("x",))
    assert changes(found) == {"a": Change.ADDED}


def test_with_scope_subdir_a_percentage_is_of_the_subdirs_live_dags() -> None:
    state = merged(
        live(*((f"x{number}", f"x/{number}.py") for number in range(10)), subdir="x"),
        live(("y0", "y/0.py"), ("y1", "y/1.py"), subdir="y"),
    )
    everything = [file(f"x/{number}.py", f"x{number}") for number in range(10)]
    runs = (run(*everything, subdir="x"), run(file("y/0.py", "y0"), subdir="y"))
    whole = decide(*runs, was=state, rules=policy.Policy(max_removed_dags="10%"))
    parts = decide(*runs, was=state, rules=policy.Policy(scope="Subdir", max_removed_dags="10%"))
    assert whole.verdict is Verdict.PUBLISH  # 1 of 12, two allowed
    assert parts.subdirs == ("x", "y")  # 1 of 2, one allowed: 10 % is rounded up


def test_with_scope_subdir_a_dag_cannot_move_out_of_a_subdir_whose_run_failed() -> None:
    found = decide(
        run(file("x/a.py", "a"), subdir="x"),
        run(subdir="y", closed=False, failure="killed"),
        was=live(("a", "y/a.py"), subdir="y"),
        rules=policy.Policy(scope="Subdir"),
    )
    assert changes(found) == {}
    assert kinds(found) == {"x/a.py": ["DagIdHeldBySubdir"]}


def test_with_scope_subdir_a_misspelled_subdir_removes_nothing_of_what_left_the_spec() -> None:
    state = merged(live(("a", "x/a.py"), subdir="x"), live(("b", "y/b.py"), ("c", "y/c.py"), subdir="y"))
    good, misspelled = run(file("x/a.py", "a"), subdir="x"), run(subdir="z", closed=False, failure="z is no folder")
    rules = policy.Policy(scope="Subdir")
    found = decide(good, misspelled, was=state, rules=rules)
    assert (found.verdict, found.reason, found.ready) == (Verdict.PUBLISH, "RunFailed", False)
    assert changes(found) == {"a": Change.CHANGED}
    assert "z is no folder; DAGs of subdirs that left the spec (y) stay until it does" in found.message
    moved = decide(run(file("x/a.py", "a"), file("x/b.py", "b"), subdir="x"), misspelled, was=state, rules=rules)
    assert changes(moved) == {"a": Change.CHANGED, "b": Change.MOVED}
    assert changes(decide(good, was=state, rules=rules)) == {
        "a": Change.CHANGED, "b": Change.REMOVED, "c": Change.REMOVED,
    }  # fmt: skip


def test_with_scope_subdir_a_renamed_subdirs_dags_move() -> None:
    state = merged(live(("a", "x/a.py"), subdir="x"), live(("b", "y/b.py"), subdir="y"))
    renamed = run(file("z/b.py", "b"), subdir="z")
    found = decide(run(file("x/a.py", "a"), subdir="x"), renamed, was=state, rules=policy.Policy(scope="Subdir"))
    assert changes(found) == {"a": Change.CHANGED, "b": Change.MOVED}


def test_with_scope_subdir_nothing_is_published_when_every_subdir_failed() -> None:
    found = decide(
        run(subdir="x", closed=False, failure="1"), run(subdir="y", closed=False, failure="2"),
        rules=policy.Policy(scope="Subdir"),
    )  # fmt: skip
    assert found.verdict is Verdict.BLOCK


# --- Comparing two states -------------------------------------------------------------------------------------------


def test_compare_tells_what_a_rollback_changed() -> None:
    before = merged(live(("a", "a.py"), ("gone", "g.py")), live(("b", "b.py"), sha="new"))
    after = merged(live(("a", "moved.py")), live(("b", "b.py")), live(("back", "c.py")))
    assert {change.dag_id: change.change for change in judge.compare(before, after)} == {
        "a": Change.MOVED,
        "b": Change.CHANGED,
        "back": Change.ADDED,
        "gone": Change.REMOVED,
    }

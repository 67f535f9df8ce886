from __future__ import annotations

import json

import pytest

from dagbundle.rollout import budgets
from dagbundle.rollout.model import FileOutcome, ParseWarning, Problem, StagedFile


def file(problems: int = 0, warnings: int = 0, size: int = 10) -> StagedFile:
    return StagedFile(
        FileOutcome(
            "a.py",
            problems=tuple(Problem("ValueError", "x" * size, 1) for _ in range(problems)),
            warnings=tuple(ParseWarning("UserWarning", "x" * size, 1) for _ in range(warnings)),
        )
    )


def test_a_file_without_errors_and_warnings_is_kept_as_it_is() -> None:
    found = file()
    assert budgets.Texts().keep(found) is found


def test_errors_over_the_bytes_of_a_run_are_left_out_and_counted_in_one_more() -> None:
    texts = budgets.Texts()
    kept = [texts.keep(file(problems=20, size=60_000)) for _ in range(30)]
    total = sum(len(problem.message) for item in kept for problem in item.outcome.problems)
    assert total < budgets.TEXT_BYTES + 30 * 300
    assert len(kept[0].outcome.problems) == 20
    (last,) = kept[-1].outcome.problems
    assert last.kind == "TooManyErrors"
    assert last.message.startswith("20 errors of this file are left out: the run reported more than 20,000 errors")
    assert all(item.outcome.problems for item in kept)  # or a broken file would be a good one


def test_errors_and_warnings_over_the_number_of_a_run_are_left_out() -> None:
    texts = budgets.Texts()
    kept = [texts.keep(file(problems=1000, warnings=1000)) for _ in range(12)]
    assert sum(len(item.outcome.problems) + len(item.outcome.warnings) for item in kept) <= budgets.TEXTS + 24
    assert kept[-1].outcome.warnings[0].category == "TooManyWarnings"


def test_the_runs_of_a_rollout_share_its_bounds() -> None:
    texts = budgets.Texts(runs=2048)
    found = texts.keep(file(problems=1000, size=1000)).outcome.problems
    assert len(found) == budgets.LEAST_TEXT_BYTES // 1074 + 1
    assert found[-1].kind == "TooManyErrors"


def test_closures_over_the_bound_of_a_subdir_are_left_out() -> None:
    known = budgets.Known()
    taken = [known.takes(1 << 20, 100) for _ in range(100)]
    assert taken == [True] * taken.count(True) + [False] * taken.count(False)
    assert taken.count(True) == 63
    assert known.takes(1000, 1)


def test_a_copy_counts_for_itself() -> None:
    known = budgets.Known()
    assert known.copy().takes_texts(budgets.REMEMBERED_TEXT_BYTES)
    assert known.takes_texts(budgets.REMEMBERED_TEXT_BYTES)
    assert not known.takes_texts(1)


@pytest.mark.parametrize("value", [[], {"a": []}, {"a": 1}, {"a": None}, {"a": {}}, 1, "x", None])
def test_a_stored_closure_that_is_no_flat_map_of_strings_is_none(value: object) -> None:
    assert budgets.flat(json.dumps(value)) is None


def test_a_stored_closure_whose_values_would_take_much_memory_is_not_decoded() -> None:
    assert budgets.flat("[" * budgets.CLOSURE_BYTES) is None
    assert budgets.flat(json.dumps({"a" * budgets.CLOSURE_BYTES: "absent"})) is None
    assert budgets.flat('{"a.py":"absent","[b]/":"0"}') == {"a.py": "absent", "[b]/": "0"}


def test_errors_count_what_their_texts_take_in_memory() -> None:
    texts = budgets.Texts(runs=2048)
    wide = Problem("ValueError", "\U0001f600" + "x" * 999)
    found = texts.keep(StagedFile(FileOutcome("a.py", problems=(wide,) * 10))).outcome.problems
    assert len(found) == budgets.LEAST_TEXT_BYTES // 4_100 + 1


def test_errors_count_what_the_database_keeps_of_their_texts_where_that_is_more() -> None:
    texts = budgets.Texts(runs=2048)
    message = "\u4e2d" * 1_000  # two bytes each in memory, three in the database
    found = texts.keep(
        StagedFile(FileOutcome("a.py", problems=(Problem("ValueError", message),) * 10))
    ).outcome.problems
    assert sum(len(item.message.encode()) for item in found if item.message == message) <= budgets.LEAST_TEXT_BYTES
    assert sum(item.message == message for item in found) == 5

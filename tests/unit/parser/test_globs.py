"""A glob of a tenant stands for what it stands for in Git and Airflow, and is matched in bounded time."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagbundle_parser import ignorefile
from dagbundle_parser.ignorefile import (
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    Automaton,
    _glob_parts,
    is_ignored,
    read_rules,
)

CPU_SECONDS = 20
GLOBS = st.lists(
    st.sampled_from(["a", "b", ".", "*", "**", "?", "/", "/**/", "[ab]", "[!a]", "[+-0]", "\\*"]),
    min_size=1,
    max_size=9,
)
PATHS = st.text("ab./*", min_size=1, max_size=12)


@pytest.fixture
def bounded() -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@settings(max_examples=500, deadline=None)
@given(GLOBS, PATHS)
def test_the_automaton_of_a_glob_matches_what_its_regular_expression_matches(glob: list[str], path: str) -> None:
    parts = _glob_parts("".join(glob))
    assert parts is not None
    expected = re.match("".join(parts) + r"\Z", path) is not None
    assert Automaton(parts).match(path) == expected


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    "glob",
    [
        "*a" * 30 + "*b",
        "/" + "*a" * 30 + "*b",
        "**/a/" * 30 + "b",
        "a/**/" * 30 + "b",
        "*[!b]" * 30 + "*b",
        "*?" * 30 + "b",
    ],
)
def test_a_glob_with_many_wildcards_is_matched_in_bounded_time(glob: str) -> None:
    rules = read_rules(glob, directory="", syntax="glob")
    for path in ("a" * 200 + "c", "a/" * 100 + "c"):
        assert not is_ignored(path, rules, is_dir=False)


@pytest.mark.usefixtures("bounded")
def test_a_line_of_blanks_is_read_in_bounded_time() -> None:
    assert (
        read_rules(" " * MAX_PATTERN_CHARACTERS + "\n" + " " * 1_000_000 + "# all\n", directory="", syntax="glob") == []
    )


@pytest.mark.parametrize("text", ["a" * (MAX_PATTERN_CHARACTERS + 1), "a\n" * MAX_PATTERNS])
def test_more_and_longer_patterns_than_allowed_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"more than|longer than"):
        read_rules(text, directory="", syntax="glob")


def test_what_automata_remember_is_bounded_and_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignorefile, "_MEMORY", ignorefile._Memory(100))
    parts = _glob_parts("*a*b" * 10)
    assert parts is not None
    automata = [Automaton(parts) for _ in range(3)]

    assert all(automaton.match(f"{char}ab" * 10) for automaton in automata for char in "xyzäöü")
    kept = sum(len(bits) for automaton in automata for bits in automaton._known.values())
    assert 0 < kept <= 100

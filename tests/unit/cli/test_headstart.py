"""The parser's head start: only for what is an apply beyond doubt, taken by who wants the same, ended otherwise."""

from __future__ import annotations

import pathlib

import pytest

from dagbundle import errors
from dagbundle.cli import headstart

APPLY = ["apply", "--local", "-f", "bundle.yaml"]


def children() -> set[str]:
    return {
        child
        for thread in pathlib.Path("/proc/self/task").iterdir()
        for child in (thread / "children").read_text().split()
    }


@pytest.fixture
def url(tmp_path: pathlib.Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.mark.parametrize("more", [[], ["--folder=there"], ["-q", "--dry-run", "-o", "json"]])
def test_an_apply_finds_its_parser_running(url: str, more: list[str]) -> None:
    before = children()
    with headstart.given([*APPLY, "--database-url", url, *more]):
        started = children()
        assert len(started) == len(before) + 1
        with headstart.parser(None, url, force=False):
            assert children() == started
    assert children() == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["history", "a/b"],
        ["apply", "-f", "bundle.yaml"],
        [*APPLY, "--help"],
        [*APPLY, "--check-determinism"],
        [*APPLY, "--folder"],
        [*APPLY, "-f=bundle.yaml"],
        [*APPLY, "more"],
    ],
)
def test_whatever_else_is_asked_for_starts_no_parser(
    url: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGBUNDLE_DATABASE_URL", url)
    before = children()
    with headstart.given(arguments):
        assert children() == before


def test_who_wants_another_parser_gets_one_and_the_first_is_ended(url: str) -> None:
    before = children()
    with headstart.given([*APPLY, "--database-url", url]):
        started = children()
        with headstart.parser("python3", url, force=False):
            assert len(children()) == len(started) + 1
    assert children() == before


def test_a_parser_is_ended_also_when_the_command_fails(url: str) -> None:
    before = children()
    with pytest.raises(errors.ResourceError), headstart.given([*APPLY, "--database-url", url]):
        raise errors.ResourceError("not valid")
    assert children() == before


def test_an_interpreter_that_is_not_there_is_told_when_the_command_wants_it(url: str) -> None:
    with (
        headstart.given([*APPLY, "--database-url", url, "--python", "nowhere/python"]),
        pytest.raises(errors.UsageError, match="nowhere/python"),
    ):
        headstart.parser("nowhere/python", url, force=False)

"""The parser and the trusted side share no code; what both must say alike is held together here."""

from __future__ import annotations

import signal
from pathlib import Path

import pydantic
import pytest

from dagbundle.cli import inputs, parse
from dagbundle.resources.manifest import YamlLoader
from dagbundle_parser import endings, ignorefile, readers
from dagbundle_parser.errors import RunError
from dagbundle_parser.loaders import airflow
from dagbundle_parser.loaders.base import SourceFile

DUMP = (
    "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
    '  File "{0}/a.py", line 3 in f\n'
)


def test_parse_knows_an_error_that_quotes_what_the_file_printed(tmp_path: Path) -> None:
    file = SourceFile("a.py", str(tmp_path), "bundle")
    _, message = endings.signal_problem("a.py", signal.SIGSEGV, 1 << 30)
    for dump, printed in (("", "a last line\n"), (DUMP.format(tmp_path), "")):
        quoted = message + endings.last_words(dump, printed, file)
        assert any(mark in quoted for mark in parse._QUOTED), quoted
    assert not any(mark in message for mark in parse._QUOTED)


def test_parse_knows_a_file_that_another_one_loads() -> None:
    assert parse._READ_BY == readers.READ_BY


def test_the_command_line_knows_that_airflow_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow, "version", lambda: None)
    monkeypatch.setattr(airflow.AirflowAdapter, "_instance", None)
    with pytest.raises(RunError) as caught:
        airflow.AirflowAdapter.get()
    assert caught.value.kind == "AirflowNotInstalled"
    assert inputs.lacks_airflow(str(caught.value))


def test_a_pattern_of_the_manifest_is_as_long_as_the_parser_takes_it() -> None:
    longest = "a" * ignorefile.MAX_PATTERN_CHARACTERS
    assert YamlLoader(patterns=[longest]).patterns == [longest]
    with pytest.raises(pydantic.ValidationError):
        YamlLoader(patterns=[longest + "a"])

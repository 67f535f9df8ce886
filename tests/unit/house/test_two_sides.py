"""The parser and the trusted side share no code; what both must say alike is held together here."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

import dagbundle_parser
from dagbundle.cli import advice, inputs, parse
from dagbundle.resources.manifest import YamlLoader
from dagbundle_parser import endings, ignorefile, readers
from dagbundle_parser.errors import RunError
from dagbundle_parser.loaders import airflow
from dagbundle_parser.loaders.base import SourceFile

PARSER = Path(dagbundle_parser.__file__).parent
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


@pytest.mark.parametrize(("installed", "kind"), [(None, "AirflowNotInstalled"), ("2.11.0", "AirflowTooOld")])
def test_the_command_line_knows_that_airflow_is_missing_or_too_old(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, kind: str
) -> None:
    monkeypatch.setattr(airflow, "version", lambda: installed)
    monkeypatch.setattr(airflow.AirflowAdapter, "_instance", None)
    with pytest.raises(RunError) as caught:
        airflow.AirflowAdapter.get()
    assert caught.value.kind == kind
    assert inputs.lacks_airflow(str(caught.value))


_OF_PODS_AND_SUBDIRS = {
    "delivery.py": "spec.pod.resources.limits.memory",  # only in a pod
    "runner.py": "correct spec.subdirs",  # `parse` looks for the folder itself
    "sandbox.py": "runAsUser is 0",  # `parse` sets none
}
"""Advice with fields of a DagBundle that `parse` never shows, by file."""


def test_parse_advises_with_nothing_that_it_does_not_have() -> None:
    texts = {text: path.name for path in sorted(PARSER.rglob("*.py")) for text in _texts(path)}
    advising = {text: name for text, name in texts.items() if re.search(r"\bspec\.\w|runAsUser\b.", text)}
    assert advising
    for text, name in advising.items():
        if _OF_PODS_AND_SUBDIRS.get(name, "\0") not in text:
            assert not re.search(r"\bspec\.parser\.fileTimeout|runAsUser", advice.for_parse(text)), text
            assert advice.for_parse(text) != text, text
    for said in advice.OF_PARSE:
        assert any(said in text for text in texts), f"the parser does not say {said!r} any more"
    assert not [text for text in texts if re.search(r"\b(?:this|an) image\b(?! or)", text)]


def _texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def test_a_pattern_of_the_manifest_is_as_long_as_the_parser_takes_it() -> None:
    longest = "a" * ignorefile.MAX_PATTERN_CHARACTERS
    assert YamlLoader(patterns=[longest]).patterns == [longest]
    with pytest.raises(pydantic.ValidationError):
        YamlLoader(patterns=[longest + "a"])

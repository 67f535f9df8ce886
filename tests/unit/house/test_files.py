"""What holds for every file of the project."""

import ast
import os
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
MOST_LINES = 400
MODULES = sorted(ROOT.glob("operator/**/*.py"))

INDEX = re.compile(r"https?://[^ ]*(?:pypi|files\.pythonhosted|/simple/)|index-url\b[ =]*\S*://", re.IGNORECASE)
ARCHIVE = re.compile(r"""url\s*=\s*["']https?://[^"']*\.(?:whl|tar\.gz)""")
HOME = re.compile(r"(?<![\w.$~/-])/(?:root|home/\w+|Users/\w+)/")


def kept_files() -> Iterator[pathlib.Path]:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    for folder, folders, files in os.walk(ROOT):
        here = pathlib.Path(folder)
        folders[:] = [name for name in folders if not {name, (here / name).relative_to(ROOT).as_posix()} & ignored]
        yield from (here / name for name in files if not name.endswith(".pyc"))


def places(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for file in kept_files():
        text = file.read_text(encoding="utf-8", errors="replace")
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    return found


def test_no_file_names_a_package_index() -> None:
    assert places(INDEX) == []


def test_no_file_names_where_a_packages_archive_lies() -> None:
    assert places(ARCHIVE) == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert places(HOME) == []
    assert places(re.compile(re.escape(f"{ROOT}/"))) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(ROOT / "operator").as_posix())
def test_every_module_opens_with_why_it_exists_and_stays_short(module: pathlib.Path) -> None:
    text = module.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= MOST_LINES

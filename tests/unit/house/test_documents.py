"""What README, CONTRIBUTING and CHANGELOG promise is there."""

import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
MADE = {ROOT / "docs/generated", ROOT / "docs/tools"}
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(path for path in sorted(ROOT.glob("docs/**/*.md")) if not MADE & set(path.parents)),
]
TEST_COMMAND = "make check"


def kept_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the files that git would keep: what is ignored is made, or brought."""
    ignored = {line.strip("/") for line in (root / ".gitignore").read_text().splitlines()} | {".git"}
    found = []
    for folder, folders, files in os.walk(root):
        here = pathlib.Path(folder)
        folders[:] = [name for name in folders if not {name, (here / name).relative_to(root).as_posix()} & ignored]
        found += [here / file for file in files]
    return sorted(found)


def targets() -> set[str]:
    return set(re.findall(r"(?m)^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text()))


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_make_target_that_a_document_names_exists(document: pathlib.Path) -> None:
    named = set(re.findall(r"(?m)(?:`|^|&& )make ([a-z][a-z0-9-]*)", document.read_text()))
    assert named - targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_file_that_a_document_links_to_exists(document: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


MARKDOWN = [path for path in kept_files(ROOT) if path.suffix == ".md"]
LONGEST, LONGEST_ROW = 120, 360


@pytest.mark.parametrize("document", MARKDOWN, ids=name)
def test_no_line_of_a_document_is_longer_than_an_editor_is_wide(document: pathlib.Path) -> None:
    # A row of a table cannot be broken, and the tables that are left are references, whose rows tests hold to the code,
    # or have three columns and more. Rows have a bound of their own; where it does not suffice, a list reads better.
    long = [line for line in document.read_text().splitlines() if len(line) > LONGEST]
    rows = [line for line in long if re.match(r" *\|", line)]
    addresses = [line for line in long if re.fullmatch(r"[^ ]*://[^ ]*", line)]
    assert [line for line in long if line not in rows + addresses] == []
    assert [line for line in rows if len(line) > LONGEST_ROW] == []


def test_make_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert {target for target in targets() if not re.search(rf"(?m)^{target}:.* ## \w", makefile)} == set()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert f"\n{TEST_COMMAND} ||" in ci.read_text()  # what it ends with is looked at when the stories have ended too
    assert f"\n{TEST_COMMAND}" in (ROOT / "README.md").read_text()


def test_the_changelog_keeps_to_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    assert "[Keep a Changelog](https://keepachangelog.com/en/1.1.0/)" in text
    versions = re.findall(r"(?m)^## (.*)$", text)
    assert versions[0] == "[Unreleased]"
    assert [found for found in versions[1:] if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", found)] == []
    kinds = re.findall(r"(?m)^### (.*)$", text)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


WORDS = {"run", "attempt", "shard", "session", "lane", "request", "claim", "target", "value", "closure"}


def test_the_glossary_is_the_one_place_that_defines_the_words() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    defined = re.findall(r"(?m)^- \*\*([a-z][\w ]*)\*\*: ", glossary)
    assert WORDS - set(defined) == set()
    assert len(defined) == len(set(defined))
    for section in glossary.split("\n## ")[1:]:
        words = re.findall(r"(?m)^- \*\*([a-z][\w ]*)\*\*: ", section)
        assert words == sorted(words)
    assert [name(path) for path in DOCUMENTS if re.search(r"(?mi)^#+ .*vocabulary", path.read_text())] == []


def test_the_style_page_shows_sentences_before_and_after() -> None:
    section = (ROOT / "docs/style.md").read_text().partition("## Before and after\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"(?m)^\| [A-Z].* \| [A-Z].* \|$", section)) >= 5


STUMBLED_OVER = re.compile(
    r"Whose pod it is.{0,4} says|has the bundles parsed again|is none to fail for|said no\b|or you did\b"
    r"|is not how it is asked"
)
"""Sentences that readers had to read twice; docs/style.md shows them, with what they became."""


def test_sentences_that_readers_stumbled_over_stay_rewritten() -> None:
    prose = [path for path in kept_files(ROOT) if path.suffix in {".md", ".py", ".yaml", ".json"}]
    exempt = {ROOT / "docs/style.md", pathlib.Path(__file__)}
    found = {
        name(path): STUMBLED_OVER.findall(" ".join(path.read_text().split())) for path in prose if path not in exempt
    }
    assert {path: texts for path, texts in found.items() if texts} == {}

"""What a repository's host reads from .github: owners, and the forms of issues and pull requests."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".github"
FORMS = sorted(path for path in FOLDER.glob("ISSUE_TEMPLATE/*.yml") if path.name != "config.yml")


def test_each_path_that_has_owners_is_there_and_all_files_have_some() -> None:
    lines = [line for line in (FOLDER / "CODEOWNERS").read_text().splitlines() if line and not line.startswith("#")]
    rules = [line.split() for line in lines]
    assert rules[0][0] == "*"
    assert [path for path, *_ in rules[1:] if not (ROOT / path.lstrip("/")).exists()] == []
    assert [line for line, (_, *owners) in zip(lines, rules, strict=True) if not owners] == []
    assert {owner for _, *owners in rules for owner in owners if not re.fullmatch(r"@[\w-]+(/[\w-]+)?", owner)} == set()


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_each_form_of_an_issue_has_a_name_and_questions_with_different_ids(form: pathlib.Path) -> None:
    content: dict[str, Any] = yaml.safe_load(form.read_text())
    assert content.keys() == {"name", "description", "labels", "body"}
    asked = [item for item in content["body"] if item["type"] != "markdown"]
    assert asked
    assert len({item["id"] for item in asked}) == len(asked)
    assert [item for item in asked if not item["attributes"]["label"]] == []


def test_the_form_of_a_bug_sends_vulnerabilities_elsewhere() -> None:
    assert "SECURITY.md" in (FOLDER / "ISSUE_TEMPLATE/bug.yml").read_text()


def test_the_template_of_a_pull_request_names_files_that_are_there() -> None:
    text = (FOLDER / "PULL_REQUEST_TEMPLATE.md").read_text()
    named = set(re.findall(r"[\w/]+\.md", text))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()

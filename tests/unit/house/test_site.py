"""The site of the documentation: its generated pages have all that the code has. `make docs` builds it."""

from __future__ import annotations

import importlib
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from dagbundle import errors
from dagbundle.cli import exits, program
from dagbundle.resources import crd
from dagbundle.server import problems

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("generated")
    subprocess.run([sys.executable, ROOT / "docs/tools/generate.py", folder], check=True, timeout=120)
    return {path.stem: path.read_text() for path in folder.iterdir()}


def test_the_generated_reference_has_every_command_with_its_options(pages: dict[str, str]) -> None:
    apply = typer.main.get_command(program.app).commands["apply"]  # type: ignore[attr-defined]
    text = pages["commands"]
    assert "\n## `dagbundle db upgrade`\n" in text
    section = text.partition("## `dagbundle apply`\n")[2].partition("\n## ")[0]
    for parameter in apply.params:
        assert parameter.name == "help" or f"`{parameter.opts[0]}`" in section


def test_the_generated_reference_has_every_field_of_the_resource_with_its_bounds(pages: dict[str, str]) -> None:
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        for name in schema[part]["properties"]:
            assert f"- `{part}.{name}` (" in pages["fields"]
    assert "- `spec.subdirs[].shards` (integer; at least `1`; at most `32`)" in pages["fields"]


def test_the_generated_reference_has_every_error_exit_code_and_reason_of_the_server(pages: dict[str, str]) -> None:
    text = pages["errors"]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert [kind.__name__ for kind in kinds if f"- `{kind.__name__}` (`" not in text] == []
    assert [code.name for code in exits.Exit if f"- `{code.value}` `{code.name}`: " not in text] == []
    assert [reason for reason in problems.REASONS if f"- `{reason}` (HTTP " not in text] == []


def test_the_generated_reference_has_the_metrics_of_controller_and_server(pages: dict[str, str]) -> None:
    assert "- `dagbundle_reconcile_total{result}` (counter): " in pages["metrics"]
    assert "- `dagbundle_server_report_seconds` (histogram): " in pages["metrics"]


def test_copies_of_files_outside_of_docs_link_to_pages_and_files_that_are_there(pages: dict[str, str]) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", pages["readme"])
    assert "../architecture.md" in links
    assert "changelog.md" in links
    outside = [link for link in links if link.startswith("../")]
    assert [link for link in outside if not (ROOT / "docs/generated" / link).resolve().exists()] == []


def test_ci_draws_the_pictures_and_builds_the_site() -> None:
    assert "\n  make pictures\n" in (ROOT / ".ci/run").read_text()
    assert re.search(r"(?m)^lint: .*\bdocs\b", (ROOT / "Makefile").read_text())


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs/tools"))
    return importlib.import_module("pictures")


def test_architecture_rollout_and_trust_boundary_are_pictures_with_a_title_to_read_in_their_place(
    pictures: Any,
) -> None:
    found = pictures.all_of(ROOT)
    assert len(found) >= 3
    assert [picture.page for picture in found if not picture.title] == []


def test_a_page_shows_a_rendered_picture_and_else_its_text(pictures: Any, tmp_path: pathlib.Path) -> None:
    page = "# A\n\n```mermaid\nflowchart LR\n  accTitle: One of two\n  a --> b\n```\n"
    assert "```text\nflowchart LR\n" in pictures.replaced(page, tmp_path)
    (picture,) = pictures.of(page)
    file = tmp_path / pictures.PICTURES / f"{picture.name}.svg"
    file.parent.mkdir(parents=True)
    file.write_text("<svg/>")
    assert pictures.replaced(page, tmp_path) == f"# A\n\n![One of two](/generated/pictures/{picture.name}.svg)\n"

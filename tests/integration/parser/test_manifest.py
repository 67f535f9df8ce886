"""A bundle's manifest decides, with a real Airflow, how its files are parsed where the run request leaves that open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.parser.test_yaml import dags, known_of, milk, statuses

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

Write = Callable[..., Path]
V = "version: v1beta\n"
OPEN: dict[str, Any] = {"defaults": ["parser", "processes"]}
DAG = "from airflow.sdk import DAG\ndag = DAG('{}', schedule=None)\n"
PARSER = """
from dagbundle_parser.parsers.base import AbstractBundleParser

class LastFirst(AbstractBundleParser):
    name, version = "LastFirst", "2.1"

    def run(self):
        files = self.bundle.list_files()
        self.store.open(parser={"name": self.name, "version": self.version}, facts=self.bundle.facts, files=len(files))
        for record in self.bundle.load([file for file in files[::-1] if not self.bundle.is_unchanged(file)]):
            self.store.submit(record)
        for file in files:
            if self.bundle.is_unchanged(file):
                self.store.confirm_unchanged(file.path)
        self.store.close()
"""


@pytest.fixture
def installed(tmp_path: Path, write: Write) -> dict[str, str]:
    """The variables of an environment that has a third party's bundle parser."""
    folder = write(
        tmp_path / "installed",
        {
            "last_first.py": PARSER,
            "last_first-2.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: last-first\nVersion: 2.1\n",
            "last_first-2.1.dist-info/entry_points.txt": "[dagbundle.parsers]\nLastFirst = last_first:LastFirst\n",
        },
    )
    return {"PYTHONPATH": str(folder)}


def test_a_manifest_names_the_parser_and_the_processes_and_a_changed_one_parses_anew(
    newest: Airflow, tmp_path: Path, write: Write, installed: dict[str, str]
) -> None:
    bundle = write(tmp_path / "bundle", {"a.py": DAG.format("a"), "b.py": DAG.format("b")})
    before = newest.parse(bundle, env=installed, **OPEN)
    assert before["open"]["parser"]["name"] == "SinglePass"
    assert before["open"]["origins"] == {"parser": "default", "processes": "default"}
    write(bundle, {"dagbundle.yaml": V + "bundle_parser: LastFirstBundleParser\nbundle_config: {processes: 1}\n"})
    named = newest.parse(bundle, env=installed, known=known_of(before), **OPEN)
    assert named["open"]["parser"] == {"name": "LastFirst", "version": "2.1"}
    assert named["open"]["processes"] == 1
    assert named["open"]["origins"] == {"parser": "manifest", "processes": "manifest"}
    assert statuses(named) == {"a.py": "parsed", "b.py": "parsed"}
    assert dags(named) == dags(before)
    again = newest.parse(bundle, env=installed, known=known_of(named), **OPEN)
    assert statuses(again) == {"a.py": "unchanged", "b.py": "unchanged"}
    ruled = newest.parse(bundle, env=installed, known=known_of(named), defaults=[])
    assert ruled["open"]["parser"]["name"] == "SinglePass"
    assert statuses(ruled) == {"a.py": "parsed", "b.py": "parsed"}


def test_the_proposals_example_parses_the_folder_that_it_names(airflow: Airflow, tmp_path: Path, write: Write) -> None:
    example = (
        V + "bundle_parser: StandardBundleParser\nbundle_fetch_interval: 5 minutes\nbundle_config:\n"
        "  - directories_to_scan:\n      - path: /glacier/\n        scan_interval: 1 day\n"
        "        min_file_parse_interval: 1 day\n"
    )
    files = {"glacier/deep/a.py": DAG.format("a"), "b.py": DAG.format("b"), "glacier/m.yml": milk()}
    bundle = write(tmp_path / "bundle", {**files, "dagbundle.yaml": example})
    run = airflow.parse(bundle, **OPEN)
    assert run["open"]["parser"]["name"] == "SinglePass"
    assert run["open"]["origins"] == {"parser": "manifest", "processes": "default"}
    assert set(run["files"]) == {"glacier/deep/a.py", "glacier/m.yml"}
    assert run["last"]["type"] == "close"


def test_another_default_of_the_yaml_loader_parses_its_files_anew_and_no_others(
    newest: Airflow, tmp_path: Path, write: Write
) -> None:
    settings = "bundle_config: {loaders: {yaml: {defaults: {default_args: {owner: OWNER, start_date: 2026-01-01}}}}}\n"
    text = V + settings
    bundle = write(
        tmp_path / "bundle", {"a.py": DAG.format("a"), "m.yml": milk(), "dagbundle.yaml": text.replace("OWNER", "x")}
    )
    first = newest.parse(bundle, **OPEN)
    assert dags(first) == {"a.py": ["a"], "m.yml": ["milk"]}
    write(bundle, {"dagbundle.yaml": text.replace("OWNER", "y")})
    assert statuses(newest.parse(bundle, known=known_of(first), **OPEN)) == {"a.py": "unchanged", "m.yml": "parsed"}


def test_a_wrong_manifest_ends_the_run_before_anything_is_opened(newest: Airflow, tmp_path: Path, write: Write) -> None:
    bundle = write(tmp_path / "bundle", {"a.py": DAG.format("a"), "dagbundle.yaml": V + "bundle_parser: [a\n"})
    run = newest.parse(bundle, **OPEN)
    assert run["open"] is run["last"]
    assert (run["last"]["type"], run["last"]["kind"]) == ("fail", "ManifestInvalid")
    assert "dagbundle.yaml" in run["last"]["message"]
    assert "line 2, column 16: a list's [ is opened here, and never closed" in run["last"]["message"]

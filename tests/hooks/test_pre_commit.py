"""pre-commit itself installs this repository and runs its hook, as in a team's repository."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from support import airflow

PRE_COMMIT = airflow.ROOT / ".venvs/hooks/bin/pre-commit"
DAG = "from airflow.sdk import DAG\nfrom team_tools import NAME\ndag = DAG(NAME)\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One place for what pre-commit installs."""
    place = tmp_path_factory.mktemp("pre-commit")
    named = {f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **named, "PRE_COMMIT_HOME": str(place), "DAGBUNDLE_PYTHON": airflow.python()}


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> pathlib.Path:
    """This repository as it is now, in one commit."""
    place = tmp_path_factory.mktemp("hooks")
    shown = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=airflow.ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, shown.split("\0")):
        if name.startswith(("operator/", "pyproject", "README", "LICENSE", ".pre-commit-hooks")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((airflow.ROOT / name).read_bytes())
    _commit(place, environment)
    return place


def _commit(folder: pathlib.Path, environment: dict[str, str]) -> None:
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)


def test_pre_commit_parses_the_files_of_a_commit_and_skips_helpers(
    tmp_path: pathlib.Path, hooks: pathlib.Path, environment: dict[str, str]
) -> None:
    (tmp_path / "dags/sales").mkdir(parents=True)
    (tmp_path / "dags/dagbundle.yaml").write_text("version: v1beta\n")
    (tmp_path / "dags/team_tools.py").write_text('NAME = "orders"\n')
    (tmp_path / "dags/sales/orders.py").write_text(DAG)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=hooks, check=True, capture_output=True, text=True).stdout
    (tmp_path / ".pre-commit-config.yaml").write_text(
        f"repos:\n  - repo: {hooks}\n    rev: {head}    hooks: [{{id: dagbundle-parse, files: ^dags/}}]\n"
    )
    _commit(tmp_path, environment)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PRE_COMMIT, "run", "--all-files", "--verbose"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orders: 0 tasks" in done.stdout
    assert "team_tools.py  skipped" in done.stdout
    (tmp_path / "dags/sales/orders.py").write_text(DAG + "1 / 0\n")
    done = run()
    assert done.returncode == 1
    assert "ZeroDivisionError (line 4)" in done.stdout

"""What Airflow's tables cannot take of one file costs that file, and is said before it is published."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from publisher.conftest import Deployment, apply_folder, dag, document

OWNED = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("shared", schedule=None):
    for number in range(6):
        EmptyOperator(task_id=f"t{number}", owner=f"{number:0>400}")
"""
PLAIN = """
from airflow.sdk import DAG

DAG("neighbour", schedule=None)
"""


def bad(**fields: Any) -> dict[str, Any]:
    """A document of a DAG with other fields, as the parser of a file that is up to no good reports it."""
    found = document(dag("bad"), "bad.py")
    found["dag"].update(fields)
    return found


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_active_tasks": 2**40}, "dag.max_active_tasks"),
        ({"owner_links": {"airflow": "javascript:alert(1)"}}, "dag.owner_links.airflow"),
        ({"tags": ["x" * 101]}, "dag.tags"),
        ({"timetable": {"__type": "tenant.Evil", "__var": {}}}, "DAGBUNDLE_ALLOWED_CLASSES"),
        ({"dag_display_name": "x" * 2001}, "dag.dag_display_name"),
    ],
)
def test_what_vetting_refuses_costs_its_file_and_not_the_bundle(
    deployment: Deployment, fields: dict[str, Any], told: str
) -> None:
    done = deployment.roll_out({"bad.py": [bad(**fields)], "good.py": [dag("good")]}, "v1")
    assert done.judgement.reason == "KeptLastGood"
    assert deployment.live() == {"good": "v1"}
    ((path, text),) = deployment.rows("SELECT filename, stacktrace FROM import_error")
    assert path == "bad.py"
    assert "DAG bad: " in text
    assert told in text


def test_a_file_that_becomes_refused_keeps_what_it_had_and_publishes_again_when_it_is_mended(
    deployment: Deployment,
) -> None:
    deployment.roll_out({"bad.py": [dag("bad")], "good.py": [dag("good")]}, "v1")
    deployment.roll_out({"bad.py": [bad(max_active_runs=2**40)], "good.py": [dag("good", tags=["new"])]}, "v2")
    assert deployment.live() == {"bad": "v1", "good": "v2"}
    done = deployment.roll_out({"bad.py": [dag("bad", tags=["mended"])], "good.py": [dag("good", tags=["new"])]}, "v3")
    assert done.judgement.reason == "Published"
    assert deployment.live() == {"bad": "v3", "good": "v3"}
    assert deployment.rows("SELECT filename FROM import_error") == []


def test_owners_that_add_up_break_their_file_and_a_dry_run_says_so_beforehand(url: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    tmp_path.chmod(0o755)  # as root the parser's children have a user of their own
    (folder / "shared.py").write_text(OWNED)
    (folder / "neighbour.py").write_text(PLAIN)
    told = apply(url, folder, tmp_path, "--dry-run")
    assert "shared.py" in told
    assert "the length of all tasks' owners is 2410, and Airflow's dag.owners has 2,000" in told
    told = apply(url, folder, tmp_path)
    assert "KeptLastGood" in told
    assert "the length of all tasks' owners is 2410" in told


def apply(url: str, folder: pathlib.Path, tmp_path: pathlib.Path, *options: str) -> str:
    """Publish a folder, and return what was said on one line."""
    done = apply_folder(url, folder, tmp_path, *options, COLUMNS="1000")
    assert done.returncode == 3, done.stdout[-3000:] + done.stderr[-3000:]
    return " ".join((done.stdout + done.stderr).split())

"""What files import through helpers is imported once for all of them, and what that makes of them is the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.parser.conftest import Airflow

    Write = Callable[[Path, dict[str, str | bytes]], Path]

pytestmark = pytest.mark.airflow

FLOW = (
    "from airflow.sdk import DAG, task\nfrom common import DEFAULTS, HOOK\n"
    'with DAG("flow_{0}", default_args=DEFAULTS, schedule=None):\n    @task\n    def go():\n        pass\n    go()\n'
)
LIBRARY = (
    "import os\nwith open(os.environ['IMPORT_LOG'], 'a') as log:\n    log.write(f'{__name__}\\n')\nclass Hook: ...\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that every user may write, in which the library notes its imports."""
    made = tmp_path / "log"
    made.touch()
    made.chmod(0o666)
    tmp_path.chmod(0o755)
    return made


def test_a_library_that_helpers_import_is_imported_once_for_all_files(
    newest: Airflow, write: Write, tmp_path: Path, log: Path
) -> None:
    site = write(tmp_path / "site-packages", {"heavy/__init__.py": LIBRARY, "heavy/hooks.py": LIBRARY})
    files: dict[str, str | bytes] = {f"flow_{n}.py": FLOW.format(n) for n in range(8)}
    files |= {"common.py": "from team.hooks import HOOK\nDEFAULTS = {'retries': 2}\n", "team/__init__.py": ""}
    files["team/hooks.py"] = "from heavy import hooks\nHOOK = hooks.Hook\n"
    folder = write(tmp_path / "bundle", files)
    run = newest.parse(folder, env={"PYTHONPATH": str(site), "IMPORT_LOG": str(log)})
    assert {path: len(record["dags"]) for path, record in run["files"].items()} == {f"flow_{n}.py": 1 for n in range(8)}
    assert log.read_text().split() == ["heavy", "heavy.hooks"]


def test_an_operator_that_yaml_names_is_imported_once_for_all_files(
    newest: Airflow, write: Write, tmp_path: Path, log: Path
) -> None:
    churn = "from airflow.sdk import BaseOperator\nclass Churn(BaseOperator): ...\n"
    site = write(tmp_path / "site-packages", {"heavy/__init__.py": LIBRARY, "heavy/operators.py": LIBRARY + churn})
    flow = "flow_{0}:\n  default_args: {{start_date: 2026-01-01}}\n  schedule: null\n  tasks:\n    - {{task_id: a, "
    flow += "operator: heavy.operators.Churn}}\n"
    folder = write(tmp_path / "bundle", {f"flow_{n}.yml": flow.format(n) for n in range(8)})
    run = newest.parse(folder, env={"PYTHONPATH": str(site), "IMPORT_LOG": str(log)})
    assert {path: len(record["dags"]) for path, record in run["files"].items()} == {
        f"flow_{n}.yml": 1 for n in range(8)
    }
    assert log.read_text().split() == ["heavy", "heavy.operators"]


def test_dags_that_a_library_makes_while_it_is_imported_are_those_of_each_file_that_imports_it(
    airflow: Airflow, write: Write, tmp_path: Path
) -> None:
    library = "from airflow.sdk import DAG\nwith DAG('from_library', schedule=None):\n    pass\n"
    site = write(
        tmp_path / "site-packages", {"company/__init__.py": "from company import flows\n", "company/flows.py": library}
    )
    hidden = "import importlib  # dag airflow\nimportlib.import_module('com' + 'pany')\n"
    files: dict[str, str | bytes] = {f"hidden_{n}.py": hidden for n in range(4)}
    folder = write(tmp_path / "bundle", {**files, "open.py": "import company  # dag airflow\n"})

    run = airflow.parse(folder, env={"PYTHONPATH": str(site)}, processes=1)

    made = {path: [dag["dag_id"] for dag in record["dags"]] for path, record in run["files"].items()}
    assert made == {path: ["from_library"] for path in [*files, "open.py"]}

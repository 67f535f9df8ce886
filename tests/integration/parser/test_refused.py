"""DAGs that a file has made and that Airflow then refuses, on every minor: its error names neither DAG nor line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from integration.parser.conftest import Airflow

pytestmark = pytest.mark.airflow

FILES = {
    "cron.py": "from airflow.sdk import DAG\n\nfirst = DAG('first')\nwrong = DAG('wrong', schedule='61 * * * *')\n"
    "last = DAG('last')\n",
    "made.py": "from airflow.sdk import DAG\n\ndef make(name, cron):\n    return DAG(name, schedule=cron)\n\n"
    "good = make('good', '@daily')\none = make('one', 'often')\ntwo = make('two', 'seldom')\n",
    "cycle.py": "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
    "with DAG('cycle'):\n    a, b = EmptyOperator(task_id='a'), EmptyOperator(task_id='b')\n    a >> b >> a\n",
    "built.py": "from airflow.sdk import DAG\n\ndef make(name, cron):\n    return DAG(name, schedule=cron)\n\n"
    "made = make('built', 3)\n",
}


def test_a_dag_that_is_refused_is_named_with_its_line(
    airflow: Airflow, tmp_path: Path, write: Callable[..., Path]
) -> None:
    found = airflow.parse(write(tmp_path / "bundle", FILES))["files"]
    errors = {path: sorted((error["line"], error["message"]) for error in found[path]["errors"]) for path in FILES}
    ((line, message),) = errors["cron.py"]
    assert (line, message.partition(" is refused: ")[0]) == (4, "DAG 'wrong'")
    assert "61 * * * *" in message
    assert [(line, message[:9]) for line, message in errors["made.py"]] == [(7, "DAG 'one'"), (8, "DAG 'two'")]
    ((line, message),) = errors["cycle.py"]
    assert (line, message.partition(": ")[0]) == (3, "DAG 'cycle' is refused")
    ((line, message),) = errors["built.py"]  # refused while it is made: the innermost line of the file
    assert (line, "line 6, in <module>" in message) == (4, True)

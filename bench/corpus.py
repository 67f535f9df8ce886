"""The files that are parsed: generated bundles of known shapes, and the examples that Airflow itself ships."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

from bench import harness

_HEADER = '''"""Generated for a benchmark."""

from datetime import datetime, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
'''
_DAG = """
with DAG(
    dag_id="{dag_id}",
    schedule="@daily",
    start_date=datetime(2025, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["bench"],
):
    tasks = [
        BashOperator(task_id=f"task_{{number}}", bash_command=f"echo {{number}} of {{{{{{{{ ds }}}}}}}}", retries=2)
        for number in range({tasks})
    ]
    for first, second in zip(tasks, tasks[1:]):
        first >> second
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A bundle's folder and what is in it."""

    name: str
    folder: pathlib.Path
    files: int
    dags: int | None
    """None where only a parse can tell."""
    is_long: bool = False
    """Stock Airflow takes a minute or more: one round of it is enough by default."""


def generated(folder: pathlib.Path, *, files: int, dags_per_file: int, tasks: int = 5) -> Corpus:
    """Write files of DAGs, whose tasks form a chain."""
    width = len(str(max(files, dags_per_file) - 1))
    folder.mkdir(parents=True)
    for file in range(files):
        dags = (
            _DAG.format(dag_id=f"bench_{file:0{width}}_{dag:0{width}}", tasks=tasks) for dag in range(dags_per_file)
        )
        (folder / f"bench_{file:0{width}}.py").write_text(_HEADER + "\n".join(dags), encoding="utf-8")
    return Corpus(
        name=f"{files:,} files of {dags_per_file}",
        folder=folder,
        files=files,
        dags=files * dags_per_file,
        is_long=files > 500,  # noqa: PLR2004 - about half a minute of stock Airflow
    )


_HELPERS = {
    "tables": "import pandas\n\nEMPTY = pandas.DataFrame()\n",
    "storage": "from airflow.providers.amazon.aws.hooks.s3 import S3Hook\n\nHOOK = S3Hook\n",
    "queues": "from airflow.providers.amazon.aws.hooks.sqs import SqsHook\n\nfrom lib.storage import HOOK\n",
    "steps": "import pandas\n\ndef steps(table):\n    return [f'step {row}' for row in table.index]\n",
}
"""What the helpers of a team's bundle are like: each brings a library that takes longer than Airflow's DAG."""


def helped(folder: pathlib.Path, *, files: int, helpers: int) -> Corpus:
    """Write files that import pandas and a provider, each through one of the bundle's helpers."""
    lib = folder / "lib"
    lib.mkdir(parents=True)
    (lib / "__init__.py").write_text("", encoding="utf-8")
    for name, text in _HELPERS.items():
        (lib / f"{name}.py").write_text(text, encoding="utf-8")
    names = sorted(_HELPERS)
    for number in range(helpers - len(names)):
        first, second = names[number % len(names)], names[(number + 1) % len(names)]
        text = f"from lib import {first}\nfrom lib import {second}\n\nTEAM = 'team {number}'\n"
        (lib / f"team_{number:02}.py").write_text(text, encoding="utf-8")
    for number in range(files):
        own = f"from lib.team_{number % (helpers - len(names)):02} import TEAM\n"
        text = _HEADER + own + _DAG.format(dag_id=f"bench_{number:04}", tasks=5)
        (folder / f"bench_{number:04}.py").write_text(text, encoding="utf-8")
    name = f"{files:,} files with {helpers} helpers"
    return Corpus(name=name, folder=folder, files=files, dags=files, is_long=True)


def large_dag(folder: pathlib.Path, *, tasks: int) -> Corpus:
    """Write one file with a DAG of many tasks, named `large`, and one with a small DAG, named `small`."""
    folder.mkdir(parents=True)
    for name, size in (("large", tasks), ("small", 1)):
        (folder / f"{name}.py").write_text(_HEADER + _DAG.format(dag_id=name, tasks=size), encoding="utf-8")
    return Corpus(name=f"a DAG of {tasks:,} tasks", folder=folder, files=2, dags=2)


def examples(folder: pathlib.Path, airflow_python: pathlib.Path) -> Corpus:
    """Copy the example DAGs of an Airflow environment; the number of files is what its own discovery finds."""
    probe = (
        "import json, pathlib, airflow.example_dags as examples\n"
        "print(json.dumps(str(pathlib.Path(examples.__path__[0]).resolve())))"
    )
    source = _ask(airflow_python, probe)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    count = (
        "import json, sys\n"
        "from airflow.utils.file import find_dag_file_paths\n"
        "print(json.dumps(len(find_dag_file_paths(sys.argv[1], safe_mode=True))))"
    )
    files = int(_ask(airflow_python, count, str(folder)))
    return Corpus(name=f"Airflow's {files} example files", folder=folder, files=files, dags=None)


def throughput_set(root: pathlib.Path, settings: harness.Settings) -> list[Corpus]:
    """Make the corpora whose throughput is compared."""
    shapes = [(100, 1), (10, 10), (4, 50)] if settings.quick else [(1000, 1), (100, 10), (20, 100)]
    return [
        examples(root / "examples", settings.airflow_python),
        *(generated(root / f"{files}x{dags}", files=files, dags_per_file=dags) for files, dags in shapes),
    ]


def _ask(python: pathlib.Path, program: str, *arguments: str) -> str:
    with harness.scratch("ask") as home:
        env = {**os.environ, "AIRFLOW_HOME": str(home)}
        done = subprocess.run([python, "-c", program, *arguments], check=True, capture_output=True, text=True, env=env)
    return str(json.loads(done.stdout.splitlines()[-1]))

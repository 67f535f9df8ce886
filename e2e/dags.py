"""The DAG files that the stories put into tenants' images: small, of a real Airflow, and broken in chosen ways."""

from __future__ import annotations

from collections.abc import Mapping

Files = Mapping[str, str]


def dag(dag_id: str, *tasks: str, tag: str = "v1") -> str:
    """Return a file that defines one DAG, with its tasks in a row."""
    lines = [
        "from airflow.providers.standard.operators.empty import EmptyOperator",
        "from airflow.sdk import DAG, chain",
        "",
        f"with DAG({dag_id!r}, schedule=None, tags=[{tag!r}]):",
        f"    chain(*[EmptyOperator(task_id=name) for name in {list(tasks or ('work',))!r}])",
        "",
    ]
    return "\n".join(lines)


def broken(dag_id: str) -> str:
    """Return a file that once defined this DAG, and now has a typo in an import."""
    return f"from airflow.sdk import DAG, chian  # a typo\n\nwith DAG({dag_id!r}, schedule=None):\n    pass\n"


def prints(text: str, dag_id: str) -> str:
    """Return a DAG file that says something while it is parsed."""
    return f"print({text!r})\n{dag(dag_id)}"


def slow(dag_id: str, seconds: float) -> str:
    """Return a DAG file that takes its time."""
    return f"import time\n\ntime.sleep({seconds})\n{dag(dag_id)}"


def waiting(dag_id: str, path: str) -> str:
    """Return a DAG file that is being parsed until a file appears in its pod."""
    return f"import os, time\n\nwhile not os.path.exists({path!r}):\n    time.sleep(0.1)\n{dag(dag_id)}"


def probing(dag_id: str, probe: str) -> str:
    """Return a DAG file that tries something, and has what came of it as the description of its DAG."""
    body = "\n".join(f"    {line}" for line in probe.splitlines())
    return (
        f"from airflow.sdk import DAG\n\n\ndef probe() -> str:\n{body}\n\n\n"
        f"try:\n    found = probe()\nexcept Exception as error:\n    found = f'{{type(error).__name__}}: {{error}}'\n\n"
        f"with DAG({dag_id!r}, schedule=None, description=found, tags=['airflow']):\n    pass\n"
    )

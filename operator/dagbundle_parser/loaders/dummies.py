"""DAGs that are loaded before the fork, so that what Airflow does at first use is done once and not in every child."""

from __future__ import annotations

DUMMIES = (
    """
from airflow.sdk import DAG, BaseOperator
with DAG("dagbundle_warm_up", schedule="@daily", tags=["a"], default_args={"retries": 1}) as dag:
    BaseOperator(task_id="a") >> BaseOperator(task_id="b")
""",
    """
from datetime import datetime, timedelta
from airflow.sdk import DAG, Asset, BaseOperator, Param, TaskGroup, task
with DAG("dagbundle_warm_up", start_date=datetime(2025, 1, 1), schedule=[Asset("file:///warm-up")],
         params={"a": Param("a", type="string")}, dagrun_timeout=timedelta(minutes=1)) as dag:
    with TaskGroup("group"):
        first = BaseOperator(task_id="first", outlets=[Asset("file:///warm-up")], retry_delay=timedelta(seconds=1))
    @task
    def second(number):
        return number
    first >> second.partial().expand(number=[1, 2])
""",
)
"""What most DAGs are made of. The second needs the standard provider, and is left out where that is missing."""

"""Loads the goods that came back."""

from datetime import UTC, datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id="ingest.returns",
    schedule="@weekly",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["sales"],
):
    fetch = BashOperator(task_id="fetch", bash_command="echo returns of week {{ ds }}")
    store = BashOperator(task_id="store", bash_command="echo stored")
    fetch >> store

"""Reports revenue as soon as new orders are stored: scheduled by an asset, with nested task groups."""

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, TaskGroup
from sales_shared.regions import REGIONS

with DAG(
    dag_id="reporting.revenue",
    schedule=[Asset("sales-orders")],
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["sales"],
):
    publish = EmptyOperator(task_id="publish", outlets=[Asset("sales-revenue")])
    with TaskGroup("regions"):
        for region in REGIONS:
            with TaskGroup(region) as of_region:
                EmptyOperator(task_id="sum") >> EmptyOperator(task_id="compare_with_plan")
            of_region >> publish

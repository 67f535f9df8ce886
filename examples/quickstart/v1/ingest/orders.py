"""Loads the day's orders: a task group per stage, one mapped task per region, and an asset that reports wait for."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import Asset, dag, task, task_group
from sales_shared.regions import REGIONS

ORDERS = Asset("sales-orders")


@dag(
    dag_id="ingest.orders",
    schedule="@daily",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["sales"],
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
)
def orders() -> None:
    """Fetch, check and store the orders of every region."""

    @task
    def fetch(region: str) -> dict[str, str | int]:
        return {"region": region, "rows": 100 * len(region)}

    @task_group
    def check(batches: list[dict[str, str | int]]) -> None:
        @task
        def count(batches: list[dict[str, str | int]]) -> int:
            return sum(int(batch["rows"]) for batch in batches)

        @task
        def refuse_if_empty(rows: int) -> None:
            if not rows:
                raise ValueError("No region sent any order")

        refuse_if_empty(count(batches))

    @task(outlets=[ORDERS])
    def store() -> None:
        """Hand the day over to whoever waits for the asset."""

    check(fetch.expand(region=list(REGIONS))) >> store()


orders()

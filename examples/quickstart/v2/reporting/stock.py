"""Reports what each depot has left."""

from datetime import UTC, datetime

from airflow.sdk import dag, task
from sales_shared.regions import DEPOTS


@dag(
    dag_id="reporting.stock",
    schedule="@hourly",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["sales"],
)
def stock() -> None:
    """Count the goods in every depot, then add them up."""

    @task
    def count(depot: str) -> int:
        return len(depot)

    @task
    def total(counts: list[int]) -> int:
        return sum(counts)

    total(count.expand(depot=sorted(DEPOTS.values())))


stock()

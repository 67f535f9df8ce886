"""An executor of a deployment's own, as Airflow loads one: it carries out tasks, and no callbacks."""

from __future__ import annotations

from airflow.executors.base_executor import BaseExecutor


class PlainExecutor(BaseExecutor):  # type: ignore[misc] # Airflow is untyped here
    """Carries out nothing."""

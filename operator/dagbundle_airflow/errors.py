"""The one error of this package: Airflow shows its text where a task did not start."""

from __future__ import annotations


class WorkerError(Exception):
    """A task cannot run on what it must run on. The message says why, and what to do next."""

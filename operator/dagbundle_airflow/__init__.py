"""What Airflow itself needs of us: a bundle class for workers, and a hook that decides how their pods run.

Installed where Airflow runs, scheduler and workers. It imports nothing of the operator's other packages and depends on
Airflow only; docs/workers.md says how to install it.
"""

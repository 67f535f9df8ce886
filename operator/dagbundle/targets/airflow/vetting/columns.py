"""What the columns of Airflow's tables hold of a document: characters, and whole numbers of 32 bits.

SQLite lets a longer value pass, and PostgreSQL ends the whole publish; Airflow's scheduler would end in the same way
with what only it writes (rows of task instances). A test holds the table to the models of each minor.
"""

from __future__ import annotations

LIMITS = {
    "asset.group": 1500,
    "asset.name": 1500,
    "asset.uri": 1500,
    "asset_alias.group": 1500,
    "asset_alias.name": 1500,
    "asset_watcher.name": 1500,
    "dag.bundle_name": 250,
    "dag.bundle_version": 200,
    "dag.dag_display_name": 2000,
    "dag.dag_id": 250,
    "dag.fileloc": 2000,
    "dag.next_dagrun_partition_key": 255,
    "dag.owners": 2000,
    "dag.relative_fileloc": 2000,
    "dag.timetable_description": 1000,
    "dag.timetable_type": 255,
    "dag_bundle.name": 250,
    "dag_bundle.version": 200,
    "dag_code.fileloc": 2000,
    "dag_owner_attributes.link": 500,
    "dag_owner_attributes.owner": 500,
    "dag_tag.name": 100,
    "dag_version.bundle_version": 250,
    "deadline_alert.name": 250,
    "import_error.filename": 1024,
    "task_instance.custom_operator_name": 1000,
    "task_instance.executor": 1000,
    "task_instance.next_method": 1000,
    "task_instance.operator": 1000,
    "task_instance.pool": 256,
    "task_instance.queue": 256,
    "task_instance.task_display_name": 2000,
    "task_instance.task_id": 250,
    "trigger.classpath": 1000,
}
"""Characters by table and column, the same in 3.1 to 3.3."""

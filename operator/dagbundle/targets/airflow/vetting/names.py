"""The names that a serialized DAG may hold where a decoder of Airflow's imports by name: 3.0 to 3.3, exactly."""

from __future__ import annotations

TYPES = frozenset(
    {"operator", "datetime", "timedelta", "timezone", "relativedelta", "dict", "set", "tuple", "k8s.V1Pod", "taskgroup",
     "edgeinfo", "param", "xcomref", "asset", "asset_alias", "asset_any", "asset_all", "asset_ref", "arg_not_set",
     "deadline_alert", "mapped_argument", "START_TRIGGER_ARGS"}
)  # fmt: skip
"""Airflow's names of what a DAG is made of. Its others (exceptions, connections, requests) have no place in one."""
TIMETABLES = frozenset(
    f"airflow.timetables.{name}" for name in (
        "assets.AssetOrTimeSchedule", "datasets.DatasetOrTimeSchedule", "events.EventsTimetable",
        "interval.CronDataIntervalTimetable", "interval.DeltaDataIntervalTimetable",
        "simple.AssetTriggeredTimetable", "simple.ContinuousTimetable", "simple.NullTimetable", "simple.OnceTimetable",
        "simple.PartitionedAssetTimetable", "simple.PartitionedAtRuntime", "trigger.CronPartitionTimetable",
        "trigger.CronTriggerTimetable", "trigger.DeltaTriggerTimetable", "trigger.MultipleCronTriggerTimetable",
    )
)  # fmt: skip
"""Airflow's own timetables."""
MAPPERS = frozenset(
    f"airflow.partition_mappers.{name}" for name in (
        "allowed_key.AllowedKeyMapper", "base.RollupMapper", "chain.ChainMapper", "fixed_key.FixedKeyMapper",
        "identity.IdentityMapper", "product.ProductMapper", "temporal.FanOutMapper", "temporal.StartOfDayMapper",
        "temporal.StartOfHourMapper", "temporal.StartOfMonthMapper", "temporal.StartOfQuarterMapper",
        "temporal.StartOfWeekMapper", "temporal.StartOfYearMapper", "wait_policy.MinimumCount",
        "wait_policy.WaitForAll", "window.DayWindow", "window.HourWindow", "window.MonthWindow",
        "window.QuarterWindow", "window.SegmentWindow", "window.WeekWindow", "window.YearWindow",
    )
)  # fmt: skip
"""What partitioned timetables are made of."""
CLASSES = TIMETABLES | MAPPERS
"""Airflow's own classes that a document may name. A deployment's plugins bring others."""
PARAMS = frozenset({"airflow.sdk.definitions.param.Param", "airflow.models.param.Param",
                    "airflow.serialization.definitions.param.SerializedParam"})  # fmt: skip
ASYNC_CALLBACKS = frozenset(
    {"airflow.sdk.definitions.callback.AsyncCallback", "airflow.sdk.definitions.deadline.AsyncCallback"}
)
"""What the triggerer calls when a deadline is missed."""
SYNC_CALLBACKS = frozenset(
    {"airflow.sdk.definitions.callback.SyncCallback", "airflow.sdk.definitions.deadline.SyncCallback"}
)
"""What an executor calls then."""
VARIABLE_INTERVALS = frozenset(
    {"airflow.sdk.definitions.deadline.VariableInterval",
     "airflow.serialization.definitions.deadline.SerializedVariableInterval"}
)  # fmt: skip
"""Intervals of deadlines that the scheduler reads from any Variable of the deployment, past every grant."""
VALUES = frozenset(
    {"builtins.tuple", "builtins.set", "builtins.frozenset", "datetime.date", "datetime.datetime",
     "datetime.timedelta", "pendulum.datetime.DateTime"}
)  # fmt: skip
"""Plain values in Airflow's other way of serializing (`airflow.sdk.serde`), in which a deadline's parts are written."""
REFERENCES = frozenset(
    {"AverageRuntimeDeadline", "DagRunLogicalDateDeadline", "DagRunQueuedAtDeadline", "FixedDatetimeDeadline"}
)
"""Airflow's own moments from which deadlines count."""
DEPENDENCIES = frozenset(
    {"asset", "asset-alias", "asset-name-ref", "asset-uri-ref", "trigger", "sensor", "dataset", "dataset-alias"}
)
"""What `dag_dependencies` may be of; Airflow's graph of all DAGs reads them."""
RUN_TYPES = frozenset(
    {"backfill", "scheduled", "manual", "asset_triggered", "asset_materialization", "operator_triggered"}
)
TRIGGER_RULES = frozenset(
    {"all_success", "all_failed", "all_done", "all_done_min_one_success", "all_done_setup_success", "one_success",
     "one_failed", "one_done", "none_failed", "none_skipped", "none_failed_min_one_success", "all_skipped", "always"}
)  # fmt: skip
TRIGGERS = frozenset(
    {"airflow.providers.standard.triggers.temporal.DateTimeTrigger",
     "airflow.providers.standard.triggers.temporal.TimeDeltaTrigger"}
)  # fmt: skip
"""Triggers that tasks may start by default: they wait for a moment. No watcher may, whatever is set: the moment that
they tell is no JSON, and ends the triggerer where it becomes an asset's event. Others read or delete files of the
triggerer's (`FileTrigger`, `FileDeleteTrigger`), run the command of a kubeconfig, or call what an argument names."""
FORBIDDEN_ARGUMENTS = {
    "airflow.providers.smtp.notifications.smtp.SmtpNotifier": frozenset({"files", "template"}),
    "airflow.providers.smtp.notifications.smtp.send_smtp_notification": frozenset({"files", "template"}),
}
"""Arguments of notifiers that name files of the process that runs them, such as /proc/self/environ."""
DAG_FIELDS = frozenset(
    {"_concurrency", "_dag_display_property_value", "_processor_dags_folder", "access_control", "allowed_run_types",
     "catchup", "dag_dependencies", "dag_display_name", "dag_id", "dagrun_timeout", "deadline", "default_args",
     "description", "disable_bundle_versioning", "doc_md", "edge_info", "end_date", "fail_fast", "fileloc",
     "has_on_failure_callback", "has_on_success_callback", "is_paused_upon_creation", "max_active_runs",
     "max_active_tasks", "max_consecutive_failed_dag_runs", "owner_links", "params", "relative_fileloc",
     "render_template_as_native_obj", "rerun_with_latest_version", "start_date", "tags", "task_group", "tasks",
     "timetable", "timezone"}
)  # fmt: skip
"""Fields of a DAG in Airflow's own schema. Its decoder makes what it finds attributes of the DAG, even over methods."""

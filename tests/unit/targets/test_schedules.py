"""Timetables that would keep the scheduler busy, or for ever, and those that teams write."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dagbundle import errors
from dagbundle.targets.airflow.vetting import schedules

NONE: frozenset[str] = frozenset()


def timetable(name: str, **body: Any) -> dict[str, Any]:
    return {"__type": f"airflow.timetables.{name}", "__var": body}


def cron(expression: Any = "@daily", **more: Any) -> dict[str, Any]:
    return timetable("trigger.CronTriggerTimetable", expression=expression, timezone="UTC", interval=0.0, **more)


@pytest.mark.parametrize(
    "delta", [86_400.0, {"months": 1}, {"years": 1, "days": 3}, {"months": 1, "day": 1}, {"days": 7},
              {"months": 1, "weekday": [0, 1]}, {"months": 1, "weekday": [4]}, {"hours": 36}],
)  # fmt: skip
def test_a_delta_that_moves_forward_is_taken(delta: Any) -> None:
    schedules.check("t", timetable("interval.DeltaDataIntervalTimetable", delta=delta), NONE)
    schedules.check("t", timetable("trigger.DeltaTriggerTimetable", delta=delta, interval=0.0), NONE)


@pytest.mark.parametrize(
    "delta",
    [
        0, -1, 0.001, float("inf"), {}, {"days": 0}, {"months": 1, "days": -31}, {"months": 1, "days": -30},
        {"months": 1, "month": 1}, {"months": 1, "year": 2020}, {"hours": 1, "day": 1},
        {"months": 1, "weekday": [0, -5]}, {"microseconds": 1}, {"leapdays": 1}, {"months": 10**9},
        {"days": 1, "weekday": [0, 1]}, {"months": 0.5},
        {"other": 1}, "1 day", True,
    ],
)  # fmt: skip
def test_a_delta_that_may_stand_still_is_refused(delta: Any) -> None:
    with pytest.raises(errors.TargetError):
        schedules.check("t", timetable("interval.DeltaDataIntervalTimetable", delta=delta), NONE)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            timetable("trigger.CronPartitionTimetable", expression="* * * * *", timezone="UTC", run_offset=10**9),
            "1,000",
        ),
        (timetable("trigger.CronPartitionTimetable", expression="* * * * *", timezone="UTC", run_offset=1.5), "whole"),
        (timetable("trigger.MultipleCronTriggerTimetable", expressions=["0 0 29 2 0"] * 20_000), "at most 100"),
        (timetable("trigger.MultipleCronTriggerTimetable", expressions=["x" * 201]), "at most 200"),
        (timetable("events.EventsTimetable", event_dates=["2020-01-01"] * 20_000), "at most 10,000"),
        (cron("*," * 1_000), "at most 200"),
        (cron(timezone_="x" * 5_000), "at most 1,000"),
        (timetable("assets.AssetOrTimeSchedule", timetable={"__type": "tenant.Evil"}), "no such class"),
        (timetable("base.os"), "no such class"),
        ({"__type": "airflow.timetables.simple.OnceTimetable", "other": 1}, "no such field"),
    ],
)
def test_counts_and_offsets_are_bounded(found: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.TargetError, match=told):
        schedules.check("t", found, NONE)


def test_keys_are_fanned_out_once_since_each_time_multiplies_them() -> None:
    def fan(upstream: Any = None) -> dict[str, Any]:
        return {"__type": "airflow.partition_mappers.temporal.FanOutMapper", "__var": {"upstream_mapper": upstream}}

    def chain(*mappers: Any) -> dict[str, Any]:
        made = {"__type": "airflow.partition_mappers.chain.ChainMapper", "__var": {"mappers": list(mappers)}}
        return timetable("simple.PartitionedAssetTimetable", partition_mapper_config=[made])

    schedules.check("t", chain(fan()), NONE)
    with pytest.raises(errors.TargetError, match="a timetable may hold 1"):
        schedules.check("t", chain(fan(), fan(), fan()), NONE)


def test_timetables_within_timetables_end() -> None:
    found = cron()
    for _ in range(1_000):
        found = timetable("assets.AssetOrTimeSchedule", timetable=found)
    with pytest.raises(errors.TargetError, match=r"nested less deeply|at most 500 parts"):
        schedules.check("t", found, NONE)


def test_a_large_timetable_is_refused_without_looking_at_all_of_it() -> None:
    found = timetable("simple.PartitionedAssetTimetable", partition_mapper_config=[{"a": 1}] * 10_000)
    before = time.process_time()
    with pytest.raises(errors.TargetError, match="at most 500 parts"):
        schedules.check("t", found, NONE)
    assert time.process_time() - before < 1

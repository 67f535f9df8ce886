"""The status that a reconcile writes, and the Event that goes with it."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from dagbundle.controller import announce
from dagbundle.controller.status import Facts, Outcome, status_of
from dagbundle.resources import base
from dagbundle.resources import status as models
from dagbundle.rollout.model import BundleKey
from dagbundle.rollout.steps import Phase, RunSeen
from dagbundle.store.records import Head, Ingestion, RunState, RunStateRow

NOW = dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)
PUBLISHED = Outcome(ready=True, reason="Published", message="it is", final=True)
PARSING = Outcome(ready=None, reason="Parsing", message="wait", reconciling=True)
BLOCKED = Outcome(ready=False, reason="ImportErrors", message="no", stalled=True, final=True)
BODY = {
    "apiVersion": "dagbundle.dev/v1alpha1", "kind": "DagBundle",
    "metadata": {"name": "sales", "namespace": "team", "uid": "u", "resourceVersion": "1"},
}  # fmt: skip


def write(
    outcome: Outcome, old: dict[str, Any] | None = None, *, now: dt.datetime = NOW, facts: Facts | None = None
) -> dict[str, Any]:
    return status_of(old or {}, generation=3, requested_at="", outcome=outcome, facts=facts or Facts(), now=now)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {item["type"]: item["status"] for item in status["conditions"]}


def test_a_published_bundle_is_ready_and_nothing_else() -> None:
    status = write(PUBLISHED)
    assert conditions(status) == {"Ready": "True"}
    assert status["observedGeneration"] == 3


def test_work_in_progress_is_reconciling_and_not_yet_observed() -> None:
    status = write(PARSING)
    assert conditions(status) == {"Ready": "Unknown", "Reconciling": "True"}
    assert status["observedGeneration"] == -1


def test_a_new_generation_in_progress_keeps_the_old_observed_one() -> None:
    status = write(PARSING, {"observedGeneration": 2})
    assert status["observedGeneration"] == 2


def test_a_blocked_bundle_is_stalled() -> None:
    assert conditions(write(BLOCKED)) == {"Ready": "False", "Stalled": "True"}


def test_a_condition_that_stays_keeps_its_time_and_one_that_changes_gets_a_new_one() -> None:
    first = write(PUBLISHED)
    assert write(PUBLISHED, first, now=LATER) == first
    changed = write(BLOCKED, first, now=LATER)
    assert [item["lastTransitionTime"] for item in changed["conditions"]] == ["2026-01-01T13:00:00Z"] * 2


def test_what_could_not_be_found_out_stays_as_it_was() -> None:
    old = write(PUBLISHED, facts=Facts(live(2, added=2)))
    assert write(BLOCKED, old)["dags"]["total"] == 2


def test_dags_are_counted_with_those_that_were_kept() -> None:
    status = write(PUBLISHED, facts=Facts(live(3, kept=1, added=1, changed=1, moved=1, removed=4)))
    assert status["dags"] == {"total": 3, "added": 1, "changed": 2, "removed": 4, "kept": 1}


def test_a_status_is_what_the_crd_allows() -> None:
    status = write(PUBLISHED, facts=Facts(live(3)))
    base.validate(models.Status, status, what="status")


def ran(subdir: str, shard: int, ingestion: Ingestion | None) -> RunStateRow:
    return RunStateRow(subdir, shard, 2, "a", RunState.CLOSED, "", 1, 1, 0, "3.3.2", "3.11", NOW, NOW, ingestion)


def test_each_subdir_shows_which_parser_ran_with_how_many_processes_and_what_decided_that() -> None:
    states = [
        ran("a", 0, None),
        ran("a", 1, Ingestion("Mine", "7", 4, "manifest", "spec")),
        ran("b", 0, Ingestion("SinglePass", "0.1.0")),  # an older parser reports no more
        ran("c", 0, None),
    ]
    runs = [RunSeen(subdir, Phase.CLOSED) for subdir in "abc"]
    status = write(PUBLISHED, facts=Facts(live(3), runs, states))
    assert [subdir.get("parser") for subdir in status["subdirs"]] == [
        {"name": "Mine", "version": "7", "decidedBy": "Manifest", "processes": 4, "processesDecidedBy": "Spec"},
        {"name": "SinglePass", "version": "0.1.0"},
        None,
    ]
    base.validate(models.Status, status, what="status")


def test_what_a_parser_calls_itself_is_cut_to_what_the_crd_takes() -> None:
    states = [ran("a", 0, Ingestion("x" * 256, "y" * 256, 64, "spec", "default"))]
    status = write(PUBLISHED, facts=Facts(live(1), [RunSeen("a", Phase.CLOSED)], states))
    base.validate(models.Status, status, what="status")
    assert status["subdirs"][0]["parser"]["name"] == "x" * 128


def live(number: int, *, kept: int = 0, **counts: int) -> Head:
    return Head(BundleKey("team", "sales"), 1, "v", "t", number, kept, counts=counts or None)


def test_no_text_of_a_tenant_moves_a_terminal_by_a_status() -> None:
    outcome = Outcome(ready=False, reason="RunFailed", message="\x1b[2Jfirst\nsecond")
    states = [ran("a", 0, Ingestion("\x1b[31m", "\x07"))]
    facts = Facts(live(1), [RunSeen("a", Phase.FAILED, "\x1b]0;title\x07")], states)
    text = json.dumps(write(outcome, facts=facts))
    assert "\\u001b" not in text
    assert "\\u0007" not in text
    assert "first\\nsecond" in text


def test_a_transition_posts_one_event() -> None:
    event = announce.event(BODY, write(PARSING), write(BLOCKED), now=NOW, reporter="me")
    assert event is not None
    assert (event["type"], event["reason"], event["involvedObject"]["uid"]) == ("Warning", "ImportErrors", "u")


def test_another_message_of_the_same_reason_posts_none() -> None:
    other = Outcome(ready=None, reason="Parsing", message="still", reconciling=True)
    assert announce.event(BODY, write(PARSING), write(other), now=NOW, reporter="me") is None

"""Who may speak for a run: each refusal, with its reason, and what a stranger learns from it."""

from __future__ import annotations

from typing import Any

import pytest

from dagbundle.rollout.model import BundleKey
from integration.server.conftest import Caller, Serve, World
from support import reports
from support.store_process import Process

pytestmark = pytest.mark.postgres


def test_a_pod_gets_its_run_and_its_report_closes_it(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    answer = pod.ask(server)
    assert answer.status == 200
    request = answer.document
    assert (request["run"], request["attempt"], request["shard"], request["shards"]) == (job.run_id, pod.uid, 0, 1)
    assert (request["root"], request["subdir"], request["known"]) == (str(world.root), ".", {})
    assert request["limits"]["reportBytes"] == 32 << 20
    answer = pod.report(server, reports.parsed("a.py", "a"), reports.broken("b.py"))
    assert (answer.status, answer.document) == (200, {"state": "Closed"})
    (outcome,) = world.store.outcomes(job.rollout_id)
    assert (outcome.closed, [file.path for file in outcome.files]) == (True, ["a.py", "b.py"])
    (state,) = world.store.run_states(job.rollout_id)
    assert (state.attempt, state.dags, state.import_errors) == (pod.uid, 1, 1)


def refused(caller: Caller, server: Process, *, run: str = "") -> str:
    """Ask and report; both must be refused alike."""
    asked = caller.ask(server, run=run)
    told = caller.send(server, b"{}", run=run)
    assert (asked.status, asked.reason) == (told.status, told.reason)
    return asked.reason


def test_tokens_that_kubernetes_does_not_vouch_for_are_refused(world: World, server: Process) -> None:
    pod = world.pod(world.job())
    world.kubernetes.forget(token=pod.token)
    assert refused(pod, server) == "TokenRefused"
    for header in ("", "Bearer", "Bearer ", "Basic abc", "Bearer " + "x" * 20_000, "Bearer a\tb"):
        answer = pod.ask(server, Authorization=header)
        assert (answer.status, answer.reason) in {(401, "TokenMissing"), (401, "TokenRefused"), (400, "")}, header
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_unknown_run_and_another_tenants_run_cannot_be_told_apart(world: World, server: Process) -> None:
    mine = world.pod(world.job())
    theirs = world.job(world.rollout(BundleKey("team-ops", "ops")))
    unknown, foreign = mine.ask(server, run="0" * 40), mine.ask(server, run=theirs.run_id)
    assert (foreign.status, foreign.body) == (404, unknown.body)
    assert foreign.reason == "UnknownRun"
    assert refused(mine, server, run=theirs.run_id) == "UnknownRun"
    assert mine.ask(server, run="%2e%2e").reason == "UnknownRun"
    assert [line["reason"] for line in server.requests(theirs.run_id)] == ["OtherNamespace"] * 3
    assert world.store.run_states(theirs.rollout_id) == ()


def test_a_run_of_another_cluster_is_unknown_though_namespace_account_and_pod_fit(
    world: World, server: Process
) -> None:
    there = world.job(world.rollout(BundleKey("team-sales", "sales", "west")))
    pod = world.pod(there)
    assert (pod.ask(server).status, pod.ask(server).reason) == (404, "UnknownRun")
    assert {line["reason"] for line in server.requests(there.run_id)} == {"OtherCluster"}


def test_another_account_of_the_same_namespace_is_refused(world: World, server: Process) -> None:
    rollout = world.rollout(subdirs=("a", "b"))
    first, second = world.job(rollout, "a", account="a-parser"), world.job(rollout, "b", account="b-parser")
    assert refused(world.pod(first), server, run=second.run_id) == "WrongAccount"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uid": "another"}, "NoPod"),
        ({"terminating": True}, "NoPod"),
        ({"phase": "Succeeded"}, "NoPod"),
        ({"phase": "Failed"}, "NoPod"),
        ({"owners": []}, "WrongPod"),
        ({"owners": ["uid-of-another-job"]}, "WrongPod"),
    ],
)
def test_a_pod_that_is_gone_or_anothers_is_refused(
    world: World, server: Process, changes: dict[str, Any], reason: str
) -> None:
    pod = world.pod(world.job())
    world.kubernetes.change(pod.name, **changes)
    assert refused(pod, server) == reason


def test_a_token_outlives_its_pod_but_is_refused(world: World, serve: Serve) -> None:
    server = serve(token_seconds=60)
    pod = world.pod(world.job())
    assert pod.ask(server).status == 200
    world.kubernetes.forget(token=pod.token, pod=pod.name)
    assert refused(pod, server) == "NoPod"


def test_a_job_whose_uid_is_not_known_yet_is_asked_for_again(world: World, server: Process) -> None:
    job = world.job(created=False)
    pod = world.pod(job)
    answer = pod.ask(server)
    assert (answer.status, answer.reason, answer.headers["Retry-After"]) == (503, "JobUnknown", "1")
    world.store.job_created(job.run_id, "made")
    world.kubernetes.change(pod.name, owners=["made"])
    assert pod.ask(server).status == 200


def test_a_job_that_was_made_again_takes_the_place_of_the_old_one(world: World, server: Process) -> None:
    job = world.job()
    old = world.pod(job)
    assert old.report(server, reports.parsed("a.py", "a")).status == 200
    world.store.job_created(job.run_id, "again")
    assert refused(old, server) == "WrongPod"
    assert not world.store.outcomes(job.rollout_id)[0].closed
    new = world.pod(world.store.job(job.run_id))
    assert new.report(server, reports.parsed("a.py", "a")).status == 200


def test_who_asks_after_the_rollout_is_over_is_told_so(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    world.rollout()
    answer = pod.ask(server)
    assert (answer.status, answer.reason) == (409, "RunOver")
    assert pod.report(server, reports.parsed("a.py", "a")).reason == "RunOver"
    assert world.store.run_states(job.rollout_id) == ()


def test_who_asks_after_the_run_closed_is_told_so_whichever_attempt(world: World, server: Process) -> None:
    job = world.job()
    pod, other = world.pod(job), world.pod(job)
    assert pod.report(server, reports.parsed("a.py", "a")).status == 200
    for caller in (pod, other):
        answer = caller.ask(server)
        assert (answer.status, answer.reason) == (409, "RunClosed")
    assert other.report(server, reports.parsed("b.py", "b")).reason == "RunClosed"
    assert [file.path for file in world.store.outcomes(job.rollout_id)[0].files] == ["a.py"]


def test_every_shard_is_who_its_pod_is(world: World, server: Process) -> None:
    job = world.job(shards=2)
    pods = [world.pod(job, index=index) for index in (0, 1)]
    for index, pod in enumerate(pods):
        assert (pod.ask(server).document["shard"], pod.ask(server).document["shards"]) == (index, 2)
        assert pod.report(server, reports.parsed(f"{index}.py", f"d{index}")).status == 200
    assert world.store.outcomes(job.rollout_id)[0].closed
    for index in (None, 2):
        assert refused(world.pod(job, index=index), server) == "WrongPod"


def test_an_api_server_that_is_away_is_no_refusal(world: World, server: Process) -> None:
    pod = world.pod(world.job())
    world.kubernetes.world["away"] = True
    world.kubernetes.write()
    answer = pod.ask(server)
    assert (answer.status, answer.reason, "Retry-After" in answer.headers) == (503, "ClusterUnavailable", True)
    world.kubernetes.world["away"] = False
    world.kubernetes.write()
    assert pod.ask(server).status == 200


def test_a_line_of_the_log_says_who_asked_for_what_and_never_the_token(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    pod.ask(server)
    pod.report(server, reports.parsed("a.py", "a"))
    world.pod(job, account="another").ask(server)
    server.wait_for(lambda line: line.get("reason") == "WrongAccount")
    asked, told, refusal = server.requests(job.run_id)
    assert (asked["method"], asked["route"], asked["status"], asked["namespace"], asked["account"], asked["pod"]) == (
        "GET", "/v1/runs/{run}", 200, "team-sales", "parser", pod.name,
    )  # fmt: skip
    assert (told["method"], told["result"], told["bytes"] > 100, told["seconds"] >= 0) == ("POST", "Closed", True, True)
    assert (refusal["status"], refusal["account"]) == (403, "another")
    assert pod.token not in str(server.lines)


def test_a_pod_is_held_to_the_key_that_came_first(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    first, second = "1" * 64, "2" * 64
    assert pod.ask(server, Dagbundle_Key=first).status == 200
    assert pod.ask(server, Dagbundle_Key=first).status == 200, "its answer may have been lost"
    for headers in ({}, {"Dagbundle_Key": second}, {"Dagbundle_Key": ""}):
        assert pod.ask(server, **headers).reason == "KeyRefused"
        assert pod.report(server, reports.parsed("a.py", "a"), **headers).reason == "KeyRefused"
        assert pod.ask(server, "/variables/x", **headers).reason == "KeyRefused"
    assert pod.report(server, reports.parsed("a.py", "a"), Dagbundle_Key=first).status == 200


def test_each_pod_of_a_run_has_a_key_of_its_own(world: World, server: Process) -> None:
    job = world.job()
    for number in (1, 2):
        assert world.pod(job).ask(server, Dagbundle_Key=str(number) * 64).status == 200


def test_what_is_no_key_holds_nobody(world: World, server: Process) -> None:
    pod = world.pod(world.job())
    for text in ("short", "A" * 64, "0" * 65, "0" * 5000):
        assert pod.ask(server, Dagbundle_Key=text).reason == "KeyRefused"
    assert pod.ask(server).status == 200


def test_a_parser_of_an_earlier_release_sends_no_key_and_is_let_in(world: World, server: Process) -> None:
    pod = world.pod(world.job())
    assert pod.ask(server).status == 200
    assert pod.report(server, reports.parsed("a.py", "a")).status == 200

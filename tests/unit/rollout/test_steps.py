"""The next step of a rollout on a cluster: a table of what was seen and what follows."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagbundle.rollout import steps
from dagbundle.rollout.steps import Phase

NOW = dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC)
WANTED = steps.Wanted("template")
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
JOB = steps.JobSeen("job", "uid")


def run(
    phase: Phase = Phase.PENDING, *, subdir: str = "a", job: steps.JobSeen | None = JOB, uid: str = "uid"
) -> steps.RunSeen:
    return steps.RunSeen(subdir, phase, run_id="run", job_uid=uid, job=job)


def rollout(*runs: steps.RunSeen, **changes: object) -> steps.RolloutSeen:
    seen = steps.RolloutSeen(
        "id", "template", open=True, published=False, reason="", message="", finished_at=None, runs=runs
    )
    return dataclasses.replace(seen, **changes)  # type: ignore[arg-type]


def step(seen: steps.RolloutSeen | None, wanted: steps.Wanted = WANTED, now: dt.datetime = NOW) -> steps.Step:
    return steps.next_step(wanted, seen, now=now, retry_seconds=60)


def test_what_was_never_rolled_out_is_started() -> None:
    assert step(None) == steps.Start()


def test_another_template_supersedes_what_is_going_on() -> None:
    assert step(rollout(run(), template_hash="older")) == steps.Start()


def test_a_request_starts_what_was_published_again() -> None:
    done = rollout(open=False, published=True, reason="Published")
    assert step(done, dataclasses.replace(WANTED, again=True)) == steps.Start()


@pytest.mark.parametrize("reason", ["Suspended", "Held"])
def test_a_bundle_that_must_rest_rests_whatever_is_going_on(reason: str) -> None:
    assert step(rollout(run()), steps.Wanted("template", idle=reason)) == steps.Idle(reason, "")


def test_runs_without_a_job_get_one() -> None:
    seen = rollout(run(uid="", job=None), run(Phase.CLOSED, subdir="b"), run(subdir="c"))
    assert step(seen) == steps.CreateJobs(("a",))


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING])
def test_a_job_that_was_deleted_by_hand_is_made_again(phase: Phase) -> None:
    assert step(rollout(run(phase, job=None))) == steps.CreateJobs(("a",))


def test_a_run_that_closed_needs_no_job_any_more() -> None:
    assert step(rollout(run(Phase.CLOSED, job=None))) == steps.Publish()


def test_a_job_that_failed_ends_its_run_with_the_reason() -> None:
    failed = dataclasses.replace(JOB, ended=True, failure="OOMKilled: too much")
    assert step(rollout(run(job=failed))) == steps.FailRuns((("a", "OOMKilled: too much"),))


def test_a_job_that_ended_without_a_report_ends_its_run() -> None:
    ended = step(rollout(run(Phase.RUNNING, job=dataclasses.replace(JOB, ended=True))))
    assert isinstance(ended, steps.FailRuns)
    assert "without a complete report" in ended.failures[0][1]


def test_a_failed_run_is_judged_with_the_others() -> None:
    assert step(rollout(run(Phase.FAILED), run(Phase.CLOSED, subdir="b"))) == steps.Publish()


def test_what_is_in_the_way_is_said() -> None:
    troubled = dataclasses.replace(JOB, trouble="ImagePullBackOff: no such image")
    assert step(rollout(run(), run(subdir="b", job=troubled))) == steps.Wait(
        "ImagePullBackOff", "subdir b: ImagePullBackOff: no such image"
    )


def test_running_parsers_are_waited_for() -> None:
    waiting = step(rollout(run(Phase.RUNNING), run(Phase.CLOSED, subdir="b")))
    assert isinstance(waiting, steps.Wait)
    assert (waiting.reason, waiting.message) == ("Parsing", "waiting for 1 of the rollout's runs: a")


def closed(subdir: str, *digests: str) -> steps.RunSeen:
    return run(Phase.CLOSED, subdir=subdir, job=dataclasses.replace(JOB, digests=frozenset(digests)))


def test_the_digest_that_all_runs_saw_is_published() -> None:
    assert step(rollout(closed("a", DIGEST), closed("b", DIGEST), closed("c"))) == steps.Publish(DIGEST)


def test_runs_that_saw_different_images_are_run_again_pinned_to_one() -> None:
    assert step(rollout(closed("a", OTHER), closed("b", DIGEST))) == steps.Start(pinned=DIGEST)


def test_what_is_parsed_waits_for_its_workload() -> None:
    gated = dataclasses.replace(WANTED, gate="WaitingForWorkload", gate_message="1 of 3")
    assert step(rollout(closed("a", DIGEST)), gated) == steps.Wait("WaitingForWorkload", "1 of 3")


@pytest.mark.parametrize("reason", ["Published", "KeptLastGood", "TooManyRemovedDags", "ImportErrors"])
def test_what_would_come_out_the_same_is_not_tried_again(reason: str) -> None:
    assert step(rollout(open=False, reason=reason, finished_at=NOW)) == steps.Done()


@pytest.mark.parametrize("published", [False, True])
def test_a_failed_run_is_tried_again_after_the_interval(published: bool) -> None:
    failed = rollout(open=False, published=published, reason="RunFailed", finished_at=NOW)
    assert step(failed, now=NOW + dt.timedelta(seconds=20)) == steps.Done(40, NOW + dt.timedelta(seconds=60))
    assert step(failed, now=NOW + dt.timedelta(seconds=60)) == steps.Start()


JOBS = st.none() | st.builds(
    steps.JobSeen,
    st.just("job"),
    st.just("uid"),
    st.booleans(),
    st.sampled_from(["", "x"]),
    st.sampled_from(["", "y"]),
    st.frozensets(st.sampled_from([DIGEST, OTHER]), max_size=1),
)
RUNS = st.lists(
    st.builds(
        steps.RunSeen,
        st.just("a"),
        st.sampled_from(Phase),
        st.just(""),
        st.just("run"),
        st.sampled_from(["", "uid"]),
        JOBS,
    ),
    max_size=4,
)


@settings(deadline=None)
@given(RUNS)
def test_nothing_is_published_while_a_run_may_still_close(runs: list[steps.RunSeen]) -> None:
    found = step(rollout(*runs))
    if isinstance(found, steps.Publish):
        assert all(item.phase in {Phase.CLOSED, Phase.FAILED} for item in runs)

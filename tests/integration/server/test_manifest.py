"""The manifest on a cluster: the pod's parser reads it, and the store keeps what it reports of that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dagbundle.store.records import Ingestion, RunState
from dagbundle_parser import __version__
from integration.server.conftest import Parser, World
from support import reports
from support.store_process import Process

pytestmark = pytest.mark.postgres


def test_the_pods_manifest_decides_what_the_spec_leaves_open_and_the_store_keeps_what_was_used(
    world: World, server: Process, parse: Callable[..., Parser]
) -> None:
    text = "version: v1beta\nbundle_parser: StandardBundleParser\nbundle_config: {processes: 3}\n"
    (world.root / "dagbundle.yaml").write_text(text)
    job = world.job()
    code, said = parse(world.pod(job), server).wait()
    assert code == 0, said
    (state,) = world.store.run_states(job.rollout_id)
    assert state.state is RunState.CLOSED
    assert state.ingestion == Ingestion("SinglePass", __version__, 3, "manifest", "manifest")


def test_a_wrong_manifest_fails_the_run_with_its_line(
    world: World, server: Process, parse: Callable[..., Parser]
) -> None:
    (world.root / "dagbundle.yaml").write_text("version: v1beta\nbundle_config:\n  processes: four\n")
    job = world.job()
    code, said = parse(world.pod(job), server).wait()
    assert code == 0, said
    (state,) = world.store.run_states(job.rollout_id)
    assert state.state is RunState.FAILED
    assert state.failure == (
        "ManifestInvalid: the manifest dagbundle.yaml cannot be used: line 3, column 3: "
        "bundle_config.processes must be a whole number from 1 to 64, and is 'four'"
    )
    assert state.ingestion is None


def test_a_parser_of_before_that_reports_nothing_of_it_is_taken(world: World, server: Process) -> None:
    job = world.job()
    pod = world.pod(job)
    assert pod.report(server).status == 200
    (state,) = world.store.run_states(job.rollout_id)
    assert state.ingestion is not None
    assert state.ingestion.processes is None
    assert state.ingestion.parser_origin == ""


def test_a_report_that_claims_another_number_of_processes_than_there_can_be_is_refused(
    world: World, server: Process
) -> None:
    job = world.job()
    pod = world.pod(job)
    first, *rest = reports.lines(pod.request, [])
    lie = first.replace(b'"type"', b'"processes":65000,"type"', 1)
    assert lie != first
    answer = pod.send(server, b"".join([lie, *rest]))
    assert (answer.status, answer.reason) == (400, "BadReport")
    (state,) = world.store.run_states(job.rollout_id)
    assert state.state is RunState.FAILED

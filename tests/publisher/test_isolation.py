"""What one bundle's content makes of a publish or of the upkeep stays with that bundle."""

from __future__ import annotations

import logging
from collections.abc import Collection

import pytest
from sqlalchemy.engine import Connection

from dagbundle import errors
from dagbundle.controller import metrics
from dagbundle.controller.activity import Activity
from dagbundle.controller.seen import Seen
from dagbundle.controller.upkeep import Upkeep
from dagbundle.controller.watchdog import Watchdog
from dagbundle.engine import engine
from dagbundle.engine.applied import Applied
from dagbundle.rollout.document import RolloutDocument
from dagbundle.rollout.model import BundleKey, Verdict
from dagbundle.targets.airflow.target import AirflowTarget
from publisher.conftest import OPS, SALES, Deployment, dag, installed, staged
from publisher.test_controller import SETTINGS
from support.api_server import ApiServer

LONG = "registry.example/" + "a" * 300
"""A version that no column of Airflow's holds: an image that no pod has given a digest to."""


def publish(deployment: Deployment, bundle: BundleKey, version: str, *dag_ids: str) -> Applied:
    """Roll a version out as the controller does."""
    store = deployment.store
    store.register_bundle(bundle, str(bundle))
    started = store.start_rollout(
        bundle, version=version, template_hash=version, subdirs=["."], document=RolloutDocument()
    )
    run = store.open_run(started.id, ".", attempt="a", airflow=installed().version, python="3.11")
    store.stage(run, "a", [staged(f"{name}.py", [dag(name)]) for name in dag_ids])
    store.close_run(run, "a", [f"{name}.py" for name in dag_ids])
    return engine.Engine(store).finish(started.id)


def upkeep(deployment: Deployment) -> Upkeep:
    seen = Seen()
    return Upkeep(deployment.store, ApiServer(seen), seen, Watchdog(), Activity(), SETTINGS)  # type: ignore[arg-type] # it has the methods


def failures(step: str) -> float:
    return metrics.REGISTRY.get_sample_value("dagbundle_upkeep_failures_total", {"step": step}) or 0.0


def test_a_value_that_airflows_column_refuses_blocks_the_bundle_with_its_reason(on_postgresql: Deployment) -> None:
    applied = publish(on_postgresql, SALES, LONG, "a")
    assert (applied.judgement.verdict, applied.judgement.reason) == (Verdict.BLOCK, "ContentRefused")
    assert "team-sales.sales" in applied.judgement.message
    assert "character varying(200)" in applied.judgement.message
    rollout = on_postgresql.store.head(SALES).rollout
    assert rollout is not None
    assert (rollout.state, rollout.reason) == ("Blocked", "ContentRefused")
    assert on_postgresql.live() == {}


def test_who_lets_go_of_a_dag_id_is_published_where_the_waiting_bundle_cannot_be(on_postgresql: Deployment) -> None:
    publish(on_postgresql, SALES, "v1", "shared", "mine")
    publish(on_postgresql, OPS, LONG, "shared")
    applied = publish(on_postgresql, SALES, "v2", "mine")
    assert (applied.judgement.reason, applied.rejudged) == ("Published", ())
    waiting = on_postgresql.store.head(OPS).rollout
    assert waiting is not None
    assert (waiting.state, waiting.reason) == ("Blocked", "ContentRefused")
    assert on_postgresql.store.claimed() == frozenset()


class Poisoned(AirflowTarget):
    """A target that stumbles over what one bundle has."""

    poison: BaseException = errors.TargetError("its timetable has no next moment")

    def refresh(self, connection: Connection, names: Collection[str], /) -> None:
        """Fail where the bundle is among them."""
        if str(SALES) in names:
            raise self.poison
        super().refresh(connection, names)


@pytest.mark.parametrize("poison", [errors.TargetError("no next moment"), ValueError("likewise"), SystemExit(3)])
def test_a_bundle_that_cannot_be_refreshed_keeps_no_other_and_no_step_from_its_upkeep(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, poison: BaseException
) -> None:
    others = [BundleKey("team-ops", f"ops-{number}") for number in range(5)]
    for bundle in (SALES, *others):
        deployment.submit({f"{bundle.name}.py": [dag(bundle.name)]}, bundle=bundle)
    target = Poisoned(installed())
    target.poison = poison
    deployment.store.target = target
    deployment.execute("DELETE FROM dag_code")
    deployment.execute("DELETE FROM serialized_dag")
    deployment.execute("DELETE FROM dag_version")
    deployment.execute("DELETE FROM dag WHERE dag_id IN ('ops-0', 'ops-4')")
    before = {step: failures(step) for step in ("watch", "claims", "refresh", "follow", "values", "garbage")}
    with caplog.at_level(logging.WARNING, "dagbundle"):
        upkeep(deployment).look_after()
    assert {"ops-0", "ops-4"} <= deployment.live().keys()  # they were mended
    assert {step: failures(step) - count for step, count in before.items() if failures(step) != count} == {"refresh": 1}
    (record,) = [item for item in caplog.records if item.message == "upkeep failed"]
    assert (record.__dict__["step"], record.__dict__["bundle"]) == ("refresh", str(SALES))


def test_where_every_bundle_fails_the_target_has_and_the_other_steps_are_taken(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        deployment.store.register_bundle(BundleKey("team", f"b-{number}"), f"team.b-{number}")
    deployment.execute(
        "UPDATE dagbundle_bundle SET revision = 1"
        if "sqlite" in deployment.url
        else "UPDATE dagbundle.bundle SET revision = 1"
    )

    def broken(*_: object) -> int:
        raise errors.TargetError("Airflow's tables are gone")

    monkeypatch.setattr(deployment.store.target, "refresh", broken)
    with pytest.raises(errors.TargetError, match="gone"):
        deployment.store.refresh()
    before = failures("garbage"), failures("values")
    upkeep(deployment).look_after()
    assert (failures("garbage"), failures("values")) == before

"""docs/status.md and docs/metrics.md are held to the code."""

from __future__ import annotations

import pathlib
import re

from dagbundle.controller import failures, metrics, reconciler
from dagbundle.controller.activity import Activity
from dagbundle.controller.queue import Queue
from dagbundle.controller.seen import Seen
from dagbundle.runtime.kubernetes import observe

ROOT = pathlib.Path(__file__).parents[3]
CODE = ROOT / "operator/dagbundle"
JUDGED = {"EmptyListing", "ImportErrors", "TooManyImportErrors", "TooManyRemovedDags", "Published", "KeptLastGood"}


def test_every_reason_of_a_condition_is_documented_and_no_other() -> None:
    text = (ROOT / "docs/status.md").read_text().partition("## Reasons")[2]
    documented = {
        word for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)
    }
    found = {reconciler.QUEUED} | set(JUDGED) | set(failures.REASONS.values()) | observe._WAITING_IS_TROUBLE
    for name in (
        "errors.py",
        "controller/failures.py",
        "controller/reconciler.py",
        "controller/workloads.py",
        "runtime/kubernetes/observe.py",
        "rollout/steps.py",
        "rollout/plan.py",
        "rollout/policy.py",
        "rollout/judge.py",
        "targets/airflow/documents.py",
        "targets/airflow/target.py",
        "targets/airflow/vetting/walk.py",
    ):
        code = (CODE / name).read_text()
        found |= set(
            re.findall(
                r"(?:_stalled\(|Outcome\(\w+, |Wait\(|Source\(reason=|reason=|reason: str = |_hinted\(|return |else )"
                r"\"([A-Z][a-zA-Z]+)\"",
                code,
            )
        )
    found |= {"Held", "RunFailed", "OOMKilled", "WaitingForWorkload"}
    assert documented == found - {"Evicted", "Error", "DeadlineExceeded", "True", "False", "Failed"}


def test_every_metric_of_the_controller_is_documented_with_its_help() -> None:
    rows = dict(
        re.findall(
            r"^\| `(\w+)(?:\{[\w,]+\})?` \| \w+ \| (.*?)\s*\|$", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
        )
    )
    families = [*metrics.REGISTRY.collect(), *metrics._Live(Seen(), Queue(), Activity()).collect()]
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert rows.get(name, "").startswith(family.documentation.rstrip(".").rstrip()), name

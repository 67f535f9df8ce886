"""What the watches have shown: who follows which workload."""

from __future__ import annotations

from typing import Any

from dagbundle.controller.seen import Key, Seen

SALES: Key = ("team-sales", "sales")
OTHER: Key = ("team-sales", "other")


def bundle(key: Key, workload: str = "") -> dict[str, Any]:
    source: dict[str, Any] = {"workloadRef": {"name": workload, "kind": "Deployment"}} if workload else {"image": "a:1"}
    return {"metadata": {"namespace": key[0], "name": key[1]}, "spec": {"source": source}}


def test_a_bundle_follows_the_workload_that_it_named_last() -> None:
    seen = Seen()
    seen.take_bundle(bundle(SALES, "web"), deleted=False)
    seen.take_bundle(bundle(OTHER, "web"), deleted=False)
    seen.take_bundle(bundle(SALES, "worker"), deleted=False)
    assert seen.followers("Deployment", "team-sales", "web") == {OTHER}
    assert seen.followers("Deployment", "team-sales", "worker") == {SALES}


def test_a_bundle_that_is_gone_follows_nothing() -> None:
    seen = Seen()
    seen.take_bundle(bundle(SALES, "web"), deleted=False)
    seen.take_bundle(bundle(SALES, "web"), deleted=True)
    assert seen.followers("Deployment", "team-sales", "web") == frozenset()

"""What the watches have shown: who follows which workload, and how much memory it takes."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

from dagbundle.controller import kept
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


STRANGER: Key = ("nobodys", "big")
FEW_BYTES = 8 * 1024
"""What one bundle may take in memory that no tenant owns: some names, and its status."""


def large(key: Key, number: int) -> str:
    """As much as the API server takes of one object: 1.7 MB of small values, everywhere."""
    many = {f"k{index}": "v" for index in range(30_000)}
    body = bundle(key)
    body["metadata"] |= {"name": f"{key[1]}-{number}", "uid": "u", "resourceVersion": "1", "labels": many}
    body["metadata"]["annotations"] = many
    body["spec"] |= {"pod": {"env": [{"name": "A", "more": many}]}, "parser": {"config": many}}
    return json.dumps(body)


def grown_by(seen: Seen, key: Key, number: int) -> float:
    """Return the bytes that each of so many large bundles takes once it was seen."""
    texts = [large(key, index) for index in range(number)]
    tracemalloc.start()
    try:
        for text in texts:
            seen.take_bundle(json.loads(text), deleted=False)
        return tracemalloc.get_traced_memory()[0] / number
    finally:
        tracemalloc.stop()


def test_a_large_bundle_that_no_tenant_owns_takes_little_memory() -> None:
    assert len(large(STRANGER, 0)) > 1_700_000
    assert grown_by(Seen(enabled=["team-sales"]), STRANGER, 8) < FEW_BYTES


def test_labels_and_annotations_of_a_tenants_bundle_take_no_memory() -> None:
    body = json.loads(large(SALES, 0))
    assert set(body.pop("spec")) > {"pod"}
    seen = Seen(enabled=["team-sales"])
    tracemalloc.start()
    try:
        key = seen.take_bundle(body | {"spec": {"source": {"image": "a:1"}}}, deleted=False)
        assert tracemalloc.get_traced_memory()[0] < FEW_BYTES
    finally:
        tracemalloc.stop()
    assert (seen.bundle(key) or {})["spec"] == {"source": {"image": "a:1"}}


def test_what_is_kept_of_a_bundle_that_no_tenant_owns_is_enough_to_say_so_once_and_to_let_it_go() -> None:
    seen = Seen(enabled=["team-sales"])
    body = bundle(STRANGER, "web")
    status = {"conditions": [{"type": "Ready", "status": "False", "reason": "NamespaceNotEnabled"}]}
    needed = {
        "uid": "u", "resourceVersion": "7", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["dagbundle.dev/deactivate", "other.example/f"],
        "annotations": {"reconcile.dagbundle.dev/requestedAt": "now"},
    }  # fmt: skip
    body["metadata"] |= needed
    body["spec"]["deletionPolicy"] = "Orphan"
    key = seen.take_bundle({**body, "status": status}, deleted=False)
    found = seen.bundle(key) or {}
    assert found["metadata"] == body["metadata"]
    assert found["spec"] == {"deletionPolicy": "Orphan"}
    assert found["status"] == status
    assert seen.followers("Deployment", STRANGER[0], "web") == frozenset()
    assert "status" not in kept.kept({**body, "status": {"x": "y" * kept.MAX_STATUS_BYTES}}, enabled=False)

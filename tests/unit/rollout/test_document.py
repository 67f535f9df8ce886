from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagbundle import errors
from dagbundle.resources import base, bundle
from dagbundle.rollout.document import FORMAT, RolloutDocument
from dagbundle.rollout.policy import Policy

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "rollout.v1.json"
NAMES = st.lists(st.text(max_size=8), max_size=3).map(tuple)


def resource(**spec: Any) -> bundle.DagBundle:
    document = {
        "apiVersion": "dagbundle.dev/v1alpha1",
        "kind": "DagBundle",
        "metadata": {"name": "sales", "namespace": "team-sales"},
        "spec": {"source": {"image": {"reference": "registry.example/sales:1.4", "path": "/opt/dags"}}, **spec},
    }
    return base.validate(bundle.DagBundle, document, what="test")


def golden() -> RolloutDocument:
    """Return the document that the golden file holds."""
    return RolloutDocument(
        spec=RolloutDocument.of(
            resource(
                subdirs=[{"path": "ingest", "serviceAccountName": "ingest", "runAsUser": 50010}],
                parser={"connections": ["sales_*"]},
            ),
            Policy(),
        ).spec,
        policy=Policy(
            max_removed_dags="10%",
            prefixes={"ingest": "sales."},
            granted_prefixes=("sales.",),
            connections=("sales_*",),
            variables=("*",),
        ),
        image="registry.example/sales:1.4",
        pinned="sha256:" + "0" * 64,
        requested_at="2026-11-28T10:00:00Z",
    )


def test_the_store_keeps_the_golden_document() -> None:
    assert golden().to_json() == json.loads(GOLDEN.read_text())


def test_the_golden_document_is_read() -> None:
    assert RolloutDocument.from_json(json.loads(GOLDEN.read_text())) == golden()


@given(
    policy=st.builds(
        Policy,
        scope=st.sampled_from(["Bundle", "Subdir"]),
        max_import_errors=st.none() | st.integers(0, 9) | st.just("5%"),
        prefixes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        granted_prefixes=NAMES,
        connections=NAMES,
        variables=NAMES,
    ),
    image=st.none() | st.text(max_size=5),
    pinned=st.text(max_size=5),
    requested_at=st.none() | st.text(max_size=5),
)
def test_what_is_kept_is_what_is_read(policy: Policy, image: str | None, pinned: str, requested_at: str | None) -> None:
    document = RolloutDocument(resource().spec.model_dump(mode="json"), policy, image, pinned, requested_at)

    assert RolloutDocument.from_json(json.loads(json.dumps(document.to_json()))) == document


def test_a_document_from_before_there_was_a_format_is_read() -> None:
    kept = {
        "spec": {"source": {"workloadRef": {"name": "sales", "path": "/dags"}}, "parser": {"connections": ["sales_*"]}},
        "policy": {"scope": "Subdir", "granted_prefixes": ["sales."]},
        "values": {"connections": ["sales_*"], "variables": []},
        "requestedAt": "",
    }

    found = RolloutDocument.from_json(kept)

    assert (found.path, found.wanted("connection"), found.wanted("variable")) == ("/dags", ["sales_*"], None)
    assert found.policy == Policy(scope="Subdir", granted_prefixes=("sales.",), connections=("sales_*",))
    assert (found.image, found.requested_at) == (None, "")


def test_dags_that_were_submitted_without_a_dagbundle_have_a_document_without_a_spec() -> None:
    assert "spec" not in RolloutDocument().to_json()
    assert RolloutDocument.from_json({"submitted": True}) == RolloutDocument()


@pytest.mark.parametrize("newer", [{"format": FORMAT + 1}, {"format": FORMAT, "policy": {"max_owners": 3}}])
def test_a_document_that_a_newer_program_wrote_is_refused_with_what_to_do(newer: dict[str, Any]) -> None:
    with pytest.raises(errors.StoreError, match="newer version of dagbundle") as raised:
        RolloutDocument.from_json(newer)
    assert "start a new rollout" in raised.value.hint

"""Which bundles read values that are others now."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from dagbundle.engine import lookups
from dagbundle.resources import base
from dagbundle.resources import grants as grant_models
from dagbundle.rollout.document import FORMAT, RolloutDocument
from dagbundle.rollout.model import BundleKey
from dagbundle.store.lookups import Lookup

SALES, OPS = BundleKey("team-sales", "sales"), BundleKey("team-ops", "ops")


def test_a_document_of_a_newer_program_hides_no_other_bundles_changed_value() -> None:
    documents = {OPS: {"format": FORMAT + 1}, SALES: RolloutDocument().to_json()}
    read = tuple(Lookup(bundle, document, "variable", "region", "before") for bundle, document in documents.items())
    store: Any = Mock(**{"lookups.return_value": read, "digest_key.return_value": "00", "look_up.return_value": "now"})
    tenants = [{"namespace": bundle.namespace, "variables": ["region"]} for bundle in documents]
    grants = base.validate(grant_models.Grants, {"tenants": tenants}, what="grants")

    assert lookups.changed(store, grants, cluster="") == (frozenset({SALES}), 0)

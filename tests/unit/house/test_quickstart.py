"""The quickstart's resources are valid and speak of the folders beside them."""

import pathlib

import pytest
import yaml

from dagbundle.resources import bundle, grants

QUICKSTART = pathlib.Path(__file__).resolve().parents[3] / "examples" / "quickstart"


def resource(name: str) -> bundle.DagBundle:
    return bundle.DagBundle.model_validate(yaml.safe_load((QUICKSTART / name).read_text()))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_subdir_of_the_bundle_is_in_both_versions(version: str) -> None:
    assert [
        subdir.path
        for subdir in resource("bundle.yaml").spec.subdirs
        if not (QUICKSTART / version / subdir.path).is_dir()
    ] == []


def test_the_grants_allow_what_the_bundle_claims() -> None:
    sales = resource("bundle.yaml")
    tenant = grants.Grants.model_validate(yaml.safe_load((QUICKSTART / "grants.yaml").read_text())).tenant("team-sales")
    assert tenant is not None
    assert [subdir.dag_id_prefix for subdir in sales.spec.subdirs] == tenant.dag_id_prefixes


def test_the_strict_bundle_differs_only_in_its_guard() -> None:
    strict, usual = (resource(name).model_dump() for name in ("bundle-strict.yaml", "bundle.yaml"))
    assert strict["spec"]["rollout"].pop("max_removed_dags") == 0
    assert usual["spec"]["rollout"].pop("max_removed_dags") == "20%"
    assert strict == usual

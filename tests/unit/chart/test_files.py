"""What the chart repeats of the project is the same there."""

import json
import pathlib
import re
import tomllib
from typing import Any

import pytest
import yaml

from charts import document
from dagbundle.resources import grants
from dagbundle.runtime.kubernetes import jobs

ROOT = pathlib.Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "dagbundle-operator"
CRD = "dagbundles.dagbundle.dev.yaml"


def values() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return content


def schema() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return content


def test_the_chart_has_the_crd_that_is_generated_from_the_models() -> None:
    assert (CHART / "files" / CRD).read_text() == (ROOT / "crds" / CRD).read_text()


def test_the_chart_has_the_programs_version() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    expected = re.sub(r"\.dev(\d+)$", r"-dev.\1", version)  # what Python calls 0.1.0.dev0 is 0.1.0-dev.0 to Helm
    assert (chart["version"], chart["appVersion"]) == (expected, expected)


def test_the_readme_has_every_value_with_its_default_and_meaning() -> None:
    assert (CHART / "README.md").read_text() == document.readme(), "run: python charts/document.py"


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image\.tag needs a comment"):
        document.table('image:\n  # -- Where.\n  repository: ""\n  tag: ""\n')


def strays(part: dict[str, Any], content: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the names that only one of a schema's part and the values has, where the schema is closed."""
    if "properties" not in part:
        return []
    found = [f"{prefix}{name}" for name in part["properties"].keys() ^ content.keys()]
    for name, value in content.items():
        if isinstance(value, dict):
            found += strays(part["properties"].get(name, {}), value, f"{prefix}{name}.")
    return found


def test_the_schema_knows_exactly_the_values_that_there_are() -> None:
    assert strays(schema(), values()) == ["global"], "Helm's own, which no values file has to have"


def closed(part: Any) -> bool:
    if isinstance(part, list):
        return all(map(closed, part))
    if not isinstance(part, dict):
        return True
    mapping = "properties" in part and "required" not in part
    if mapping and "additionalProperties" not in part:
        return False
    return all(map(closed, part.values()))


def test_every_group_of_values_refuses_what_it_does_not_know() -> None:
    assert closed({name: part for name, part in schema().items() if name != "$defs"})


def test_a_tenant_of_the_chart_has_the_fields_of_a_grant() -> None:
    fields = {field.alias for field in grants.Tenant.model_fields.values()}
    tenant = schema()["$defs"]["tenant"]
    assert set(tenant["properties"]) == fields
    assert tenant["additionalProperties"] is False


def test_the_servers_network_policy_lets_in_the_pods_that_the_runtime_labels() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    found = re.search(r'define "dagbundle\.parserLabels" -}}\n(.*?)\n{{', text, re.DOTALL)
    assert found
    assert yaml.safe_load(found[1]) == {jobs.MANAGED_LABEL: jobs.MANAGED}


def test_the_variables_that_the_chart_sets_are_documented_and_cannot_be_set_twice() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    refused = {name for line in re.findall(r"(?m)^{{- \$own .*$", helpers) for name in re.findall(r'"(\w+)"', line)}
    deployments = (CHART / "templates").glob("*/deployment.yaml")
    text = helpers + "".join(path.read_text() for path in deployments)
    documented = (ROOT / "docs" / "operations.md").read_text().partition("### Settings")[2].partition("\n## ")[0]
    assert set(re.findall(r"name: DAGBUNDLE_(\w+)", text)) == refused
    assert set(re.findall(r"`DAGBUNDLE_(\w+)`", documented)) == refused


def test_everything_that_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text())
    sources = [source for line in copied for source in line.split()]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if not any(source.startswith(rule.rstrip("/")) for rule in allowed)] == []

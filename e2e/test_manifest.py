"""The bundle's own `dagbundle.yaml` decides on a cluster what the spec leaves open, and the status shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from e2e import dags, images
from e2e.tenants import Bundle, Team

Images = Callable[..., str]
V = "version: v1beta\n"
EXAMPLE = (
    f"{V}bundle_parser: StandardBundleParser\nbundle_fetch_interval: 5 minutes\nbundle_config:\n"
    "  - directories_to_scan:\n      - path: /glacier/\n        scan_interval: 1 day\n"
    "        min_file_parse_interval: 1 day\n"
)
"""AIP-85's own."""
THEIRS = {
    "installed/last_first.py": (
        "from dagbundle_parser.parsers.single_pass import SinglePassBundleParser\n\n"
        "class LastFirst(SinglePassBundleParser):\n    name, version = 'LastFirst', '2.1'\n"
    ),
    "installed/last_first-2.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: last-first\nVersion: 2.1\n",
    "installed/last_first-2.1.dist-info/entry_points.txt": "[dagbundle.parsers]\nLastFirst = last_first:LastFirst\n",
}
"""A distribution with a bundle parser of a third party."""
INSTALLED = {"env": [{"name": "PYTHONPATH", "value": f"{images.DAGS}/installed"}]}


def files(manifest: str, *, installed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Two DAGs, in a folder each, and a manifest."""
    return {
        "dagbundle.yaml": manifest,
        "glacier/ice.py": dags.dag("ice"),
        "lake/water.py": dags.dag("water"),
        **(installed or {}),
    }


def how(bundle: Bundle) -> list[Any]:
    return [subdir.get("parser") for subdir in bundle.status["subdirs"]]


def test_the_manifest_names_the_parser_and_the_processes_and_the_spec_wins(team_b: Team, tenant_image: Images) -> None:
    text = f"{V}bundle_parser: LastFirstBundleParser\nbundle_config: {{processes: 3}}\n"
    image = tenant_image(files(text, installed=THEIRS), tag="named")
    bundle = team_b.apply("named", image, pod=INSTALLED)
    assert bundle.wait_ready()["dags"]["total"] == 2
    parser = {"name": "LastFirst", "version": "2.1", "decidedBy": "Manifest"}
    processes = {"processes": 3, "processesDecidedBy": "Manifest"}
    assert how(bundle) == [parser | processes]
    bundle.patch({"parser": {"type": "SinglePass"}})
    seen = bundle.until(
        lambda found: (
            found["status"]["observedGeneration"] == found["metadata"]["generation"]
            and found["status"]["subdirs"][0]["parser"]["decidedBy"] == "Spec"
        )
    )
    (parser,) = [subdir["parser"] for subdir in seen["status"]["subdirs"]]
    assert (parser["name"], parser["processes"], parser["processesDecidedBy"]) == ("SinglePass", 3, "Manifest")


def test_each_subdir_shows_that_a_bundle_without_a_manifest_has_the_defaults(
    team_b: Team, tenant_image: Images
) -> None:
    image = tenant_image({"a/one.py": dags.dag("one"), "b/two.py": dags.dag("two")}, tag="none")
    subdirs = [{"path": path, "serviceAccountName": "parser"} for path in ("a", "b")]
    bundle = team_b.apply("plain", image, subdirs)
    bundle.wait_ready()
    for found in how(bundle):
        assert (found["name"], found["decidedBy"]) == ("SinglePass", "Default")
        assert (found["processes"], found["processesDecidedBy"]) == (2, "Default")
    assert len(how(bundle)) == 2


def test_the_proposals_example_publishes_the_folder_that_it_names(team_b: Team, tenant_image: Images) -> None:
    bundle = team_b.apply("example", tenant_image(files(EXAMPLE), tag="example"))
    assert bundle.wait_ready()["dags"]["total"] == 1
    (parser,) = how(bundle)
    assert (parser["name"], parser["decidedBy"]) == ("SinglePass", "Manifest")


def test_a_wrong_manifest_is_named_with_its_key_and_line_and_what_is_live_stays(
    team_b: Team, tenant_image: Images
) -> None:
    bundle = team_b.apply("wrong", tenant_image(files(V), tag="right"), retryInterval="1h")
    bundle.wait_ready()
    text = f"{V}bundle_config:\n  processes: four\n"
    bundle.set_image(tenant_image(files(text), tag="wrong"))
    message = bundle.wait_reason("RunFailed")
    assert "ManifestInvalid: the manifest dagbundle.yaml cannot be used: line 3, column 3: " in message
    assert "bundle_config.processes must be a whole number from 1 to 64, and is 'four'" in message
    assert bundle.status["dags"]["total"] == 2

"""What a run request leaves open, the bundle's manifest decides, in the process that parses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dagbundle_parser.errors import RunError
from dagbundle_parser.manifest import Manifest, decided, read_manifest
from dagbundle_parser.request import RunRequest
from unit.parser.conftest import ROOT, request_for, write_bundle
from unit.parser.test_extensions import run

V = "version: v1beta\n"
ENTRIES = "[dagbundle.loaders]\nini = their_loaders:Loader\n[dagbundle.parsers]\nMine = their_loaders:Parser\n"
MINE = V + "bundle_parser: MineBundleParser\nbundle_config: {processes: 3}\n"
ALL: list[str] = ["parser", "processes"]


def parsed(tmp_path: Path, bundle: Path, manifest: str | None, **changes: Any) -> list[dict[str, Any]]:
    if manifest is not None:
        write_bundle(bundle, {"dagbundle.yaml": manifest})
    return run(tmp_path, bundle, ENTRIES, **{"defaults": ALL, **changes})


def how(opened: dict[str, Any]) -> tuple[str, str, int, str]:
    origins = opened["origins"]
    return opened["parser"]["name"], origins["parser"], opened["processes"], origins["processes"]


def known_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        record["path"]: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1.0}
        for record in records
        if record["type"] == "file"
    }


def statuses(records: list[dict[str, Any]]) -> dict[str, str]:
    return {record["path"]: record["status"] for record in records if record["type"] == "file"}


def failure(records: list[dict[str, Any]]) -> tuple[str, str]:
    (record,) = records
    assert record["type"] == "fail"
    return record["kind"], record["message"]


def test_the_manifest_decides_what_the_spec_leaves_open(tmp_path: Path, bundle: Path) -> None:
    opened = parsed(tmp_path, bundle, MINE)[0]
    assert opened.keys() == json.loads((ROOT / "tests/golden/report.v1.ndjson").read_text().splitlines()[0]).keys()
    assert how(opened) == ("Mine", "manifest", 3, "manifest")
    assert opened["parser"]["version"] == "7"


@pytest.mark.parametrize(
    ("left_open", "wanted"),
    [
        (["processes"], ("SinglePass", "spec", 3, "manifest")),
        (["parser"], ("Mine", "manifest", 2, "spec")),
        ([], ("SinglePass", "spec", 2, "spec")),
    ],
)
def test_the_spec_wins_over_the_manifest(
    tmp_path: Path, bundle: Path, left_open: list[str], wanted: tuple[str, str, int, str]
) -> None:
    assert how(parsed(tmp_path, bundle, MINE, defaults=left_open)[0]) == wanted


def test_what_neither_decides_is_a_default(tmp_path: Path, bundle: Path) -> None:
    assert how(parsed(tmp_path, bundle, None)[0]) == ("SinglePass", "default", 2, "default")
    assert how(parsed(tmp_path, bundle, V)[0]) == ("SinglePass", "default", 2, "default")


def test_the_request_of_an_older_controller_is_carried_out_as_it_stands(tmp_path: Path, bundle: Path) -> None:
    opened = parsed(tmp_path, bundle, MINE, defaults=None)[0]
    assert opened["parser"]["name"] == "SinglePass"
    assert opened.keys().isdisjoint({"processes", "origins"})  # which an older server refuses


def test_a_name_of_a_later_version_that_is_left_open_is_no_error() -> None:
    request = RunRequest.from_json(request_for(Path("/b"), defaults=["parser", "weather"]))
    settled, chosen = decided(request, Manifest(parser_type="Mine", processes=3))
    assert (settled.parser_type, settled.processes) == ("Mine", 2)
    assert chosen == {"processes": 2, "origins": {"parser": "manifest", "processes": "spec"}}


def test_another_parser_of_the_manifest_parses_every_file_anew(tmp_path: Path, bundle: Path) -> None:
    first = parsed(tmp_path, bundle, V)
    assert statuses(parsed(tmp_path, bundle, V, known=known_of(first))) == {"a.ini": "unchanged"}
    other = parsed(tmp_path, bundle, MINE, known=known_of(first))
    assert statuses(other) == {"a.ini": "parsed"}
    assert statuses(parsed(tmp_path, bundle, MINE, known=known_of(other))) == {"a.ini": "unchanged"}


def test_another_parser_or_config_of_the_spec_parses_every_file_anew(tmp_path: Path, bundle: Path) -> None:
    first = parsed(tmp_path, bundle, V)
    mine: dict[str, Any] = {"parser": {"type": "Mine", "config": {}}, "defaults": ["processes"]}
    other = parsed(tmp_path, bundle, V, known=known_of(first), **mine)
    assert statuses(other) == {"a.ini": "parsed"}
    assert statuses(parsed(tmp_path, bundle, V, known=known_of(other), **mine)) == {"a.ini": "unchanged"}
    mine["parser"]["config"] = {"deep": True}
    assert statuses(parsed(tmp_path, bundle, V, known=known_of(other), **mine)) == {"a.ini": "parsed"}


def test_what_changes_no_result_parses_nothing_anew(tmp_path: Path, bundle: Path) -> None:
    first = parsed(tmp_path, bundle, V)
    text = V + "bundle_parser: SinglePass\nbundle_config: {processes: 7, loaders: {yaml: {enabled: false}}}\n"
    assert statuses(parsed(tmp_path, bundle, text, known=known_of(first))) == {"a.ini": "unchanged"}


def test_other_settings_of_a_third_partys_loader_parse_every_file_anew(tmp_path: Path, bundle: Path) -> None:
    text = V + "bundle_config: {loaders: {ini: {strict: %s}}}\n"
    first = parsed(tmp_path, bundle, text % "true")
    assert statuses(parsed(tmp_path, bundle, text % "true", known=known_of(first))) == {"a.ini": "unchanged"}
    assert statuses(parsed(tmp_path, bundle, text % "false", known=known_of(first))) == {"a.ini": "parsed"}


def test_the_proposals_standard_parser_is_a_single_pass(tmp_path: Path, bundle: Path) -> None:
    opened = parsed(tmp_path, bundle, V + "bundle_parser: StandardBundleParser\n")[0]
    assert how(opened)[:2] == ("SinglePass", "manifest")


def test_the_proposals_event_based_parser_is_refused_with_those_that_there_are(tmp_path: Path, bundle: Path) -> None:
    kind, message = failure(parsed(tmp_path, bundle, V + "bundle_parser: EventBasedBundleParser\n"))
    assert kind == "UnknownParser"
    assert "'EventBased'" in message
    assert "Mine, SinglePass" in message


FOLDERS = V + "bundle_config:\n- directories_to_scan:\n  - {path: /glacier/, scan_interval: 1 day}\n  - path: b/c\n"


def test_only_the_folders_that_the_manifest_names_are_scanned(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"glacier/x.ini": "", "glaciers.ini": "", "b/d.ini": "", "b/c/deep/e.ini": ""})
    assert set(statuses(parsed(tmp_path, bundle, FOLDERS))) == {"glacier/x.ini", "b/c/deep/e.ini"}
    inside = parsed(tmp_path, bundle, FOLDERS, subdir="b", exclude=["b/c"])
    assert statuses(inside) == {}
    assert inside[-1]["type"] == "close"


def test_a_single_file_outside_of_the_folders_is_not_listed_and_named_so(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"glacier/x.ini": "", "b/c/e.ini": ""})
    _, record, close = parsed(tmp_path, bundle, FOLDERS, files=["a.ini"])
    assert close["type"] == "close"
    (error,) = record["errors"]
    assert error["kind"] == "NotListed"
    assert "bundle_config.directories_to_scan of dagbundle.yaml names other folders" in error["message"]


def test_a_folder_that_is_not_there_ends_the_run_and_is_named_with_its_line(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"glacier/x.ini": ""})
    kind, message = failure(parsed(tmp_path, bundle, FOLDERS))
    assert kind == "ManifestInvalid"
    assert "line 5, column 5: bundle_config.directories_to_scan[1].path: the bundle has no folder 'b/c'" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (V + "bundle_config:\n  processes: four\n", "line 3, column 3: bundle_config.processes must be a whole number"),
        (V + "bundle_config:\n  processes: 4\n  processes: 5\n", "line 4, column 3: the key 'processes' is in"),
        (V + "bundle_parser: 'x\n", "line 2, column 16: a quote is opened here, and never closed"),
        (V + "bundle_config:\n  loaders:\n    csv: {}\n", "line 4, column 5: bundle_config.loaders.csv is no loader"),
        (
            V + "bundle_config:\n  loaders:\n    yaml: {enabled: 1}\n",
            "line 4, column 5: bundle_config.loaders.yaml.enab",
        ),
    ],
)
def test_a_wrong_manifest_ends_the_run_with_the_file_the_key_and_the_line(
    tmp_path: Path, bundle: Path, text: str, words: str
) -> None:
    kind, message = failure(parsed(tmp_path, bundle, text))
    assert kind == "ManifestInvalid"
    assert message.startswith("the manifest dagbundle.yaml cannot be used: ")
    assert words in message


def test_a_manifest_is_read_also_where_the_spec_decides_all(tmp_path: Path, bundle: Path) -> None:
    kind, _ = failure(parsed(tmp_path, bundle, V + "bundle_config: {processes: 0}\n", defaults=[]))
    assert kind == "ManifestInvalid"


def test_an_interpreter_without_pyyaml_says_so_where_there_is_a_manifest(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(bundle, {"dagbundle.yaml": V})
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(RunError, match="needs PyYAML, which is not installed"):
        read_manifest(str(bundle))
    (bundle / "dagbundle.yaml").unlink()
    assert read_manifest(str(bundle)) == Manifest()

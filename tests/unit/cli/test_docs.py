"""Docs and the CRD are held to the code: what is not documented, or documented differently, fails here."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
import yaml

from dagbundle.cli import exits, program
from dagbundle.resources import crd, grants, manifest

ROOT = pathlib.Path(__file__).parents[3]


def commands(command: Any, path: tuple[str, ...] = ("dagbundle",)) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(commands(typer.main.get_command(program.app)))


def section(name: str) -> str:
    text = (ROOT / "docs/cli.md").read_text()
    match = re.search(rf"^### `{re.escape(name)}`$(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match, f"docs/cli.md has no section for {name}"
    return match[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented_with_its_help(name: str) -> None:
    text = section(name)
    assert COMMANDS[name].help.strip() in text
    for parameter in COMMANDS[name].params:
        if parameter.name != "help":
            names = (
                parameter.opts
                if parameter.param_type_name == "option"
                else [parameter.metavar or parameter.name.upper()]
            )
            row = f"| {', '.join(f'`{item}`' for item in names)} | {parameter.help or ''}"
            assert row in text, f"{name}: {row}"


def test_no_option_is_documented_that_is_not_there() -> None:
    for name, command in COMMANDS.items():
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"^\| `(--[\w-]+)`", section(name), re.MULTILINE)) <= known


def test_no_command_is_documented_that_is_not_there() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert set(re.findall(r"^### `(.*)`$", text, re.MULTILINE)) == set(COMMANDS)


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE) == [
        (str(code.value), code.name) for code in exits.Exit
    ]


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child.get("description", "")
        yield from fields(child, f"{path}.{name}")
        yield from fields(child.get("items", {}), f"{path}.{name}[]")


def test_every_field_of_the_resource_is_documented_with_its_description_and_no_other() -> None:
    text = (ROOT / "docs/manifest.md").read_text()
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    known = dict(fields(schema["spec"], "spec")) | dict(fields(schema["status"], "status"))
    for path, description in known.items():
        assert description, f"{path} has no description"
        assert re.search(rf"^\| `{re.escape(path)}` \|.*{re.escape(description)}", text, re.MULTILINE), path
    assert set(re.findall(r"^\| `((?:spec|status)\.[\w.\[\]]+)`", text, re.MULTILINE)) == set(known)


def test_every_field_of_grants_and_manifest_is_documented() -> None:
    text = (ROOT / "docs/manifest.md").read_text()
    for name, field in grants.Tenant.model_fields.items():
        assert f"| `tenants[].{field.alias or name}` |" in text
    for name in manifest.Manifest.model_fields.keys() - {"bundle_config"}:
        assert f"| `{name}` |" in text
    for name in manifest.BundleConfig.model_fields:
        assert f"| `bundle_config.{name}` |" in text
    for name in manifest.Directory.model_fields:
        assert f"| `bundle_config.directories_to_scan[].{name}` |" in text
    for name in manifest.YamlLoader.model_fields:
        assert f"| `bundle_config.loaders.yaml.{name}` |" in text


def test_every_reason_and_problem_of_the_judge_is_documented() -> None:
    text = (ROOT / "docs/manifest.md").read_text()
    names = ("rollout/judge.py", "rollout/duplicates.py", "rollout/plan.py")
    code = "".join((ROOT / "operator/dagbundle" / name).read_text() for name in names)
    code += (ROOT / "operator/dagbundle/engine/engine.py").read_text()
    code += (ROOT / "operator/dagbundle/engine/intake.py").read_text()
    words = set(re.findall(r"(?:Problem|_Blocked|_block)\(\s*\"([A-Z]\w+)\"|reason=\"([A-Z]\w+)\"", code))
    for pair in words:
        name = pair[0] or pair[1]
        if name != "RolledBack":
            assert f"`{name}`" in text, name


def test_the_crd_in_the_repository_is_the_one_that_the_models_generate() -> None:
    path = ROOT / "crds/dagbundles.dagbundle.dev.yaml"
    assert yaml.safe_load(path.read_text()) == crd.definition(), "run `make crd`"


def test_the_crd_is_structural() -> None:
    text = (ROOT / "crds/dagbundles.dagbundle.dev.yaml").read_text()
    for word in ("$ref", "$defs", "type: 'null'", 'type: "null"', "const:", "oneOf"):
        assert word not in text
    names = crd.definition()["spec"]["names"]
    assert names["shortNames"] == ["dagb"]
    assert names["categories"] == ["airflow"]

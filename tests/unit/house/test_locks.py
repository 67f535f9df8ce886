"""The locks in requirements/: everything pinned, by hash, from wherever the reader's index is."""

import functools
import json
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
LOCKS = sorted(ROOT.glob("requirements/*.txt"))
PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(?P<version>[^\s;]+)(?:\s*;[^\\]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+"
)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: pathlib.Path) -> list[str]:
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [entry for entry in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines() if entry.strip()]


@functools.cache
def pins(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in entries(ROOT / "requirements" / lock):
        match = PINNED.fullmatch(entry)
        assert match, entry
        found.setdefault(normalized(match["name"]), set()).add(match["version"])
    return found


def declared(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in requirements}


@functools.cache
def project() -> dict[str, dict[str, list[str]]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        content: dict[str, dict[str, list[str]]] = tomllib.load(file)
    return content


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_requirement_is_pinned_and_has_a_hash(lock: pathlib.Path) -> None:
    found = entries(lock)
    assert found
    assert [entry[:80] for entry in found if not PINNED.fullmatch(entry)] == []


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements/*")), ids=lambda file: file.name)
def test_no_file_of_the_locks_names_an_address_or_an_option_of_the_installer(file: pathlib.Path) -> None:
    text = file.read_text()
    assert "://" not in text
    assert re.findall(r"(?m)^\s*(?:-.*|[^#]* @ .*|[./].*)$", re.sub(r"\s--hash=\S+", " ", text)) == []


def test_the_projects_dependencies_are_locked_for_use() -> None:
    assert declared(project()["project"]["dependencies"]) - pins("runtime.txt").keys() == set()


def test_the_projects_dependencies_tools_and_build_requirements_are_locked_for_development() -> None:
    content = project()
    wanted = (
        content["project"]["dependencies"] + content["dependency-groups"]["dev"] + content["build-system"]["requires"]
    )
    assert declared(wanted) - pins("dev.txt").keys() == set()


def test_the_tools_of_the_documentation_are_locked() -> None:
    assert declared(project()["dependency-groups"]["docs"]) - pins("docs.txt").keys() == set()


def test_development_tests_the_versions_that_are_locked_for_use() -> None:
    development = pins("dev.txt")
    assert {name: development.get(name) for name in pins("runtime.txt")} == pins("runtime.txt")


@pytest.mark.parametrize("minor", ["3.0", "3.1", "3.2", "3.3"])
def test_each_airflow_environment_locks_that_airflow_and_dag_factory(minor: str) -> None:
    lock = pins(f"airflow-{minor}.txt")
    (airflow,) = lock["apache-airflow-core"]
    assert airflow.startswith(f"{minor}.")
    assert lock["dag-factory"] == {"1.1.0"}


@pytest.mark.parametrize("minor", ["3.1", "3.2", "3.3"])
def test_the_image_for_each_airflow_has_what_its_tests_ran_on_and_no_more_than_it_needs(minor: str) -> None:
    image, tested = pins(f"runtime-airflow-{minor}.txt"), pins(f"publisher-{minor}.txt")
    assert {name: tested.get(name) for name in image} == image
    assert declared(project()["project"]["dependencies"]) - image.keys() == set()
    assert image["apache-airflow-core"] == pins(f"airflow-{minor}.txt")["apache-airflow-core"]
    assert {"pytest", "dag-factory", "psycopg2-binary"} & image.keys() == set()


def test_the_package_that_draws_the_pictures_is_locked_by_hash_from_wherever_the_readers_registry_is() -> None:
    lock = json.loads((ROOT / "docs/tools/package-lock.json").read_text())
    wanted = json.loads((ROOT / "docs/tools/package.json").read_text())["dependencies"]
    assert lock["packages"].pop("")["dependencies"] == wanted
    assert [name for name, entry in lock["packages"].items() if not entry["integrity"].startswith("sha512-")] == []
    assert [name for name, entry in lock["packages"].items() if "resolved" in entry] == []


def test_the_installer_itself_is_locked() -> None:
    assert pins("uv.txt").keys() == {"uv"}

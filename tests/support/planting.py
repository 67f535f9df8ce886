"""Plants imports in a copy of the packages, one after the other, and tells which of them import-linter refuses.

A program, because import-linter finds packages as Python does, and a test's process has imported the real ones. Its
PYTHONPATH begins with the copy. It reads a `Task` as JSON on stdin and answers with a `Found` on stdout.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import TypedDict

from grimp import ImportGraph
from importlinter import configuration
from importlinter.application import output, use_cases
from importlinter.application.ports.reporting import Report
from importlinter.application.user_options import UserOptions


class Plant(TypedDict):
    """An import to try."""

    contract: str
    """The id of the contract to check; all are where it is empty."""
    module: str
    """Where to plant; it is made where there is none."""
    line: str


class Task(TypedDict):
    """What to try."""

    configuration: str
    copy: str
    plants: list[Plant]


class Checked(TypedDict):
    """What came of one check."""

    broken: list[str]
    """Ids of contracts."""
    unnamed: list[str]
    """Libraries that a package imports and no contract with that package as its source names: `package: library`."""


class Found(TypedDict):
    """What came of the task."""

    modules: list[str]
    """All that the contracts are checked against."""
    unplanted: Checked
    planted: list[Checked]


def main() -> None:
    """Carry out the task."""
    task: Task = json.load(sys.stdin)
    configuration.configure()
    options = use_cases.read_user_options(task["configuration"])
    use_cases._register_contract_types(options)
    graph, unplanted = _check(options)
    modules = sorted(name for name in graph.modules if _package(name) in _packages(options))
    planted = []
    for plant in task["plants"]:
        with _planted(pathlib.Path(task["copy"]), plant["module"], plant["line"]):
            planted.append(_check(options, plant["contract"])[1])
    json.dump(Found(modules=modules, unplanted=unplanted, planted=planted), sys.stdout)


def _check(options: UserOptions, contract: str = "") -> tuple[ImportGraph, Checked]:
    with output.console.capture():
        report: Report = use_cases.create_report(options, (contract,) if contract else (), cache_dir=None)
    assert not report.invalid_contract_options, report.invalid_contract_options
    ids = {each["name"]: each["id"] for each in options.contracts_options}
    broken = [ids[each.name] for each, check in report.get_contracts_and_checks() if not check.kept]
    return report.graph, Checked(broken=broken, unnamed=_unnamed(report.graph, options))


@contextlib.contextmanager
def _planted(copy: pathlib.Path, module: str, line: str) -> Iterator[None]:
    path = copy.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    before = file.read_text() if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n")
    try:
        yield
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)


def _unnamed(graph: ImportGraph, options: UserOptions) -> list[str]:
    named = {
        (source, library)
        for contract in options.contracts_options
        for source in contract.get("source_modules", ())
        for library in contract.get("forbidden_modules", ())
    }
    libraries = {name for name in graph.modules if _package(name) not in _packages(options)} - sys.stdlib_module_names
    return sorted(
        f"{package}: {library}"
        for library in libraries
        for package in {_package(name) for name in graph.find_modules_that_directly_import(library)}
        if (package, library) not in named
    )


def _packages(options: UserOptions) -> list[str]:
    packages: list[str] = options.session_options["root_packages"]
    return packages


def _package(name: str) -> str:
    return name.partition(".")[0]


if __name__ == "__main__":
    main()

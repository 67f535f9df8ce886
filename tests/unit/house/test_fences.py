"""The contracts about imports in pyproject.toml refuse what they forbid: each such import is planted in a copy."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

from support.planting import Found, Plant, Task

ROOT = pathlib.Path(__file__).resolve().parents[3]
OPERATOR = ROOT / "operator"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

LIBRARIES = (
    "airflow", "alembic", "click", "dagfactory", "fastapi", "kopf", "kubernetes", "pendulum", "prometheus_client",
    "psycopg", "pydantic", "rich", "sqlalchemy", "starlette", "structlog", "typer", "typing_extensions", "urllib3",
    "uvicorn", "yaml",
)  # fmt: skip
"""What the packages import, and what these libraries bring along and is easily taken for a dependency."""

FORBIDDEN = {
    "layers": (
        ("dagbundle.everything", "from dagbundle.cli import main; from dagbundle.controller import operator"),
        ("dagbundle.errors", "from dagbundle import logs"),
        ("dagbundle.resources.base", "from dagbundle.rollout import model"),
        ("dagbundle.rollout.plan", "from dagbundle.store import dagstore"),
        ("dagbundle.store.reader", "from dagbundle.targets.airflow import target"),
        ("dagbundle.store.dagstore", "from dagbundle import logs"),
        ("dagbundle.runtime.local", "from dagbundle.engine import engine"),
        ("dagbundle.engine.engine", "from dagbundle.server import app"),
        ("dagbundle.server.app", "from dagbundle.controller import queue"),
        ("dagbundle.controller.queue", "from dagbundle.server import limits"),
        ("dagbundle.controller.operator", "from dagbundle.cli import output"),
    ),
    "runtime-layers": (
        ("dagbundle.runtime.docker", ""),
        ("dagbundle.runtime.local", "from dagbundle.runtime.kubernetes import client"),
        ("dagbundle.runtime.process", "from dagbundle.runtime.kubernetes import jobs"),
        ("dagbundle.runtime.base", "from dagbundle.runtime import local"),
    ),
    "workers-layers": (
        ("dagbundle_airflow.everything", ""),
        ("dagbundle_airflow.bundle", "from dagbundle_airflow import hook"),
        ("dagbundle_airflow.proof", "from dagbundle_airflow import pods"),
    ),
    "parser-layers": (
        ("dagbundle_parser.everything", ""),
        ("dagbundle_parser.work", "from dagbundle_parser.loaders import airflow"),
        ("dagbundle_parser.work", "from dagbundle_parser import commands"),
        ("dagbundle_parser.delivery", "from dagbundle_parser import pool"),
        ("dagbundle_parser.answering", "from dagbundle_parser.loaders import lookups"),
        ("dagbundle_parser.remote", "from dagbundle_parser import ahead"),
        ("dagbundle_parser.spool", "from dagbundle_parser import child"),
        ("dagbundle_parser.environment", "from dagbundle_parser import next_execution"),
        ("dagbundle_parser.keeper", "from dagbundle_parser import sandbox"),
        ("dagbundle_parser.values", "from dagbundle_parser.loaders import base"),
        ("dagbundle_parser.errors", "from dagbundle_parser import warmup"),
        ("dagbundle_parser.scratch", "from dagbundle_parser.parsers import single_pass"),
        ("dagbundle_parser.pool", "from dagbundle_parser import runner"),
        ("dagbundle_parser.problems", "from dagbundle_parser.loaders import airflow"),
    ),
    "loaders-layers": (
        ("dagbundle_parser.loaders.toml", ""),
        ("dagbundle_parser.loaders.base", "from dagbundle_parser.loaders import airflow"),
        ("dagbundle_parser.loaders.python", "from dagbundle_parser.loaders import yaml"),
        ("dagbundle_parser.loaders.traces", "from dagbundle_parser.loaders import sparing"),
    ),
    "roots": (
        ("dagbundle", "from dagbundle.store import dagstore"),
        ("dagbundle_airflow", "from dagbundle_airflow import hook"),
        ("dagbundle_parser", "from dagbundle_parser import loaders"),
    ),
    "boundary": (
        ("dagbundle.runtime.local", "from dagbundle_parser import protocol"),
        ("dagbundle.resources.protocol", "import dagbundle_parser"),
        ("dagbundle.server.app", "from dagbundle_airflow import workload"),
        ("dagbundle_parser.protocol", "from dagbundle.resources import protocol"),
        ("dagbundle_parser.errors", "from dagbundle_airflow import errors"),
        ("dagbundle_airflow.lookup", "from dagbundle.store import tables"),
    ),
    "code": (
        ("dagbundle.store.reading", "import pickle"),
        ("dagbundle.targets", "import runpy"),
        ("dagbundle_airflow.proof", "import marshal"),
        ("dagbundle_parser.pool", "import pickle"),
    ),
    "names": (
        ("dagbundle.server.values", "from importlib import import_module"),
        ("dagbundle.targets", "import importlib"),
        ("dagbundle_airflow.hook", "import pkgutil"),
        ("dagbundle_parser.delivery", "import importlib"),
        ("dagbundle_parser.keeper", "import importlib.util"),
    ),
    "token": (
        ("dagbundle_parser.commands", "from dagbundle_parser import delivery"),
        ("dagbundle_parser.runner", "from dagbundle_parser import environment"),
        ("dagbundle_parser.child", "from dagbundle_parser import remote"),
        ("dagbundle_parser.loaders.lookups", "from dagbundle_parser import answering"),
        ("dagbundle_parser.loaders", "from dagbundle_parser import work"),
        ("dagbundle_parser.pool", "from dagbundle_parser import spool"),
        ("dagbundle_parser.everything", "from dagbundle_parser import remote"),
        ("dagbundle_parser.loaders.airflow", "import http.client"),
        ("dagbundle_parser.child", "import urllib.request"),
        ("dagbundle_parser.values", "import ssl"),
        ("dagbundle_parser", "import ssl"),
    ),
    "tenants": (
        ("dagbundle.controller.rollouts", "from dagbundle.runtime import local"),
        ("dagbundle.server.reports", "from dagbundle.runtime import process"),
        ("dagbundle.engine.engine", "from dagbundle.runtime import local"),
        ("dagbundle.controller", "from dagbundle.runtime import parser_home"),
        ("dagbundle.runtime.kubernetes.jobs", "from dagbundle.runtime import process"),
    ),
    "jobs": (
        ("dagbundle.server.app", "from dagbundle.runtime.kubernetes import jobs"),
        ("dagbundle.server", "from dagbundle.runtime.kubernetes import client"),
        ("dagbundle.engine.collecting", "from dagbundle.runtime.kubernetes import observe"),
        ("dagbundle.cli.apply", "from dagbundle.runtime.kubernetes import client"),
    ),
    "processes": (
        ("dagbundle.server.values", "import subprocess"),
        ("dagbundle.controller.rollouts", "import multiprocessing"),
        ("dagbundle_airflow.pods", "import subprocess"),
        ("dagbundle_parser.work", "import subprocess"),
    ),
    "airflow": (
        ("dagbundle.targets", "from airflow import models"),
        ("dagbundle.targets.airflow", "import airflow"),
        ("dagbundle.targets.airflow.target", "import airflow"),
        ("dagbundle.targets.airflow.shares", "import pendulum"),
        ("dagbundle.targets.airflow.everything", "import airflow"),
        ("dagbundle.server.values", "import airflow"),
        ("dagbundle.cli.dags", "import dagfactory"),
        ("dagbundle.logs", "import structlog"),
        ("dagbundle.store.records", "import typing_extensions"),
    ),
    "target": (
        ("dagbundle.server.values", "from dagbundle.targets.airflow import values"),
        ("dagbundle.controller.upkeep", "from dagbundle.targets.airflow import upkeep"),
        ("dagbundle.cli.report", "from dagbundle.targets.airflow import check"),
        ("dagbundle.engine.publishing", "from dagbundle.targets.airflow import adapter"),
    ),
    "vetting": (
        ("dagbundle.targets.airflow.vetting", "from dagbundle.targets.airflow import adapter"),
        ("dagbundle.targets.airflow.vetting.walk", "from dagbundle.targets.airflow import library"),
        ("dagbundle.targets.airflow.vetting.fields", "import sqlalchemy"),
    ),
    "sql": (
        ("dagbundle.targets", "import sqlalchemy"),
        ("dagbundle.targets.airflow.vetting.walk", "import sqlalchemy"),
        ("dagbundle.engine.engine", "import sqlalchemy"),
        ("dagbundle.server.probes", "import alembic"),
        ("dagbundle.store.database", "import psycopg"),
        ("dagbundle.store.schema", "import sqlite3"),
        ("dagbundle.cli.database", "import sqlite3"),
        ("dagbundle.logs", "import sqlalchemy"),
    ),
    "kopf": (
        ("dagbundle.targets", "import kopf"),
        ("dagbundle.controller.reconciler", "import kopf"),
        ("dagbundle.controller", "import kopf"),
        ("dagbundle.engine.engine", "import kopf"),
        ("dagbundle.errors", "import kopf"),
    ),
    "kubernetes": (
        ("dagbundle.server.values", "import kubernetes"),
        ("dagbundle.controller.queue", "from kubernetes import client"),
        ("dagbundle.targets", "import kubernetes"),
        ("dagbundle.runtime.base", "import kubernetes"),
        ("dagbundle.runtime.kubernetes.jobs", "import kubernetes"),
        ("dagbundle.logs", "import kubernetes"),
        ("dagbundle.server.app", "import urllib3"),
    ),
    "serving": (
        ("dagbundle.targets", "import fastapi"),
        ("dagbundle.controller.health", "import uvicorn"),
        ("dagbundle.engine.sink", "import starlette"),
        ("dagbundle.cli.serve", "import uvicorn"),
        ("dagbundle.errors", "import fastapi"),
        ("dagbundle.runtime.local", "import http.server"),
    ),
    "terminal": (
        ("dagbundle.server.serving", "import typer"),
        ("dagbundle.cli.output", "import rich"),
        ("dagbundle.logs", "import rich"),
        ("dagbundle.targets.airflow.check", "import click"),
    ),
    "models": (
        ("dagbundle.rollout.model", "import pydantic"),
        ("dagbundle.server.requests", "import pydantic"),
        ("dagbundle.targets", "import pydantic"),
    ),
    "yaml": (
        ("dagbundle.resources.manifest", "import yaml"),
        ("dagbundle.server.settings", "import yaml"),
    ),
    "metrics": (
        ("dagbundle.engine.engine", "import prometheus_client"),
        ("dagbundle.targets.airflow.target", "import prometheus_client"),
    ),
    "domain": (
        ("dagbundle.rollout.plan", "import os"),
        ("dagbundle.rollout.judge", "import time"),
        ("dagbundle.resources.manifest", "from pathlib import Path"),
        ("dagbundle.resources.everything", "import socket"),
        ("dagbundle.errors", "import logging"),
    ),
    "workers": (
        *(("dagbundle_airflow.pods", f"import {library}") for library in LIBRARIES),
        ("dagbundle_airflow", "import airflow"),
    ),
    "parser": (
        *(("dagbundle_parser.sandbox", f"import {library}") for library in LIBRARIES),
        ("dagbundle_parser.loaders.yaml", "import yaml"),
        ("dagbundle_parser.work", "from airflow.sdk import DAG"),
    ),
}  # fmt: skip
"""By the id of the contract that must break: a module, which is made where there is none, and a line to add to it."""

UNNAMED = (
    ("dagbundle.server.values", "import requests", "dagbundle: requests"),
    ("dagbundle_airflow.hook", "import boto3.session", "dagbundle_airflow: boto3"),
    ("dagbundle_parser.loaders.yaml", "from ruamel import yaml", "dagbundle_parser: ruamel"),
)
"""Libraries that no contract names: a module, a line, and the finding."""

PLANTS = [Plant(contract=name, module=module, line=line) for name, each in FORBIDDEN.items() for module, line in each]
STRANGERS = [Plant(contract="", module=module, line=line) for module, line, _ in UNNAMED]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    copy = tmp_path_factory.mktemp("fences") / "operator"
    shutil.copytree(OPERATOR, copy, ignore=shutil.ignore_patterns("__pycache__"))
    task = Task(configuration=str(ROOT / "pyproject.toml"), copy=str(copy), plants=[*PLANTS, *STRANGERS])
    done = subprocess.run(
        [sys.executable, "-m", "support.planting"],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=copy.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(ROOT / "tests")])},
    )
    answer: Found = json.loads(done.stdout)
    return answer


def test_no_contract_is_broken_where_nothing_is_planted(found: Found) -> None:
    assert found["unplanted"]["broken"] == []


def test_contracts_see_every_module(found: Found) -> None:
    files = (path.relative_to(OPERATOR).with_suffix("") for path in OPERATOR.rglob("*.py"))
    modules = {".".join(path.parent.parts if path.name == "__init__" else path.parts) for path in files}
    assert modules - set(found["modules"]) == set(), "a folder without __init__.py, or a package beside the three?"


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant['contract']}: {plant['module']}: {plant['line']}")
def test_a_contract_refuses_what_it_forbids(found: Found, plant: Plant) -> None:
    assert plant["contract"] in found["planted"][PLANTS.index(plant)]["broken"]


def test_each_contract_has_something_planted_against_it() -> None:
    assert sorted(contract["id"] for contract in CONTRACTS) == sorted(FORBIDDEN)


def test_every_library_that_a_package_imports_is_named_by_a_contract_about_that_package(found: Found) -> None:
    assert found["unplanted"]["unnamed"] == []
    planted = [each["unnamed"] for each in found["planted"][len(PLANTS) :]]
    assert planted == [[finding] for _, _, finding in UNNAMED]


def test_outside_of_the_loaders_the_parser_imports_one_library_by_its_name_in_a_text() -> None:
    found = set()
    for path in sorted(OPERATOR.glob("dagbundle_parser/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                    found.add((path.stem, name))
                case ast.Name(id="import_module" | "__import__" as name):
                    found.add((path.stem, name))
    assert found == {("manifest_text", "yaml")}  # where the bundle has a manifest

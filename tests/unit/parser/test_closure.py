"""Closures say what a result depends on; with skips, a run gives what it would give without them."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import json
import os
import py_compile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagbundle_parser.closure import Recorder
from dagbundle_parser.prober import ABSENT, Prober
from unit.parser.conftest import Parse, Report, run_stub, write_bundle

MODULES = ("one", "two", "three")


def known_of(report: Report) -> dict[str, Any]:
    return {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1}
        for path, record in report.files.items()
    }


def unchanged(report: Report) -> set[str]:
    return {path for path, record in report.files.items() if record["status"] == "unchanged"}


FILES: dict[str, str | bytes] = {
    "plain.py": "DAGS = {'plain': {}}\n",
    "local.py": "from lib import one\nDAGS = {'local': {'x': one.X}}\n",
    "lib/__init__.py": "",
    "lib/one.py": "X = 1\n",
    "reads.py": "from pathlib import Path\nDAGS = {'reads': json.loads((Path(__file__).parent / 'd.json').read_text())}\n"
    .replace("DAGS", "import json\nDAGS", 1),
    "d.json": "{}",
    "missing.py": "try:\n    open(__file__ + '.no')\nexcept OSError: pass\nDAGS = {}\n",
    "lists.py": "import os\nDAGS = {'l': {'names': sorted(os.listdir(os.path.dirname(__file__) + '/data'))}}\n",
    "data/x.txt": "",
    "outside.py": "DAGS = {'outside': {'x': open('/etc/hostname').read()}}\n",
}  # fmt: skip


def test_a_closure_names_what_a_file_depends_on(parse: Parse) -> None:
    report = parse(FILES)
    closures = {path: record["closure"] for path, record in report.files.items()}
    assert {key for key in closures["plain.py"] if not key.startswith("//")} == {"plain.py"}
    assert {"local.py", "lib/__init__.py", "lib/one.py"} <= set(closures["local.py"])
    assert {"reads.py", "d.json"} <= set(closures["reads.py"])
    assert closures["missing.py"]["missing.py.no"] == ABSENT
    assert "data/" in closures["lists.py"]
    assert "/etc/hostname" in closures["outside.py"]


@pytest.mark.parametrize(
    ("change", "parsed_again"),
    [
        ({}, set()),
        ({"lib/one.py": "X = 2\n"}, {"local.py"}),
        ({"d.json": '{"a": 1}'}, {"reads.py"}),
        ({"missing.py.no": "x"}, {"missing.py"}),
        ({"data/y.txt": ""}, {"lists.py"}),
        ({"plain.py": "DAGS = {}\n"}, {"plain.py"}),
    ],
)
def test_a_change_parses_again_what_depends_on_it_and_nothing_else(
    parse: Parse, change: dict[str, str | bytes], parsed_again: set[str]
) -> None:
    first = parse(FILES)
    report = parse(change, known=known_of(first))
    everything = set(report.files)
    shadowed = {"local.py"} if set(change) & {"missing.py.no"} else set()
    assert parsed_again <= everything - unchanged(report) <= parsed_again | shadowed


def test_a_module_that_begins_to_shadow_another_parses_its_importers_again(parse: Parse) -> None:
    files: dict[str, str | bytes] = {"a.py": "try:\n    import may_come\nexcept ImportError: pass\nDAGS = {}\n"}
    first = parse(files)
    assert unchanged(parse({"may_come.py": "X = 1\n"}, known=known_of(first))) == set()


@pytest.mark.parametrize(
    "why",
    [{"force": True}, {"maxUnchangedAge": 0.5}, {"env": {"PYTHONHASHSEED": "7"}}, {"env": {"TZ": "Asia/Tokyo"}},
     {"bundle": "team.other"}, {"env": {"AIRFLOW__CORE__DEFAULT_TIMEZONE": "Asia/Tokyo"}}],
)  # fmt: skip
def test_force_age_and_another_environment_parse_everything_again(
    tmp_path: Path, bundle: Path, parse: Parse, why: dict[str, Any]
) -> None:
    first = parse(FILES)
    assert unchanged(run_stub(bundle, tmp_path / "again.json", known=known_of(first))) == set(FILES) & set(first.files)
    assert unchanged(run_stub(bundle, tmp_path / "again.json", known=known_of(first), **why)) == set()


def test_variables_that_differ_between_runs_of_one_deployment_do_not_count(
    tmp_path: Path, bundle: Path, parse: Parse
) -> None:
    first = parse(FILES)
    env = {"HOSTNAME": "other-pod", "DAGBUNDLE_X": "1", "PWD": "/", "CI_BUILD_NUMBER": "1234"}
    assert unchanged(run_stub(bundle, tmp_path / "again.json", known=known_of(first), env=env)) == set(first.files)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import socket\nsocket.socket().close()", "socket"),
        ("import subprocess\nsubprocess.run(['true'])", "subprocess"),
        ("import os\nos.system('true')", "subprocess"),
        ("import ctypes\nctypes.CDLL(None)", "ctypes"),
        ("import sqlite3\nsqlite3.connect(':memory:')", "database"),
        ("import tempfile\ntempfile.TemporaryFile()", "writing"),
        ("open('/dev/zero').read(1)", "device"),
    ],
)
def test_a_file_whose_result_depends_on_more_than_files_is_dynamic(parse: Parse, source: str, reason: str) -> None:
    record = parse({"a.py": f"{source}\nDAGS = {{}}\n"}).files["a.py"]
    assert record["errors"] == []
    assert record["closure"] == {}
    assert reason in record["dynamic"]


def test_a_file_that_reads_too_many_files_is_not_skipped(parse: Parse) -> None:
    source = "for i in range(2100):\n    try: open(f'/nonexistent/{i}')\n    except OSError: pass\nDAGS = {}\n"
    assert parse({"a.py": source}).files["a.py"]["closure"] == {}


def test_a_file_with_an_ordinary_error_is_skipped_while_it_is_unchanged(parse: Parse) -> None:
    first = parse({"a.py": "DAGS = {}\nraise ValueError\n"})
    assert unchanged(parse(known=known_of(first))) == {"a.py"}


def test_stale_bytecode_of_the_bundle_is_neither_trusted_nor_written(bundle: Path, parse: Parse) -> None:
    write_bundle(bundle, {"lib.py": "X = 'new'\n", "a.py": "import lib\nDAGS = {'a': {'x': lib.X}}\n"})
    module, source = bundle / "lib.py", "X = 'new'\n"
    module.write_text(source.replace("new", "old"))
    py_compile.compile(str(module))
    times = module.stat()
    module.write_text(source)  # as long and, by its time, as old as what the bytecode was made of
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    compiled = {path: path.read_bytes() for path in bundle.rglob("*.pyc")}
    assert len(compiled) == 1
    assert parse().files["a.py"]["dags"][0]["data"] == {"x": "new"}
    assert {path: path.read_bytes() for path in bundle.rglob("*.pyc")} == compiled


def test_an_empty_closure_never_holds() -> None:
    assert not Prober("/nonexistent").holds({})


def test_a_closure_with_words_that_are_none_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for word in (None, 1, {}, "", "absent"):
        assert not Prober(str(tmp_path)).holds({"a": word})


EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("value"), st.sampled_from(MODULES), st.integers(0, 3)),
        st.tuples(st.just("imports"), st.sampled_from(MODULES), st.sampled_from((*MODULES, "late", "data"))),
        st.tuples(st.just("delete"), st.sampled_from((*MODULES, "late")), st.just(0)),
        st.tuples(st.just("data"), st.sampled_from(("x", "y")), st.integers(0, 3)),
    ),
    max_size=4,
)


def module(number: object, imported: object) -> str:
    if imported == "data":
        body = "import os\nY = sorted(os.listdir(os.path.dirname(__file__) + '/data'))\n"
    else:
        body = f"try:\n    import {imported}\n    Y = getattr({imported}, 'X', None)\nexcept ImportError:\n    Y = 'none'\n"
    return f"X = {number!r}\n{body}"


def apply(root: Path, edits: list[tuple[str, str, Any]]) -> None:
    for what, name, value in edits:
        path = root / f"{name}.py"
        if what == "value":
            path.write_text(module(value, "two"))
        elif what == "imports":
            path.write_text(module(0, value))
        elif what == "delete":
            path.unlink(missing_ok=True)
        else:
            (root / "data" / name).write_text(str(value))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(EDITS, min_size=1, max_size=1))
def test_with_skips_a_run_gives_what_it_gives_without(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("property")
    root = folder / "bundle"
    dag = "try:\n    import {0} as m\n    d = [m.X, m.Y]\nexcept ImportError:\n    d = None\nDAGS = {{'{0}': {{'d': d}}}}\n"
    write_bundle(root, {f"dag_{name}.py": dag.format(name) for name in (*MODULES, "late")})
    write_bundle(root, {"data/x": "", **{f"{name}.py": module(1, "two") for name in MODULES}})
    memory: dict[str, dict[str, Any]] = {}
    for edits in [[], *steps]:
        apply(root, edits)
        known = {
            path: {key: record[key] for key in ("fingerprint", "closure")} | {"age": 1}
            for path, record in memory.items()
        }
        report = run_stub(root, folder / "request.json", known=known)
        memory.update({path: record for path, record in report.files.items() if record["status"] == "parsed"})
        plain = run_stub(root, folder / "request.json")
        assert {path: memory[path]["dags"] for path in plain.files} == {p: r["dags"] for p, r in plain.files.items()}


def test_the_closure_is_json_of_strings(parse: Parse) -> None:
    for record in parse(FILES).files.values():
        assert all(isinstance(word, str) for word in record["closure"].values())
        assert json.loads(json.dumps(record["closure"])) == record["closure"]
    assert os.path.exists("/etc/hostname")  # noqa: PTH110 - what FILES reads


def test_before_the_root_is_known_only_what_imports_open_counts_as_installed() -> None:
    recorder = Recorder()
    recorder._ignored = ("/lib/site-packages/",)
    covered = recorder._is_covered
    assert covered("/lib/site-packages/team/flows.py")
    assert not covered("/lib/site-packages/team/tests/conf.txt")
    recorder.bind(Prober("/lib/site-packages/team"))
    assert not covered("/lib/site-packages/team/flows.py")
    assert covered("/lib/site-packages/other/data.json")

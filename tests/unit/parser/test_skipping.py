"""A file is skipped only where its result is the same: whatever it looked at, wherever that lies, however it was asked."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagbundle_parser.importable import importable, installed
from unit.parser.conftest import Parse, Report, run_stub, stub_environment, write_bundle

HEAD = """\
import glob, os, pathlib, posix, sys
HERE = pathlib.Path(__file__).parent
def sees(path):
    try:
        return posix.stat(path).st_size >= 0
    except OSError:
        return False
def goes(path):
    try:
        os.chdir(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True
"""


def known_of(report: Report) -> dict[str, Any]:
    return {
        path: {"fingerprint": record["fingerprint"], "closure": record["closure"], "age": 1}
        for path, record in report.files.items()
    }


def unchanged(report: Report) -> set[str]:
    return {path for path, record in report.files.items() if record["status"] == "unchanged"}


def source(expression: str) -> str:
    return f"{HEAD}DAGS = {{'a': {{'x': {expression}}}}}\n"


@pytest.mark.parametrize(
    "expression",
    [
        "os.path.exists(HERE / 'flag')",
        "os.path.isfile(f'{HERE}/flag')",
        "os.path.lexists(HERE / 'flag')",
        "(HERE / 'flag').exists()",
        "(HERE / 'flag').is_file()",
        "bool([1 for _ in HERE.glob('fl*')])",
        "glob.glob(str(HERE / 'conf' / '*' / 'dag.json'))",
        "sorted(p.name for p in HERE.rglob('dag.json'))",
        "sorted(map(str, HERE.glob('conf/*/dag.json')))",
        "[p.name for p in sorted((HERE / 'conf').iterdir()) if (p / 'dag.json').exists()]",
        "[name for name in sorted(os.listdir(HERE / 'conf')) if os.path.exists(HERE / 'conf' / name / 'dag.json')]",
        "sorted(f for _, _, files in os.walk(HERE) for f in files)",
        "sorted(e.name for e in os.scandir(HERE / 'conf' / 'b'))",
        "__import__('importlib.util').util.find_spec('flagged') is None",
        "os.path.exists(f'{HERE}/conf/../flag')",
        "os.path.exists(f'/{HERE}/flag')",
        "goes(HERE / 'flag')",
        "sees(HERE / 'flag')",
    ],
)
def test_what_was_not_there_when_a_file_looked_for_it_counts_once_it_is(parse: Parse, expression: str) -> None:
    files: dict[str, str | bytes] = {
        "a.py": source(expression),
        "conf/a/dag.json": "{}",
        "conf/b/README.md": "no DAG yet",
    }
    first = parse(files)
    assert first.files["a.py"]["errors"] == []
    assert unchanged(parse(known=known_of(first))) == {"a.py"}
    added: dict[str, str | bytes] = {"flag": "", "conf/b/dag.json": "{}", "flagged.py": ""}
    second = parse(added, known=known_of(first))
    assert unchanged(second) == set()
    assert second.files["a.py"]["dags"] != first.files["a.py"]["dags"]


@pytest.mark.parametrize(
    "expression",
    [
        "os.path.getmtime(HERE / 'data')",
        "os.path.getsize(HERE / 'data')",
        "(HERE / 'data').stat().st_mtime_ns",
        "os.stat(HERE / 'data').st_size",
        "os.lstat(HERE / 'data').st_mtime",
        "[e.stat().st_mtime for e in os.scandir(HERE / 'folder')]",
        "os.path.islink(HERE / 'data')",
        "os.path.realpath(HERE / 'data')",
        "os.path.isdir(HERE / 'data')",
        "os.access(HERE / 'data', os.X_OK)",
        "(HERE / 'data').is_symlink() and os.readlink(HERE / 'data')",
    ],
)
def test_what_is_known_of_a_file_without_reading_it_counts(bundle: Path, parse: Parse, expression: str) -> None:
    data = bundle / "data"
    write_bundle(bundle, {"a.py": source(expression), "data": "x", "other/x": "", "folder/entry": "x"})
    first = parse()
    assert unchanged(parse(known=known_of(first))) == {"a.py"}
    data.unlink()
    data.symlink_to("other")
    os.utime(bundle / "folder" / "entry", (1, 1))
    assert unchanged(parse(known=known_of(first))) == set()


def test_what_lies_above_a_links_target_counts_where_a_path_leads_there(bundle: Path, parse: Parse) -> None:
    write_bundle(bundle, {"a.py": source("open(f'{HERE}/link/../conf.txt').read()"), "conf.txt": "not this one"})
    for name in ("one", "two"):
        write_bundle(bundle, {f"{name}/inner/file": "", f"{name}/conf.txt": name})
    (bundle / "link").symlink_to("one/inner")
    first = parse()
    assert first.files["a.py"]["dags"][0]["data"] == {"x": "one"}
    assert unchanged(parse(known=known_of(first))) == {"a.py"}
    assert unchanged(parse({"one/conf.txt": "changed"}, known=known_of(first))) == set()
    write_bundle(bundle, {"one/conf.txt": "one"})
    assert unchanged(parse(known=known_of(first))) == {"a.py"}
    (bundle / "link").unlink()
    (bundle / "link").symlink_to("two/inner")
    assert unchanged(parse(known=known_of(first))) == set()


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("os.getuid()", "getuid"), ("os.uname().nodename", "uname"), ("os.fstat(0).st_size", "fstat")],
)
def test_a_file_that_asks_who_or_where_it_is_is_not_skipped(parse: Parse, expression: str, reason: str) -> None:
    record = parse({"a.py": source(expression)}).files["a.py"]
    assert (record["closure"], record["dynamic"]) == ({}, [reason])


@pytest.mark.parametrize(
    ("expression", "counts"),
    [
        ("os.environ['STAGE']", {"STAGE"}),
        ("os.environ.get('STAGE')", {"STAGE"}),
        ("os.getenv('STAGE')", {"STAGE"}),
        ("'STAGE' in os.environ", {"STAGE"}),
        ("os.environb.get(b'STAGE') is None", {"STAGE"}),
        ("os.path.expandvars('$STAGE')", {"STAGE"}),
        ("sorted(os.environ.items())", {"STAGE", "OTHER", "HOSTNAME"}),
        ("len(dict(os.environ))", {"STAGE", "OTHER", "HOSTNAME"}),
        ("{**os.environ}.get('STAGE')", {"STAGE", "OTHER", "HOSTNAME"}),
        ("[name for name in os.environ if name == 'STAGE']", {"STAGE", "OTHER"}),
        ("os.environ.copy().get('STAGE')", {"STAGE", "OTHER", "HOSTNAME"}),
        ("1", set()),
    ],
)  # fmt: skip
def test_a_variable_counts_for_the_files_that_read_it(
    tmp_path: Path, bundle: Path, expression: str, counts: set[str]
) -> None:
    write_bundle(bundle, {"a.py": source(expression)})
    env = {"STAGE": "one", "HOSTNAME": "one"}
    first = run_stub(bundle, tmp_path / "request.json", env=env)
    for changed, value in (("STAGE", "two"), ("OTHER", "new"), ("HOSTNAME", "two")):
        again = run_stub(bundle, tmp_path / "request.json", env={**env, changed: value}, known=known_of(first))
        assert (unchanged(again) == set()) == (changed in counts), changed


def test_a_variable_that_differs_from_pod_to_pod_counts_for_a_file_that_reads_it(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"a.py": source("os.environ.get('HOSTNAME')"), "b.py": "DAGS = {}\n"})
    first = run_stub(bundle, tmp_path / "request.json", env={"HOSTNAME": "one"})
    again = run_stub(bundle, tmp_path / "request.json", env={"HOSTNAME": "two"}, known=known_of(first))
    assert unchanged(again) == {"b.py"}


def test_a_library_beside_the_bundle_that_gets_a_module_counts(tmp_path: Path, bundle: Path) -> None:
    libraries = write_bundle(tmp_path / "libs", {"shopkit/__init__.py": "", "shopkit/old.py": "N = 1\n"})
    env = {"PYTHONPATH": f"{stub_environment()['PYTHONPATH']}:{libraries}"}
    write_bundle(
        bundle,
        {
            "wants.py": "from newkit import NAME\nDAGS = {NAME: {}}\n",
            "tries.py": "try:\n    import optionalkit\n    TAG = 'with'\nexcept ImportError:\n    TAG = 'without'\nDAGS = {'tries': {'tag': TAG}}\n",
        },
    )
    first = run_stub(bundle, tmp_path / "request.json", env=env)
    assert [error["kind"] for error in first.files["wants.py"]["errors"]] == ["ModuleNotFoundError"]
    assert unchanged(run_stub(bundle, tmp_path / "request.json", env=env, known=known_of(first))) == {
        "wants.py",
        "tries.py",
    }
    write_bundle(libraries, {"newkit.py": "NAME = 'wants'\n", "optionalkit.py": ""})
    again = run_stub(bundle, tmp_path / "request.json", env=env, known=known_of(first))
    assert [dag["dag_id"] for dag in again.files["wants.py"]["dags"]] == ["wants"]
    assert again.files["tries.py"]["dags"][0]["data"] == {"tag": "with"}


def test_data_of_a_library_beside_the_bundle_counts_for_the_files_that_read_it(tmp_path: Path, bundle: Path) -> None:
    code = "from pathlib import Path\nN = (Path(__file__).parent / 'n.txt').read_text()\n"
    libraries = write_bundle(tmp_path / "libs", {"kit/__init__.py": code, "kit/n.txt": "1"})
    env = {"PYTHONPATH": f"{stub_environment()['PYTHONPATH']}:{libraries}"}
    write_bundle(bundle, {"a.py": "import kit\nDAGS = {'a': {'n': kit.N}}\n", "b.py": "DAGS = {}\n"})
    first = run_stub(bundle, tmp_path / "request.json", env=env)
    (libraries / "kit" / "n.txt").write_text("2")
    assert unchanged(run_stub(bundle, tmp_path / "request.json", env=env, known=known_of(first))) == {"b.py"}


def test_a_broken_file_is_skipped_only_where_the_whole_environment_is_the_same(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"broken.py": "DAGS = {}\nraise ValueError\n", "whole.py": "DAGS = {}\n"})
    first = run_stub(bundle, tmp_path / "request.json", env={"CI_BUILD_NUMBER": "1"})
    same = run_stub(bundle, tmp_path / "request.json", env={"CI_BUILD_NUMBER": "1"}, known=known_of(first))
    other = run_stub(bundle, tmp_path / "request.json", env={"CI_BUILD_NUMBER": "2"}, known=known_of(first))
    assert unchanged(same) == {"broken.py", "whole.py"}
    assert unchanged(other) == {"whole.py"}


def test_another_checkout_and_another_home_skip_what_cannot_tell_them_apart(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "plain.py": "import helper\nDAGS = {'plain': {'n': helper.N}}\n",
        "helper.py": "N = 1\n",
        "tells.py": source("str(HERE)"),
    }
    one, two = (write_bundle(tmp_path / name / "bundle", files) for name in ("one", "two"))
    homes = [str(write_bundle(tmp_path / name, {"plugins/p.py": "X = 1\n"})) for name in ("home-1", "home-2")]
    first = run_stub(one, tmp_path / "request.json", env={"AIRFLOW_HOME": homes[0], "HOME": "/one"})
    again = run_stub(
        two, tmp_path / "request.json", env={"AIRFLOW_HOME": homes[1], "HOME": "/two"}, known=known_of(first)
    )
    assert again.files["tells.py"]["dags"] != first.files["tells.py"]["dags"]
    assert unchanged(again) == {"plain.py"}
    shutil.rmtree(one)
    shutil.rmtree(homes[0])
    known = known_of(first)
    again = run_stub(two, tmp_path / "request.json", env={"AIRFLOW_HOME": homes[1], "HOME": "/two"}, known=known)
    assert unchanged(again) == {"plain.py"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_skips_what_is_not_broken(tmp_path: Path, bundle: Path) -> None:
    write_bundle(bundle, {"broken.py": "DAGS = {}\nraise ValueError\n", "whole.py": "import helper\nDAGS = {}\n"})
    write_bundle(bundle, {"helper.py": "", "asks.py": source("os.path.expanduser('~/x')")})
    first = run_stub(bundle, tmp_path / "request.json", env={"HOME": "/root", "USER": "root"})
    users = {"HOME": "/home/plain", "USER": "plain", "STUB_UID": "60021"}
    again = run_stub(bundle, tmp_path / "request.json", env=users, known=known_of(first))
    assert unchanged(again) == {"whole.py"}


@pytest.mark.parametrize("whole_seconds", [True, False])
def test_an_installed_file_that_is_mended_in_place_counts(tmp_path: Path, whole_seconds: bool) -> None:
    site = write_bundle(
        tmp_path / "site-packages",
        {
            "kit/__init__.py": "N = 1\n",
            "kit-1.dist-info/RECORD": "kit/__init__.py,sha256=x,6\nkit-1.dist-info/RECORD,,\n",
        },
    )
    module = site / "kit" / "__init__.py"
    now = 1_700_000_000 * 10**9
    os.utime(module, ns=(now, now))
    before = installed(str(site))
    assert installed(str(site)) == before
    module.write_text("N = 2\n")
    later = now if whole_seconds else now + 1  # an image keeps whole seconds, and may have one time for all files
    os.utime(module, ns=(later, later))
    assert installed(str(site)) != before


def test_a_module_that_no_distribution_owns_counts_by_its_content(tmp_path: Path) -> None:
    site = write_bundle(tmp_path / "site-packages", {"kit-1.dist-info/RECORD": "", "loose.py": "N = 1\n"})
    now = 1_700_000_000 * 10**9 + 5
    os.utime(site / "loose.py", ns=(now, now))
    before = installed(str(site))
    (site / "loose.py").write_text("N = 2\n")
    os.utime(site / "loose.py", ns=(now, now))
    assert installed(str(site)) != before


def test_a_bundle_in_an_importable_folder_does_not_count_as_a_library(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, {"dags/a.py": "", "lib/b.py": "", "no-module/c.py": ""})
    before = importable(str(folder), without=str(folder / "dags"))
    write_bundle(folder, {"dags/a.py": "X = 1\n", "no-module/c.py": "X = 1\n"})
    assert importable(str(folder), without=str(folder / "dags")) == before
    write_bundle(folder, {"lib/b.py": "X = 1\n"})
    assert importable(str(folder), without=str(folder / "dags")) != before


LOOKS = {
    "exists": "(HERE / '{0}').exists()",
    "stat": "(HERE / '{0}').stat().st_size if (HERE / '{0}').is_file() else None",
    "glob": "sorted(p.relative_to(HERE).as_posix() for p in HERE.glob('**/*{0}*'))",
    "scandir": "sorted((e.name, e.is_dir()) for e in os.scandir(HERE / 'folder'))",
    "iterdir": "[p.name for p in sorted(HERE.iterdir()) if (p / '{0}').exists()]",
    "read": "open(HERE / '{0}').read() if os.path.lexists(HERE / '{0}') and os.access(HERE / '{0}', os.R_OK) and os.path.isfile(HERE / '{0}') else None",
    "import": "__import__('importlib.util').util.find_spec('{1}') is not None",
    "variable": "os.environ.get('{1}', 'unset')",
    "beside": "getattr(__import__('beside'), '{1}', None)",
}
NAMES = ("x", "folder/y", "z.py")
CHANGES = st.lists(
    st.tuples(st.sampled_from(("write", "remove", "folder", "variable", "beside", "nothing")), st.sampled_from(NAMES), st.integers(0, 2)),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(CHANGES, min_size=1, max_size=2))
def test_with_skips_a_run_gives_what_it_gives_without_whatever_files_look_at(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("looks")
    root = write_bundle(folder / "bundle", {"folder/kept": "", "helper.py": f"{HEAD}"})
    libraries = write_bundle(folder / "libs", {"beside.py": "x = 0\n"})
    for look, expression in LOOKS.items():
        for name in NAMES:
            text = expression.format(name, name.rpartition("/")[2].removesuffix(".py"))
            word = f"{look}_{NAMES.index(name)}"
            write_bundle(root, {f"{word}.py": f"{HEAD}DAGS = {{'{word}': {{'v': {text}}}}}\n"})
    env = {"PYTHONPATH": f"{stub_environment()['PYTHONPATH']}:{libraries}"}
    memory: dict[str, dict[str, Any]] = {}
    for changes in [[], *steps]:
        for what, name, value in changes:
            change(what, root / name, value, env, libraries)
        known = {
            path: {"fingerprint": r["fingerprint"], "closure": r["closure"], "age": 1} for path, r in memory.items()
        }
        report = run_stub(root, folder / "request.json", env=env, known=known)
        memory.update({path: record for path, record in report.files.items() if record["status"] == "parsed"})
        plain = run_stub(root, folder / "request.json", env=env)
        assert {path: memory[path]["dags"] for path in plain.files} == {p: r["dags"] for p, r in plain.files.items()}


def change(what: str, path: Path, value: int, env: dict[str, str], libraries: Path) -> None:
    if what in {"write", "remove", "folder"}:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    if what == "write":
        path.write_text("#" * value)
    elif what == "folder":
        path.mkdir()
    elif what == "variable":
        env[path.stem] = str(value)
    elif what == "beside":
        (libraries / "beside.py").write_text(f"{path.stem} = {value}\n")

from __future__ import annotations

import dataclasses
import io
import os
import signal
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from dagbundle_parser import discovery
from dagbundle_parser.discovery import ListedFile, Lister, shard_of
from dagbundle_parser.errors import RunError
from dagbundle_parser.ignorefile import is_ignored, read_rules
from dagbundle_parser.loaders.python import PythonDagLoader
from dagbundle_parser.loaders.yaml import YamlDagLoader
from dagbundle_parser.settings import AirflowSettings
from unit.parser.conftest import write_bundle

DAG = "import airflow  # dag\n"
YAML = "x:\n  tasks: []\n"
SETTINGS = AirflowSettings.read({"AIRFLOW_HOME": "/nonexistent"})


def listing(root: Path, subdir: str = ".", exclude: tuple[str, ...] = (), **settings: object) -> dict[str, ListedFile]:
    lister = Lister(str(root), dataclasses.replace(SETTINGS, **settings), [PythonDagLoader(), YamlDagLoader()])
    found = lister.list_files(subdir, exclude)
    assert [file.path for file in found] == sorted(file.path for file in found)
    return {file.path: file for file in found}


def kind_of(file: ListedFile) -> str:
    assert file.problem is not None
    return file.problem.kind


def test_only_the_subdir_without_what_belongs_to_others_is_listed(bundle: Path) -> None:
    write_bundle(bundle, dict.fromkeys(("a.py", "in/b.py", "in/other/c.py", "in/d/e.py", "inside/f.py"), DAG))
    assert list(listing(bundle, "in", ("in/other",))) == ["in/b.py", "in/d/e.py"]


def test_an_ignore_file_above_the_subdir_counts(bundle: Path) -> None:
    write_bundle(bundle, {"in/a.py": DAG, "in/b.py": DAG, ".airflowignore": "in/b.py\n"})
    assert list(listing(bundle, "in")) == ["in/a.py"]


def test_safe_mode_lists_what_mentions_airflow_and_dags(bundle: Path) -> None:
    write_bundle(bundle, {"a.py": DAG, "b.py": "import os\n", "c.py": "airflow ASSET"})
    assert list(listing(bundle)) == ["a.py", "c.py"]
    assert list(listing(bundle, safe_mode=False)) == ["a.py", "b.py", "c.py"]


def test_an_archive_is_listed_whatever_it_is_called(bundle: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x.py", DAG)
    write_bundle(bundle, {"a.zip": buffer.getvalue(), "b.egg": buffer.getvalue(), "not.zip": b"no archive"})
    assert list(listing(bundle)) == ["a.zip", "b.egg"]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("dag:\n  tasks:\n    - task_id: a\n", True),
        ("dag: {tasks: []}\n", True),
        ("default: {}\nother:\n  'tasks': {}\n", True),
        ("tasks: []\n", False),
        ("a:\n  b:\n    tasks: []\n", False),
        ("- tasks: []\n", False),
        ("# tasks: x\na: 1\n", False),
        ("a: !include b\nc:\n  tasks: !custom []\n", True),
        ("a:\n  tasks: [\n", True),
        ("a: tasks\n", False),
        ("a: {b: {" * 5000 + "tasks: 1", True),
        ("sales: {tasks: 5}\n", False),
        ("sales: {tasks: null}\n", False),
        ("sales:\n  tasks: [plan, build]\n", False),
        ("sales:\n  tasks: {open: 3, done: 7}\n", False),
        ("sales:\n  tasks: [{name: plan, owner: {operator: bob}}, [operator]]\n", False),
        ("a: {tasks: 5}\nb: {tasks: [5, {operator: x}]}\n", True),
        ("dag:\n  tasks:\n    first: {operator: x}\n", True),
        ("dag:\n  tasks:\n    - {decorator: x}\n", True),
        ("base: &base {operator: x}\ndag:\n  tasks: [*base]\n", True),
        ("base: &base {operator: x}\ndag:\n  tasks:\n    a: {<<: *base}\n", True),
        ("dag: {tasks: [{name: !custom x}], more: {tasks: [{operator: y}]}}\n", False),
    ],
)
def test_yaml_counts_when_a_top_level_value_is_a_dag(bundle: Path, text: str, listed: bool) -> None:
    write_bundle(bundle, {"a.yaml": text})
    assert ("a.yaml" in listing(bundle)) is listed


def test_a_link_to_a_file_outside_of_the_bundle_is_an_error_and_not_followed(bundle: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path, {"secret.py": DAG})
    (bundle / "a.py").symlink_to(tmp_path / "secret.py")
    (bundle / "b.txt").symlink_to(tmp_path / "secret.py")
    found = listing(bundle)
    assert list(found) == ["a.py"]
    assert kind_of(found["a.py"]) == "SymlinkOutsideBundle"
    assert found["a.py"].loader is None


def test_a_link_to_a_folder_outside_of_the_bundle_is_an_error_and_not_followed(bundle: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path, {"elsewhere/x.py": DAG})
    (bundle / "dir").symlink_to(tmp_path / "elsewhere")
    found = listing(bundle)
    assert list(found) == ["dir"]
    assert kind_of(found["dir"]) == "SymlinkOutsideBundle"


def test_an_ignored_link_out_of_the_bundle_is_no_error(bundle: Path) -> None:
    write_bundle(bundle, {".airflowignore": "dir\nx.py\n"})
    (bundle / "dir").symlink_to("/etc")
    (bundle / "x.py").symlink_to("/etc/passwd")
    assert listing(bundle) == {}


def test_links_inside_of_the_bundle_are_followed_once_and_circles_end(bundle: Path) -> None:
    write_bundle(bundle, {"real/a.py": DAG})
    (bundle / "again").symlink_to("real")
    (bundle / "real" / "up").symlink_to("..")
    (bundle / "self").symlink_to("self")
    (bundle / "b.py").symlink_to("real/a.py")
    (bundle / "gone.py").symlink_to("nowhere.py")
    assert list(listing(bundle)) == ["b.py", "real/a.py"]


def test_a_folder_that_is_only_reached_by_a_link_is_listed_there(bundle: Path) -> None:
    write_bundle(bundle, {".airflowignore": "hidden\n", "hidden/a.py": DAG})
    (bundle / "shown").symlink_to("hidden")
    assert list(listing(bundle)) == ["shown/a.py"]


def test_folders_may_nest_deeper_than_python_recurses(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    levels = 1100
    for _ in range(levels):
        os.mkdir("d")  # noqa: PTH102 - relative to where we are
        os.chdir("d")
    Path("deep.py").write_text(DAG)
    assert list(listing(bundle)) == ["d/" * levels + "deep.py"]
    Path("deep.py").unlink()
    for _ in range(levels):  # what removes temporary files recurses, too
        os.chdir("..")
        os.rmdir("d")  # noqa: PTH106 - likewise


def test_a_mounted_config_map_is_listed_once(bundle: Path) -> None:
    write_bundle(bundle, {"..2024/a.py": DAG})
    (bundle / "..data").symlink_to("..2024")
    (bundle / "a.py").symlink_to("..data/a.py")
    assert list(listing(bundle)) == ["a.py"]


def test_a_bundle_that_is_itself_reached_by_a_link_is_listed(bundle: Path, tmp_path: Path) -> None:
    write_bundle(bundle, {"a.py": DAG})
    (tmp_path / "current").symlink_to(bundle)
    assert list(listing(tmp_path / "current")) == ["a.py"]


def test_a_name_that_no_record_can_carry_is_an_error(bundle: Path) -> None:
    write_bundle(bundle, {"new\nline.py": DAG, "x.txt": ""})
    (Path(os.fsdecode(os.fsencode(bundle) + b"/\xff.py"))).write_text(DAG)
    found = listing(bundle)
    assert [kind_of(file) for file in found.values()] == ["UnusableName", "UnusableName"]
    assert all(path.isascii() and path.isprintable() for path in found)


def test_a_fifo_is_passed_over(bundle: Path) -> None:
    os.mkfifo(bundle / "a.py")
    assert listing(bundle) == {}


def test_an_ignore_file_that_cannot_be_used_is_an_error(bundle: Path) -> None:
    write_bundle(bundle, {"a.py": DAG, ".airflowignore": b"\xff\xfe"})
    found = listing(bundle)
    assert kind_of(found[".airflowignore"]) == "UnreadableIgnoreFile"
    assert "a.py" in found


@pytest.mark.parametrize(
    ("lines", "path", "is_dir", "ignored"),
    [
        ("foo", "x/foo", False, True),
        ("/foo", "x/foo", False, False),
        ("foo/", "foo", True, True),
        ("foo/", "foo", False, False),
        ("*.py\n!a.py", "a.py", False, False),
        ("a/**/b", "a/x/y/b", False, True),
        ("a/**/b", "a/b", False, True),
        ("[!a].py", "b.py", False, True),
        ("foo # why", "foo", False, True),
        ("\\!x", "!x", False, True),
        ("/", "a", True, False),
    ],
)
def test_globs_follow_the_rules_of_gitignore(lines: str, path: str, is_dir: bool, ignored: bool) -> None:
    assert is_ignored(path, read_rules(lines, directory="", syntax="glob"), is_dir=is_dir) is ignored


def test_settings_come_from_the_environment_then_airflow_cfg_then_the_default(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text("[core]\ndag_ignore_file_syntax = regexp\ndag_discovery_safe_mode = False\n")
    settings = AirflowSettings.read({"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE": "true"})
    assert (settings.ignore_syntax, settings.safe_mode) == ("regexp", True)
    assert AirflowSettings.read({"AIRFLOW_HOME": "/nonexistent"}).ignore_syntax == "glob"


def test_a_regular_expression_that_never_ends_ends_the_run_and_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PATH_CPU_SECONDS", 0.2)
    write_bundle(bundle, {"in/.airflowignore": "x\n(a+)+$\n", f"in/{'a' * 40}.py": DAG})
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(RunError) as caught:
        listing(bundle, ignore_syntax="regexp")
    assert caught.value.kind == "IgnoreFileTooSlow"
    assert "'(a+)+$' of in/.airflowignore takes more than 0.2 s of CPU time to match in/aaaa" in str(caught.value)
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_patterns_that_each_take_less_are_bounded_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PATH_CPU_SECONDS", 1000.0)
    monkeypatch.setattr(discovery, "PATTERNS_CPU_SECONDS", 0.2)
    names = {f"{n}{'a' * 18}.py": DAG for n in range(500)}  # some 10 ms each
    write_bundle(bundle, {".airflowignore": "(a+)+$\n", **names})
    with pytest.raises(RunError, match=r"was matched last, when all patterns had taken 0\.2 s of CPU time"):
        listing(bundle, ignore_syntax="regexp")


def test_globs_that_take_long_together_are_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PATH_CPU_SECONDS", 0.2)
    globs = "\n".join(f"*{'a*' * 500}b{n}" for n in range(50))  # some 200 ms each
    write_bundle(bundle, {".airflowignore": globs, f"{'a' * 200}.py": DAG})
    with pytest.raises(RunError, match=r"takes more than 0\.2 s of CPU time to (match|compile)"):
        listing(bundle)


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 2000 + ")" * 2000])
def test_a_regular_expression_that_python_cannot_compile_is_an_error_of_the_ignore_file(
    bundle: Path, pattern: str
) -> None:
    write_bundle(bundle, {".airflowignore": pattern, "a.py": DAG})
    found = listing(bundle, ignore_syntax="regexp")
    assert (kind_of(found[".airflowignore"]), found["a.py"].problem) == ("UnreadableIgnoreFile", None)


# --- Shards ---------------------------------------------------------------------------------------------------------


def shard_listing(root: Path, shard: int, shards: int) -> list[ListedFile]:
    return Lister(str(root), SETTINGS, [PythonDagLoader()]).list_files(shard=shard, shards=shards)


def test_which_shard_a_file_belongs_to_never_changes() -> None:
    assert [shard_of(path, 5) for path in ("a.py", "ingest/b.py", "grüße.py")] == [2, 0, 0]


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_shards_divide_a_subdir_without_gap_or_overlap(bundle: Path, tmp_path: Path, shards: int) -> None:
    write_bundle(bundle, {f"{folder}/{number}.py": DAG for folder in ("a", "b") for number in range(20)})
    write_bundle(tmp_path, {"secret.py": DAG})
    for number in range(10):
        (bundle / "a" / f"link{number}.py").symlink_to(tmp_path / "secret.py")
    whole = listing(bundle)
    parts = [[file.path for file in shard_listing(bundle, shard, shards)] for shard in range(shards)]
    assert sorted(path for part in parts for path in part) == sorted(whole)


def test_files_of_other_shards_are_not_even_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(bundle, {f"{number}.py": DAG for number in range(20)})
    read: list[str] = []
    content = discovery._ContentOf.content
    monkeypatch.setattr(discovery._ContentOf, "content", lambda self: read.append(self.path) or content(self))
    found = shard_listing(bundle, 1, 4)
    assert 0 < len(found) < 20
    assert set(read) == {file.path for file in found}


@pytest.mark.parametrize("name", ["large.py", "large.yaml", "folder/.airflowignore"])
def test_no_more_is_read_of_a_file_than_a_source_may_have(bundle: Path, name: str) -> None:
    (bundle / "folder").mkdir(exist_ok=True)
    with (bundle / name).open("wb") as file:
        file.truncate(3 << 30)  # sparse
    tracemalloc.start()
    found = listing(bundle)[name]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.problem is not None
    assert found.problem.kind in {"SourceTooLarge", "UnreadableIgnoreFile"}
    assert "bytes" in found.problem.message
    assert most < 64 << 20

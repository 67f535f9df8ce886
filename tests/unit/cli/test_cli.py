"""The command line's manners: exit codes, error texts, formats. What needs a parser is in tests/integration/cli."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import pytest
import yaml

from dagbundle.cli import exits, inputs, output
from dagbundle.rollout.model import BundleKey
from dagbundle.store.dagstore import DagStore


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apply", "-f", "bundle.yaml"], "add --local"),
        (["apply", "-f", "bundle.yaml", "--local"], "name the folder that holds its files with --folder"),
        (["apply", "-f", "missing.yaml", "--local", "--folder", "."], "missing.yaml is not there"),
        (["apply", "-f", "missing.yaml", "--local", "--folder", "."], "or `-` for standard input"),
        (["apply", "-f", "", "--local", "--folder", "."], "the path is empty"),
        (["diff", "-f", ""], "the path is empty"),
        (["apply", "-f", "bundle.yaml", "--local", "--folder", ""], "the path is empty"),
        (["parse", ".", "--file-timeout", "abc"], "--file-timeout 'abc' is no time"),
        (["parse", ".", "--file-timeout", "5"], "write it as 30s, 2m or 1h30m"),
        (["parse", ".", "--file-timeout", "0s"], "the least is 1s"),
        (["apply", "-f", "bundle.yaml", "--local", "--folder", "nowhere"], "is no folder"),
        (["diff"], "either a BUNDLE or -f FILE"),
        (["diff"], "`dagbundle diff -f FILE --folder FOLDER` compares a folder with what is live"),
        (["diff", "--folder", "."], "and has none"),
        (["get", "bundles", "--database-url", ""], "it is empty: is a variable not set?"),
        (["parse", ".", "--python", ""], "it is empty: is a variable not set?"),
        (["parse", ""], "the path is empty"),
        (["parse", ".", "--root", ""], "the path is empty"),
        (["db", "backup", ""], "the path is empty"),
        (["apply", "-f", "bundle.yaml", "--local", "--folder", ".", "--grants", ""], "the path is empty"),
        (["get", "dags", "--bundle", ""], "'' is no bundle"),
        (["get", "errors", "--bundle", ""], "'' is no bundle"),
        (["diff", "team/none", "-f", "bundle.yaml"], "and not both: team/none and -f bundle.yaml"),
        (["parse", "nowhere.py"], "is not there"),
        (["history", "team/none"], "no bundle"),
        (["rollback", "team/none"], "There is no bundle team/none"),
        (["diff", "team/none"], "There is no bundle team/none"),
        (["resume", "team/none"], "There is no bundle team/none"),
        (["rollback", "a/b/c"], "is no bundle"),
        (["get", "dags", "--bundle", "team/none"], "no bundle"),
        (["dags", "details", "none"], "none"),
        (["nonsense"], "No such command"),
        (["apply", "--nonsense"], "No such option"),
        (["get", "dags", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_to_do(call: Any, arguments: list[str], words: str) -> None:
    call("db", "upgrade")
    code, out, err = call(*arguments)
    assert code == exits.Exit.USAGE
    assert words in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "names", "instead"),
    [
        (["-f", "bundle.yaml", "--folder", ".", "--from", "1"], "--from", "diff NAMESPACE/NAME --from 1"),
        (["-f", "bundle.yaml", "--folder", ".", "--to", "0"], "--to", "diff NAMESPACE/NAME --from 1"),
        (["-f", "bundle.yaml", "--from", "1", "--to", "2"], "--from and --to", "diff NAMESPACE/NAME --from 1"),
        (["team-sales/sales", "--folder", "."], "--folder", "diff -f FILE --folder FOLDER"),
        (["team-sales/sales", "--bundle", "a/b"], "--bundle", "diff -f FILE --folder FOLDER"),
        (["team-sales/sales", "--grants", "g.yaml"], "--grants", "diff -f FILE --folder FOLDER"),
        (["team-sales/sales", "--from", "0", "--python", "python3"], "--python", "diff -f FILE --folder FOLDER"),
    ],
)
def test_an_option_of_the_other_form_of_diff_is_a_usage_error_and_not_ignored(
    call: Any, tmp_path: pathlib.Path, arguments: list[str], names: str, instead: str
) -> None:
    with DagStore.open(f"sqlite:///{tmp_path / 'test.db'}", upgrade=True) as store:
        store.register_bundle(BundleKey("team-sales", "sales"), "team-sales.sales")
    code, out, err = call("diff", *arguments)
    assert (code, out) == (exits.Exit.USAGE, "")
    assert f"Error: {names} cannot be combined with" in err
    assert f"leave out {names}; " in err
    assert instead in err


@pytest.mark.parametrize(
    "arguments",
    [["diff"], ["rollback"], ["history"], ["resume"], ["delete"], ["get", "dags", "-b"], ["get", "errors", "-b"]],
)
def test_a_mistyped_bundle_is_an_error_that_names_near_ones(
    call: Any, tmp_path: pathlib.Path, arguments: list[str]
) -> None:
    with DagStore.open(f"sqlite:///{tmp_path / 'test.db'}", upgrade=True) as store:
        for name in ("sales", "stock"):
            store.register_bundle(BundleKey("team-sales", name), f"team-sales.{name}")
    for typed, hint in (
        ("team-sales/sale", "did you mean team-sales/sales?"),
        ("stock", "did you mean team-sales/stock?"),
        ("x/y", "`dagbundle get bundles` lists those that there are"),
    ):
        code, _, err = call(*arguments, typed)
        assert code == exits.Exit.USAGE
        assert "There is no bundle" in err
        assert hint in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "bundle.yaml holds no YAML document"),
        ("# nothing but a comment\n", "-f takes a file with a document of kind DagBundle"),
        ("a: [", "is no YAML that can be read"),
        ("kind: Role\n---\nb: 2\n", "bundle.yaml holds no DagBundle, but Role, no kind"),
        ("a: &x 1\nb: *x\n", "uses YAML aliases"),
        ("a: " + ":".join(["1"] * 50_000), "a number has more than 100 characters"),
        ("!!python/object/apply:os.system ['true']", "is no YAML that can be read"),
        ("a: " + "[" * 3000, "is no YAML that can be read"),
        ("x" * (inputs.MAX_RESOURCE_BYTES + 1), "larger than"),
        ("kind: \0", "is no YAML that can be read"),
    ],
)
def test_a_resource_that_cannot_be_read_is_refused(call: Any, text: str, words: str) -> None:
    pathlib.Path("bundle.yaml").write_text(text)
    code, _, err = call("apply", "-f", "bundle.yaml", "--local", "--folder", ".")
    assert code == exits.Exit.USAGE
    assert words in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('a: 1\nb: "x\nc: 2\n\n', "line 2, column 4: a quote is opened here, and never closed"),
        ("a: 1\nb: 'x\n---\nc: 2\n", "line 2, column 4: a quote is opened here, and never closed"),
        ("a: [1,\nb: 2\n", "line 1, column 4: a list's [ is opened here, and never closed"),
        ("a: {b: 1\n", "line 1, column 4: a mapping's { is opened here, and never closed"),
        ('a: 1\nb: "x\nc: "y"\n', "line 3, column 5: expected <block end>, but found '<scalar>'"),
        ('a: 1\nb: "x\nc: "y"\n', "The quote before it is opened in line 2: is its end missing there?"),
        ("a: 1\nb: c: d\n", "line 2, column 5: mapping values are not allowed here"),
        ("a:\n\tb: 1\n", "line 2, column 1: found character '\\t' that cannot start any token"),
    ],
)
def test_yaml_that_cannot_be_read_names_the_line_to_mend(call: Any, text: str, told: str) -> None:
    for name in ("bundle.yaml", "grants.yaml", "dagbundle.yaml"):
        before = pathlib.Path(name).read_text() if pathlib.Path(name).exists() else ""
        pathlib.Path(name).write_text(text)
        arguments = ["apply", "-f", "bundle.yaml", "--local", "--folder", ".", "--grants", "grants.yaml"]
        code, _, err = call(*arguments)
        assert code == exits.Exit.USAGE
        assert f"{name} is no YAML that can be read: " in err
        assert told in err
        assert "byte string" not in err
        pathlib.Path(name).write_text(before or "tenants: [{namespace: team-sales}]\n")


def test_a_key_that_is_given_twice_is_refused_with_its_line(call: Any) -> None:
    good = pathlib.Path("bundle.yaml").read_text()
    texts = {
        "bundle.yaml": good + "  rollout: {maxRemovedDags: 0}\n  rollout: {onImportError: Fail}\n",
        "grants.yaml": "tenants: []\ntenants: [{namespace: team-sales}]\n",
        "dagbundle.yaml": "bundle_config: {}\nbundle_config: {}\n",
    }
    for name, text in texts.items():
        pathlib.Path(name).write_text(text)
        arguments = ["apply", "-f", "bundle.yaml", "--local", "--folder", ".", "--grants", "grants.yaml"]
        code, _, err = call(*arguments)
        assert code == exits.Exit.USAGE
        assert f"{name}: the key " in err
        assert f"in line {len(text.splitlines())} is in its mapping already" in err
        pathlib.Path(name).write_text(good if name == "bundle.yaml" else "tenants: [{namespace: team-sales}]\n")


@pytest.mark.parametrize("url", ["sqlite://d.db", "sqlite://me@/d.db", "sqlite://localhost:1/d.db"])
def test_a_sqlite_url_that_names_a_host_is_no_database(call: Any, url: str) -> None:
    code, _, err = call("get", "bundles", "--database-url", url)
    assert code == exits.Exit.USAGE
    assert "names a host, which SQLite does not have" in err


@pytest.mark.parametrize(
    "arguments",
    [["apply", "--local"], ["diff"], ["dags", "reserialize"], ["diff", "--bundle", "team-sales/sales"]],
)
def test_a_bundle_that_the_files_hold_twice_is_an_error_with_both_places(call: Any, arguments: list[str]) -> None:
    text = pathlib.Path("bundle.yaml").read_text()
    pathlib.Path("several").mkdir()
    other = text.replace("name: sales", "name: stock")
    pathlib.Path("several/one.yaml").write_text(f"# a comment\n{other}---\n{text}")
    pathlib.Path("several/two.yaml").write_text(text)
    code, _, err = call(*arguments, "-f", "several", "--folder", ".")
    assert code == exits.Exit.USAGE
    line = 2 + len(other.splitlines())
    places = f"in several/one.yaml, line {line} and in several/two.yaml, line 1"
    assert f"Error: several holds DagBundle team-sales/sales more than once: {places}\n" in err
    assert "Hint: remove all but one of them" in err


def test_a_manifest_with_an_unknown_field_names_it(call: Any) -> None:
    pathlib.Path("dagbundle.yaml").write_text("version: v1beta\nparser: x\n")
    code, _, err = call("apply", "-f", "bundle.yaml", "--local", "--folder", ".")
    assert code == exits.Exit.USAGE
    assert (
        "parser: unknown field; did you mean 'bundle_parser'? "
        "(allowed: bundle_config, bundle_fetch_interval, bundle_parser, version)" in err
    )


def test_a_namespace_without_a_grant_is_not_enabled(call: Any) -> None:
    pathlib.Path("grants.yaml").write_text("tenants: []\n")
    code, _, err = call("apply", "-f", "bundle.yaml", "--local", "--folder", ".", "--grants", "grants.yaml")
    assert code == exits.Exit.USAGE
    assert "NamespaceNotEnabled" in err


def test_no_interpreter_is_told_with_the_option_that_names_one(call: Any) -> None:
    code, _, err = call("parse", ".", "--python", "nothing-like-this")
    assert code == exits.Exit.USAGE
    assert "names the Python of an environment that has Airflow" in err


def test_lists_are_empty_and_not_errors_on_a_new_database(call: Any) -> None:
    call("db", "upgrade")
    assert call("get", "bundles") == (0, "Nothing found.\n", "")
    code, out, _ = call("get", "dags", "-o", "json")
    assert (code, json.loads(out)) == (0, {"outcome": "OK", "items": [], "next_cursor": None})
    code, out, _ = call("get", "errors", "-o", "yaml")
    assert (code, yaml.safe_load(out)) == (0, {"outcome": "OK", "items": [], "next_cursor": None})


@pytest.mark.parametrize("command", ["get versions", "get tasks", "dags show", "dags details", "dags next-execution"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_dag_that_never_was_is_an_error_and_no_empty_list(call: Any, command: str, form: str) -> None:
    call("db", "upgrade")
    code, out, err = call(*command.split(), "nodag", "-o", form)
    assert code == exits.Exit.USAGE
    assert "DAG nodag" in err
    assert "Hint: `dagbundle get dags` lists the live DAGs" in err
    if form == "json":
        assert json.loads(out)["error"]["kind"] == "NotFoundError"
    else:
        assert out == ""


def test_a_database_that_cannot_be_reached_is_told_and_may_be_tried_again(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGBUNDLE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
    code, _, err = call("get", "bundles")
    assert code == exits.Exit.RETRY
    assert "Traceback" not in err


def test_a_downgrade_to_base_tells_what_is_lost_and_asks_for_the_databases_name(
    call: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DagStore.open(f"sqlite:///{tmp_path / 'test.db'}", upgrade=True) as store:
        store.register_bundle(BundleKey("team-sales", "sales"), "team-sales.sales")
    for answer in ("y\n", "base\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code, _, err = call("db", "downgrade", "base")
        assert (code, "1 bundle, 0 live DAGs and 0 revisions" in err) == (exits.Exit.FAILED, True)
        assert "The SQLite file is copied first." in err
    assert call("get", "bundles")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("test.db\n"))
    assert call("db", "downgrade", "base")[0] == 0
    assert "has no tables" in call("get", "bundles")[2]


def test_a_downgrade_that_cannot_be_asks_nothing_and_names_the_versions_that_can(call: Any) -> None:
    call("db", "upgrade")
    code, _, err = call("db", "downgrade", "nonsense")
    assert code == exits.Exit.FAILED
    assert "Continue?" not in err
    assert "Hint: choose one of base, 0001, 0002" in err


def test_the_version_is_printed(call: Any) -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert out[0].isdigit()


def test_a_tenants_text_cannot_drive_the_terminal() -> None:
    assert output.printable("a\x1b[2Jb\r\n\u202e") == "a\\x1b[2Jb\\r\\n\\u202e"
    assert output.block("one\ntwo\x07", "  ") == "  one\n  two\\x07"


def test_nor_can_it_where_an_error_quotes_it(call: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bundle.yaml").write_text('kind: DagBundle\n"\\u202e": 1\n')
    code, _, err = call("apply", "--local", "-f", str(tmp_path / "bundle.yaml"), "--folder", str(tmp_path))
    assert code == exits.Exit.USAGE
    assert "\\u202e: unknown field" in err


@pytest.mark.parametrize(
    ("text", "key"),
    [("team/sales", ("team", "sales")), ("team.sales", ("team", "sales")), ("sales", ("default", "sales"))],
)
def test_a_bundle_is_named_by_namespace_and_name(text: str, key: tuple[str, str]) -> None:
    found = inputs.bundle_key(text)
    assert (found.namespace, found.name) == key


def test_a_command_that_upgrades_an_older_file_names_the_versions_and_the_copy(
    call: Any, tmp_path: pathlib.Path
) -> None:
    call("db", "upgrade")
    assert call("get", "bundles")[2] == ""
    _, _, err = call("db", "downgrade", "0004", "--yes")
    assert "Use the older dagbundle now: any other command of this one upgrades a SQLite file again.\n" in err
    code, out, err = call("get", "bundles")
    assert (code, out) == (0, "Nothing found.\n")
    assert "test.db had tables of version 0004, and was upgraded to " in err
    (copy,) = [path for path in tmp_path.iterdir() if path.name.startswith("test.db.0004.")]
    assert f"the copy from before is {copy}. For an older dagbundle, run: dagbundle db downgrade 0004" in err
    assert call("get", "bundles")[2] == ""

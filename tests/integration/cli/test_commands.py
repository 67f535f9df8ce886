"""The rest of the command line with a real parser: what it answers, and what it never does."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from integration.cli.conftest import COMMAND, Command, MakeBundle
from support import airflow, pythons

pytestmark = pytest.mark.airflow

DAG = "from airflow.sdk import DAG\nfrom airflow.providers.standard.operators.empty import EmptyOperator\n"
PLAIN = DAG + 'with DAG("{0}", tags=["{1}"]):\n    EmptyOperator(task_id="t")\n'


def apply(command: Command, folder: pathlib.Path, *more: str, code: int | None = 0) -> dict[str, object]:
    answer = command(
        "apply", "-f", str(folder.parent / "resource.yaml"), "--local", "--folder", str(folder),
        "--python", airflow.python(), "-o", "json", *more, code=code,
    )  # fmt: skip
    return dict(answer.data)


def test_a_dag_that_depends_on_the_hash_seed_is_named_with_the_field_that_drifts(
    command: Command, bundle: MakeBundle
) -> None:
    drifting = DAG + 'with DAG("drifts", doc_md=" ".join({"a", "b", "c", "d", "e", "f", "g"})):\n    pass\n'
    folder = bundle(drifts=drifting, steady=PLAIN.format("steady", "x"))
    answer = command(
        "apply", "-f", str(folder.parent / "resource.yaml"), "--local", "--folder", str(folder),
        "--python", airflow.python(), "--check-determinism", code=1,
    )  # fmt: skip
    assert "DAG drifts in drifts.py drifts:" in answer.out
    assert "doc_md:" in answer.out
    assert answer.out.endswith("The apply did not begin: nothing was published.\n")
    assert "steady" not in answer.out
    assert "is not there" in command("get", "bundles", code=2).err


def test_parse_shows_every_dag_with_airflows_hash_and_every_file_with_its_errors(
    command: Command, bundle: MakeBundle
) -> None:
    folder = bundle(good=PLAIN.format("good", "x"), bad=DAG + "import nothing_like_this\n")
    answer = command("parse", str(folder), "--python", airflow.python(), "-o", "json", code=3)
    (dag,) = answer.data["dags"]
    assert (dag["dag_id"], dag["relative_fileloc"], len(dag["dag_hash"])) == ("good", "good.py", 32)
    assert dag["data"]["dag"]["dag_id"] == "good"
    bad, good = answer.data["files"]
    assert (bad["path"], bad["errors"][0]["kind"], bad["errors"][0]["line"]) == ("bad.py", "ModuleNotFoundError", 3)
    assert (good["path"], good["errors"]) == ("good.py", [])
    assert good["duration"] > 0


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("version: v1\n", 2, "'v1' is not allowed"),
        ("version: v1beta\nbundle_parser: SingelPass\n", 5, "there is no bundle parser 'SingelPass'"),
    ],
)
def test_parse_refuses_a_manifest_that_an_apply_refuses(
    command: Command, bundle: MakeBundle, text: str, code: int, told: str
) -> None:
    folder = bundle(one=PLAIN.format("one", "x"))
    (folder / "dagbundle.yaml").write_text(text)
    assert told in command("parse", str(folder), "--python", airflow.python(), code=code).err


def test_parse_shows_what_a_broken_file_printed_last_and_with_verbose_a_good_one_too(
    command: Command, bundle: MakeBundle
) -> None:
    printing = (
        "import sys\n{0}for n in range(30):\n    print('line', n, flush=True)\nprint('\\x1b[31mred', file=sys.stderr)\n"
    )
    folder = bundle(
        bad=printing.format(DAG) + "1 / 0\n",
        good=DAG + "print('all is well')\ndag = DAG('good')\n",
        silent=PLAIN.format("silent", "x"),
    )
    arguments = ("parse", str(folder), "--python", airflow.python())
    told = command(*arguments, code=3).out
    assert "        line 29\n" in told
    assert "line 5\n" not in told
    assert "\\x1b[31mred" in told
    assert "all is well" not in told
    assert "    It printed 12 bytes, last:\n        all is well\n" in command(*arguments, "--verbose", code=3).out
    files = {file["path"]: file["output"] for file in command(*arguments, "-o", "json", code=3).data["files"]}
    assert files["good.py"] == {"bytes": 12, "text": "all is well\n"}
    assert files["silent.py"] == {"bytes": 0, "text": ""}
    assert "line 0\n" in files["bad.py"]["text"]


def test_parse_refuses_a_dag_id_of_two_files_as_an_apply_does(command: Command, bundle: MakeBundle) -> None:
    one, two = (PLAIN.format(name, "x") for name in ("one", "two"))
    folder = bundle(a=one, b=one, c=one + two)
    arguments = ("parse", str(folder), "--python", airflow.python())
    files = command(*arguments, "-o", "json", code=3).data["files"]
    errors = {file["path"]: [error["message"] for error in file["errors"]] for file in files}
    applied = apply(command, folder, code=3)
    assert {item["path"]: [item["message"]] for item in applied["problems"]} == {  # type: ignore[attr-defined] # JSON
        path: found for path, found in errors.items() if found
    }
    assert list(errors) == ["a.py", "b.py", "c.py"]
    assert [bool(found) for found in errors.values()] == [False, True, False]
    (warning,) = files[2]["warnings"]
    assert warning["message"].startswith("dag_id 'one' is also defined in a.py, which comes first: rename one")
    told = command(*arguments, code=3).out
    assert "    DuplicateDagId\n        dag_id 'one' is also defined in a.py" in told
    assert told.splitlines()[-1] == "3 files, 2 DAGs, 1 broken file"
    given = ["-f", str(folder.parent / "resource.yaml"), "--local", "--folder", str(folder)]
    applied_again = command("apply", *given, "--python", airflow.python(), "--force", code=3).out
    assert "  .: 3 files, 2 DAGs, 1 broken\n" in applied_again
    assert applied_again.count("rename one of the two") == 2  # below the file, and of the file that lost one of two
    assert applied_again.splitlines()[-1].startswith("KeptLastGood: 1 broken file: b.py; 0 DAGs kept")


def test_a_yaml_file_alone_is_parsed_as_with_its_folder(command: Command, bundle: MakeBundle) -> None:
    loader = (
        "from pathlib import Path\nfrom airflow.sdk import DAG  # so that the file is looked at\n"
        "from dagfactory import load_yaml_dags\n"
        "load_yaml_dags(globals(), config_filepath=str(Path(__file__).parent / 'flows/read.yml'))\n"
    )
    folder = bundle(load=loader, other=PLAIN.format("other", "x"))
    (folder / "flows").mkdir()
    task = "{task_id: a, operator: airflow.providers.standard.operators.bash.BashOperator, bash_command: a}"
    for name in ("read", "beside"):
        text = f"{name}:\n  default_args: {{start_date: 2026-01-01}}\n  schedule: null\n  tasks: [{task}]\n"
        (folder / f"flows/{name}.yml").write_text(text)
    (folder / "flows/values.yml").write_text("a: 1\n")
    arguments = ("--root", str(folder), "--python", airflow.python(), "-o", "json")
    whole = command("parse", str(folder), *arguments).data
    files = [str(folder / f"flows/{name}.yml") for name in ("read", "beside", "values")]
    alone = command("parse", *files, *arguments).data
    assert alone["skipped"] == ["flows/values.yml"]
    assert [file["path"] for file in alone["files"]] == ["flows/beside.yml", "flows/read.yml", "load.py"]
    assert [file["readBy"] for file in alone["files"]] == [None, "load.py", None]
    for found, said in zip(alone["files"], [f for f in whole["files"] if f["path"] != "other.py"], strict=True):
        assert (found["errors"], found["warnings"]) == (said["errors"], said["warnings"])
    assert alone["dags"] == [dag for dag in whole["dags"] if dag["dag_id"] != "other"]
    assert [dag["dag_id"] for dag in alone["dags"]] == ["read"]
    told = command("parse", files[0], "--root", str(folder), "--python", airflow.python()).out
    assert "    load.py loads it, and has its DAGs\n" in told


def test_parse_says_once_what_a_file_printed_whose_process_died(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(dead=DAG + "import os\nprint('the last words', flush=True)\nos._exit(3)\n")
    told = command("parse", str(folder), "--python", airflow.python(), "--verbose", code=3).out
    assert told.count("the last words") == 1


def test_parse_takes_single_files(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(one=PLAIN.format("one", "x"), two=PLAIN.format("two", "x"), three=PLAIN.format("three", "x"))
    answer = command("parse", str(folder / "one.py"), str(folder / "two.py"), "--python", airflow.python())
    assert "one: 1 task" in answer.out
    assert "two: 1 task" in answer.out
    assert "three" not in answer.out
    assert answer.out.splitlines()[-1] == "2 files, 2 DAGs, 0 broken files"


def test_files_that_a_whole_folder_would_skip_are_skipped_and_the_roots_helpers_are_found(
    command: Command, bundle: MakeBundle
) -> None:
    folder = bundle(team_tools='NAME = "one"\n')
    (folder / "dagbundle.yaml").write_text("version: v1beta\n")
    (folder / "sales").mkdir()
    (folder / "sales/one.py").write_text("from team_tools import NAME\n" + DAG + "dag = DAG(NAME)\n")
    (folder / "sales/values.yaml").write_text("a: 1\n")
    files = [str(folder / name) for name in ("sales/one.py", "team_tools.py", "sales/values.yaml")]
    command.environment["DAGBUNDLE_PYTHON"] = airflow.python()
    answer = command("parse", *files, "-o", "json")
    assert [dag["relative_fileloc"] for dag in answer.data["dags"]] == ["sales/one.py"]
    assert answer.data["skipped"] == ["sales/values.yaml", "team_tools.py"]
    assert "team_tools.py  skipped" in command("parse", files[1]).out
    broken = command("parse", files[0], "--root", str(folder / "sales"), code=3)
    assert "No module named 'team_tools'" in broken.out
    assert command("parse", str(folder / "gone.py"), code=2).err


def test_a_dag_function_that_is_never_called_gets_a_warning(command: Command, bundle: MakeBundle) -> None:
    text = "from airflow import sdk\nfrom airflow.sdk import dag\n"
    folder = bundle(
        called=text
        + "@dag\ndef made():\n    pass\nmade()\n@dag(schedule=None)\ndef other():\n    pass\nd = [other][0]()\n",
        forgotten=text + "@dag\ndef one():\n    pass\n@sdk.dag(schedule=None)\ndef two():\n    pass\n",
    )
    answer = command("parse", str(folder), "--python", airflow.python(), "-o", "json")
    warned = {file["path"]: [warning["line"] for warning in file["warnings"]] for file in answer.data["files"]}
    assert warned == {"called.py": [], "forgotten.py": [4, 7]}
    assert "end the file with one()" in answer.data["files"][1]["warnings"][0]["message"]


def test_no_airflow_names_the_option_the_variable_and_the_project_file(
    command: Command, bundle: MakeBundle, tmp_path: pathlib.Path
) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare/bin/python")
    refused = command("parse", str(folder), "--python", python, code=5)
    named = ("--folder", str(folder), "--python", python)
    applied = command("apply", "-f", "resource.yaml", "--local", *named, code=5)
    for said in (refused.err, applied.out):
        for word in ("--python", "DAGBUNDLE_PYTHON", "[tool.dagbundle]"):
            assert word in said


def test_a_dag_file_sees_none_of_this_sides_settings(command: Command, bundle: MakeBundle) -> None:
    leak = DAG + "import os\nDAG('leak', doc_md=str(sorted(n for n in os.environ if n.startswith('DAGBUNDLE_'))))\n"
    folder = bundle(leak=leak + "d = DAG('seen', doc_md=str([n for n in os.environ if n.startswith('DAGBUNDLE')]))\n")
    answer = command("parse", str(folder), "--python", airflow.python(), "-o", "json")
    (dag,) = [dag for dag in answer.data["dags"] if dag["dag_id"] == "seen"]
    assert "DATABASE" not in dag["data"]["dag"]["doc_md"]


def test_reserialize_parses_every_file_again(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    apply(command, folder)
    answer = command(
        "dags", "reserialize", "-f", str(folder.parent / "resource.yaml"), "--folder", str(folder),
        "--python", airflow.python(), "-o", "json",
    )  # fmt: skip
    assert [file["unchanged"] for run in answer.data["runs"] for file in run["files"]] == [False]
    assert answer.data["revision"] == 1


def test_the_diff_of_a_folder_compares_it_with_what_is_live(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "old"))
    apply(command, folder)
    bundle(a=PLAIN.format("a", "new"))
    arguments = (
        "diff", "-f", str(folder.parent / "resource.yaml"), "--folder", str(folder), "--python", airflow.python()
    )  # fmt: skip
    answer = command(*arguments, "--exit-code", code=1)
    assert 'tags[0]: "old" → "new"' in answer.out
    assert command("get", "versions", "a", "-o", "json").data["items"][0]["number"] == 1


def test_an_environment_without_airflow_is_told_and_nothing_is_published(
    command: Command, bundle: MakeBundle, tmp_path: pathlib.Path
) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    answer = command(
        "apply", "-f", str(folder.parent / "resource.yaml"), "--local", "--folder", str(folder),
        "--python", str(tmp_path / "bare/bin/python"), code=5,
    )  # fmt: skip
    assert "RunFailed" in answer.out
    assert "irflow" in answer.out


def test_a_manifest_chooses_the_parser_where_the_resource_does_not(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    (folder / "dagbundle.yaml").write_text("version: v1beta\nbundle_parser: NoSuchBundleParser\n")
    found = apply(command, folder, code=5)
    assert found["reason"] == "RunFailed"
    assert "NoSuch" in str(found["message"])
    assert "SinglePass" in str(found["message"])


def test_the_proposals_manifest_limits_what_is_applied_and_parsed(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    (folder / "glacier").mkdir()
    (folder / "glacier/b.py").write_text(PLAIN.format("b", "x"))
    (folder / "dagbundle.yaml").write_text(
        "version: v1beta\nbundle_parser: StandardBundleParser\nbundle_fetch_interval: 5 minutes\n"
        "bundle_config:\n  - directories_to_scan:\n      - path: /glacier/\n        scan_interval: 1 day\n"
    )
    assert apply(command, folder)["revision"] == 1
    assert [dag["dag_id"] for dag in command("get", "dags", "-o", "json").data["items"]] == ["b"]
    answer = command("parse", str(folder), "--python", airflow.python(), "-o", "json")
    assert [file["path"] for file in answer.data["files"]] == ["glacier/b.py"]
    answer = command("parse", str(folder / "a.py"), "--python", airflow.python())
    assert "a.py  skipped: bundle_config.directories_to_scan of dagbundle.yaml names other folders" in answer.out


@pytest.mark.postgres
def test_on_postgresql_the_tables_are_made_on_request_and_the_same_story_holds(
    tmp_path: pathlib.Path, bundle: MakeBundle, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("empty_postgres_url")
    command = Command(tmp_path, url)
    folder = bundle(a=PLAIN.format("a", "x"))
    refused = command("get", "bundles", code=5)
    assert "dagbundle db upgrade" in refused.err
    command("db", "upgrade")
    assert apply(command, folder)["revision"] == 1
    bundle(a="this is no python # airflow dag")
    assert apply(command, folder, code=3)["reason"] == "KeptLastGood"
    assert command("get", "dags", "-o", "json").data["items"][0]["kept"]
    assert command("rollback", "team/b", "-o", "json").data["revision"] == 3


def test_two_applies_at_once_end_with_one_of_them_published_whole(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "x"))
    apply(command, folder)
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    (folder / "a.py").write_text(PLAIN.format("a", "one") + PLAIN.format("b", "one"))
    (other / "a.py").write_text(PLAIN.format("a", "two") + PLAIN.format("c", "two"))

    def call(place: pathlib.Path) -> int:
        return command(
            "apply", "-f", str(folder.parent / "resource.yaml"), "--local", "--folder", str(place),
            "--python", airflow.python(), code=None,
        ).code  # fmt: skip

    with concurrent.futures.ThreadPoolExecutor() as pool:
        codes = sorted(pool.map(call, [folder, other]))
    assert codes in ([0, 0], [0, 75])  # the older one is superseded, unless it was faster
    live = {row["dag_id"] for row in command("get", "dags", "-o", "json").data["items"]}
    assert live in ({"a", "b"}, {"a", "c"})


def hearing() -> None:
    """Let a program hear SIGINT, which a shell that was started in the background has its children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "arguments", "state"),
    [
        (signal.SIGINT, ["apply", "--local"], "nothing was published, and what is live of bundle team/b is as it was"),
        (signal.SIGTERM, ["apply", "--local"], "nothing was published, and what is live of bundle team/b is as it was"),
        (signal.SIGINT, ["apply", "--local", "--dry-run"], "nothing was changed"),
        (signal.SIGINT, ["apply", "--local", "--check-determinism"], "nothing was changed"),
        (signal.SIGINT, ["diff"], "nothing was changed"),
        (signal.SIGTERM, ["parse"], "nothing was changed"),
    ],
)
def test_an_interrupt_ends_the_parser_and_says_only_that_and_what_state_things_are_in(
    command: Command, bundle: MakeBundle, number: signal.Signals, arguments: list[str], state: str
) -> None:
    folder = bundle(endless=DAG + "while True:\n    pass\n")
    given = ["-f", str(folder.parent / "resource.yaml"), "--folder", str(folder)]
    command("db", "upgrade")
    process = subprocess.Popen(
        [COMMAND, *arguments, *([str(folder)] if arguments == ["parse"] else given), "--python", airflow.python()],
        cwd=folder.parent, env=command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hearing,  # noqa: PLW1509 - no thread of this process holds anything then
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "parsing .: 1 file\n"
        threads = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        assert children
        process.send_signal(number)
        assert process.wait(timeout=25) == 130  # the file's own limit is 30 s: this was quicker
        assert process.stderr.read() == f"Error: interrupted: {state}\n"
    assert not [child for child in children if pathlib.Path(f"/proc/{child}").exists()]
    assert {row["revision"] for row in command("get", "bundles", "-o", "json").data["items"]} <= {0}


def test_a_command_whose_output_nobody_reads_says_nothing_and_ends_as_failed(command: Command) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            [COMMAND, "crd"], env=command.environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (5, "")


def test_a_downgrade_that_is_declined_changes_nothing_and_ends_as_failed(command: Command) -> None:
    current = command("db", "upgrade").out
    done = command("db", "downgrade", "base", code=5)  # nobody answers
    assert "Aborted" in done.err
    assert command("db", "upgrade").out == current


def test_completion_is_offered_for_shells(command: Command) -> None:
    command.environment["SHELL"] = "/bin/bash"
    command.environment["_DAGBUNDLE_COMPLETE"] = "complete_bash"
    command.environment["COMP_WORDS"] = "dagbundle ro"
    command.environment["COMP_CWORD"] = "1"
    assert "rollback" in command(code=None).out


@pytest.mark.parametrize("python", [python for python in (sys.executable, pythons.oldest()) if python])
def test_the_parser_is_one_file_that_runs_on_python_3_10_and_newer(tmp_path: pathlib.Path, python: str) -> None:
    archive = tmp_path / "parser.pyz"
    subprocess.run([sys.executable, "-m", "dagbundle.runtime.parser_home", str(archive)], check=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, str(archive), "version"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip()


def test_garbage_is_collected_and_what_is_live_stays(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(a=PLAIN.format("a", "one"))
    apply(command, folder)
    for tag in ("two", "three"):
        bundle(a=PLAIN.format("a", tag))
        apply(command, folder)
    assert "1 version" in command("db", "gc", "--keep", "2").out
    assert [row["number"] for row in command("get", "versions", "a", "-o", "json").data["items"]] == [3, 2]
    assert command("rollback", "team/b", "-o", "json").data["revision"] == 4


def test_check_determinism_takes_its_bundle_from_standard_input_too(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(steady=PLAIN.format("steady", "x"))
    done = subprocess.run(
        [COMMAND, "apply", "-f", "-", "--local", "--folder", folder, "--python", airflow.python(),
         "--check-determinism"],
        input=(folder.parent / "resource.yaml").read_text(),
        env=command.environment, cwd=command.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Deterministic: " in done.stdout


def test_parse_shows_its_root_and_why_each_file_was_skipped(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(one=PLAIN.format("one", "x"), ignored=PLAIN.format("two", "x"), helper="X = 1\n")
    (folder / ".airflowignore").write_text("ignored.py\n")
    python = ("--python", airflow.python())
    files = [str(folder / f"{name}.py") for name in ("one", "ignored", "helper")]
    shown = command("parse", *files, *python).out
    assert shown.splitlines()[0] == f"root {folder.parent} (it holds the DagBundle resource.yaml)"
    assert "\nbundle/ignored.py  skipped: .airflowignore names it\n" in shown
    assert "\nbundle/helper.py  skipped: it does not look like it holds DAGs (" in shown
    assert command("parse", str(folder), *python).out.startswith(f"root {folder} (the folder that was given)\n")
    found = command("parse", *files, *python, "-o", "json").data
    assert (found["root"], found["skipped"]) == (str(folder.parent), ["bundle/helper.py", "bundle/ignored.py"])


def test_parse_says_that_nothing_was_parsed_and_ends_with_2_for_a_folder_and_with_0_for_files(
    command: Command, bundle: MakeBundle
) -> None:
    folder = bundle(helper="X = 1\n")
    python = ("--python", airflow.python())
    shown = command("parse", str(folder / "helper.py"), *python).out
    assert shown.splitlines()[-1] == "Nothing was parsed: no file that was given holds DAGs."
    refused = command("parse", str(folder), *python, "-o", "json", code=2)
    assert refused.data["error"]["message"] == f"nothing was parsed: {folder} holds no file with DAGs"
    assert ".airflowignore" in refused.data["error"]["hint"]


def test_parse_advises_with_its_own_options_and_apply_with_fields(command: Command, bundle: MakeBundle) -> None:
    folder = bundle(slow=DAG + "import time\ntime.sleep(20)\n")
    python = ("--python", airflow.python())
    shown = command("parse", str(folder), *python, "--file-timeout", "1s", code=3).out
    assert "or raise --file-timeout\n" in shown
    assert "spec.parser" not in shown
    (folder.parent / "resource.yaml").write_text(
        (folder.parent / "resource.yaml").read_text().replace("spec: {", "spec: {parser: {fileTimeout: 1s}, ")
    )
    (problem,) = apply(command, folder, code=3)["problems"]  # type: ignore[misc] # JSON
    assert "or raise spec.parser.fileTimeout" in problem["message"]

"""The benchmarks' own arithmetic and files, since nobody would notice a wrong ratio."""

import ast
import pathlib
import sys

import pytest

from bench import corpus, harness


def test_a_ratio_is_the_median_of_the_rounds_and_says_how_many_times_better_we_are() -> None:
    row = harness.compare("cpu", [(1.0, 10.0), (2.0, 10.0), (1.0, 30.0)], unit="s", better="less")
    assert (row.ours, row.peer, row.ratio) == (1.0, 10.0, 10.0)
    row = harness.compare("speed", [(40.0, 10.0)], unit="files/s", better="more")
    assert row.ratio == 4.0


def test_a_command_that_fails_gives_no_figure_but_the_end_of_its_output(tmp_path: pathlib.Path) -> None:
    with pytest.raises(harness.BenchError, match="ended with 3:\nno such luck"):
        harness.run([sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], env={}, folder=tmp_path)


def test_the_cpu_time_of_a_commands_children_is_counted(tmp_path: pathlib.Path) -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    assert harness.run([sys.executable, "-c", parent], env={}, folder=tmp_path).cpu > 0.3


def test_the_memory_of_a_child_that_a_thread_started_is_counted(tmp_path: pathlib.Path) -> None:
    allocate = "import time; kept = bytearray(50_000_000); time.sleep(0.5)"
    start = f"subprocess.run([sys.executable, '-c', {allocate!r}], check=True)"
    parent = f"import subprocess, sys, threading; threading.Thread(target=lambda: {start}).start()"
    usage = harness.run([sys.executable, "-c", parent], env={}, folder=tmp_path, watch_memory=True)
    assert usage.memory > usage.child_memory > 50_000_000


def test_a_generated_corpus_has_the_files_and_dags_that_it_claims(tmp_path: pathlib.Path) -> None:
    made = corpus.generated(tmp_path / "made", files=3, dags_per_file=4)
    files = sorted(made.folder.iterdir())
    dags = [
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "dag_id"
    ]
    assert (len(files), len({ast.unparse(dag) for dag in dags})) == (made.files, made.dags) == (3, 12)

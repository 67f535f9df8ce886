"""Files that share a child: whatever one of them leaves behind, the others are as they would be alone."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import pathlib

import pytest

from unit.parser.conftest import Parse, Report, run_stub, write_bundle

# The result of a file that the state of its process shows in.
WITNESS = """
import builtins, json, locale, logging, os, random, sys, threading, time, warnings
DAGS = {"%s": {
    "json": json.dumps({"a": 1}), "environ": os.environ.get("POISON"), "path": "/poison" in sys.path,
    "random": random.getstate() == random.Random(7).getstate(), "cwd": os.getcwd() == "/usr", "limit": sys.getrecursionlimit(), "threads": threading.active_count(),
    "filters": len(warnings.filters), "builtin": hasattr(builtins, "poison"), "sum": sum([1, 2]),
    "handlers": len(logging.root.handlers), "zone": time.tzname, "module": "poison" in sys.modules,
    "trace": sys.gettrace() is None, "stdout": sys.stdout is sys.__stdout__,
}}
"""
PLAIN = 'DAGS = {"%s": {"a": 1}}\n'

POISONS = {
    "rewrites json.dumps": "import json\njson.dumps = lambda *a, **k: 'poison'",
    "rewrites a builtin": "import builtins\nbuiltins.sum = lambda *a: 42",
    "adds a builtin": "import builtins\nbuiltins.poison = 1",
    "sets an environment variable": "import os\nos.environ['POISON'] = '1'",
    "extends sys.path": "import sys\nsys.path.insert(0, '/poison')",
    "changes the working directory": "import os\nos.chdir('/usr')",
    "raises the recursion limit": "import sys\nsys.setrecursionlimit(5000)",
    "leaves a thread running": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "changes the filters of warnings": "import warnings\nwarnings.simplefilter('error')",
    "adds a log handler": "import logging\nlogging.root.addHandler(logging.NullHandler())",
    "changes the time zone": "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()",
    "plants a module": "import sys, types\nsys.modules['poison'] = types.ModuleType('poison')",
    "sets a trace function": "import sys\nsys.settrace(lambda *a: None)",
    "replaces stdout": "import io, sys\nsys.stdout = io.StringIO()",
    "seeds random": "import random\nrandom.seed(7)",
    "changes the locale": "import locale\nlocale.setlocale(locale.LC_ALL, 'C.UTF-8' if locale.setlocale(0) == 'C' else 'C')",
    "handles a signal": "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "leaves a file open": "import sys\nkept = sys.modules.setdefault('sys', sys).kept = open('/dev/null')",
    "prints": "print('poison')",
    "opens a socket": "import socket\nsocket.socket().close()",
    "raises": "raise ValueError('poison')",
    "exits": "import os\nos._exit(1)",
    "crashes": "import os\nos.abort()",
    "hangs": "while True: pass",
}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One run in which, for each poison, a plain file, the poison and a witness are due in one child, in this order."""
    files: dict[str, str | bytes] = {"alone.py": WITNESS % "witness"}
    for number, poison in enumerate(POISONS.values()):
        files[f"shared/{number:02}_a.py"] = PLAIN % f"a{number}"
        files[f"shared/{number:02}_b.py"] = f"{poison}\n{PLAIN % f'b{number}'}"
        files[f"shared/{number:02}_c.py"] = WITNESS % "witness"
    folder = tmp_path_factory.mktemp("poisoned")
    bundle = write_bundle(folder / "bundle", files)
    return run_stub(bundle, folder / "request.json", processes=1, limits={"fileSeconds": 1})


@pytest.mark.parametrize("number", range(len(POISONS)), ids=list(POISONS))
def test_a_file_after_one_that_poisons_their_child_is_as_it_would_be_alone(poisoned: Report, number: int) -> None:
    assert poisoned.closed, poisoned.stderr
    alone, shared = poisoned.files["alone.py"], poisoned.files[f"shared/{number:02}_c.py"]
    assert shared["errors"] == alone["errors"] == []
    assert shared["dags"][0]["data"] == alone["dags"][0]["data"]
    assert [dag["dag_id"] for dag in poisoned.files[f"shared/{number:02}_a.py"]["dags"]] == [f"a{number}"]


def test_a_witness_sees_poison_where_nothing_is_checked(parse: Parse) -> None:
    files: dict[str, str | bytes] = {"alone.py": WITNESS % "witness"}
    files |= {f"p{number:02}.py": f"{poison}\n{WITNESS % 'witness'}" for number, poison in enumerate(POISONS.values())}
    report = parse(files, limits={"fileSeconds": 1})
    clean = report.files["alone.py"]["dags"][0]["data"]
    seen = [name for number, name in enumerate(POISONS) if report.files[f"p{number:02}.py"]["dags"]
            and report.files[f"p{number:02}.py"]["dags"][0]["data"] != clean]  # fmt: skip
    assert len(seen) >= 14, "the poisons do show, so that the test above proves something"


def test_the_poisoning_file_is_reported_as_it_would_be_alone(parse: Parse) -> None:
    files = {"shared/a.py": PLAIN % "a", "shared/b.py": f"print('hello')\n{PLAIN % 'b'}", "shared/c.py": PLAIN % "c"}
    report = parse(files, processes=1)
    assert report.files["shared/b.py"]["output"] == {"bytes": 6, "text": "hello\n"}


def test_plain_files_do_share_a_child(parse: Parse) -> None:
    report = parse({f"shared/{name}.py": f"import os\nDAGS = {{'{name}': {{'pid': os.getpid()}}}}" for name in "abc"})
    assert len({record["dags"][0]["data"]["pid"] for record in report.files.values()}) < 3


def test_other_files_do_not_share_a_child(parse: Parse) -> None:
    report = parse({f"{name}.py": f"import os\nDAGS = {{'{name}': {{'pid': os.getpid()}}}}" for name in "abc"})
    assert len({record["dags"][0]["data"]["pid"] for record in report.files.values()}) == 3


@pytest.mark.parametrize(("plain", "first"), [(3, "shared/00.py"), (65, "alone.py")])
def test_files_that_have_a_child_each_begin_first_unless_few_files_share_children(
    tmp_path: pathlib.Path, plain: int, first: str
) -> None:
    files: dict[str, str | bytes] = {f"shared/{number:02}.py": PLAIN % f"a{number}" for number in range(plain)}
    bundle = write_bundle(tmp_path / "bundle", {**files, "alone.py": PLAIN % "alone"})
    report = run_stub(bundle, tmp_path / "request.json", processes=1)
    assert report.closed, report.stderr
    assert next(iter(report.files)) == first

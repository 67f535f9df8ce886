"""Files that share a child: whatever one of them leaves behind, the others are as they would be alone."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import pytest

from unit.parser.conftest import Parse

# The result of a file that the state of its process shows in.
WITNESS = """
import builtins, json, locale, logging, os, random, sys, threading, time, warnings
random.seed()
DAGS = {"%s": {
    "json": json.dumps({"a": 1}), "environ": os.environ.get("POISON"), "path": "/poison" in sys.path,
    "cwd": os.getcwd() == "/usr", "limit": sys.getrecursionlimit(), "threads": threading.active_count(),
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


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_a_file_after_one_that_poisons_their_child_is_as_it_would_be_alone(parse: Parse, poison: str) -> None:
    files = {
        "alone.py": WITNESS % "witness",
        "shared/a.py": PLAIN % "a",
        "shared/b.py": f"{poison}\n{PLAIN % 'b'}",
        "shared/c.py": WITNESS % "witness",
        "shared/d.py": PLAIN % "d",
    }
    report = parse(files, processes=1, limits={"fileSeconds": 1})
    assert report.closed, report.stderr
    alone, shared = report.files["alone.py"], report.files["shared/c.py"]
    assert shared["errors"] == alone["errors"] == []
    assert shared["dags"][0]["data"] == alone["dags"][0]["data"]
    assert [dag["dag_id"] for path in ("a", "d") for dag in report.files[f"shared/{path}.py"]["dags"]] == ["a", "d"]


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

"""What a DAG file can do that runs as the very user of the process that holds the run's token, as in a tenant's pod.

It can read the token's file. It cannot speak for its run with it, since it has no key, and finds none in any process.
"""

# ruff: noqa: E501 - a DAG file as a literal is easier to read in long lines

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from integration.parser.conftest import NEWEST, find_airflow
from integration.server.conftest import PARSER, Caller, World
from support import reports
from support.store_process import Process

pytestmark = [pytest.mark.postgres, pytest.mark.airflow]
USER = 60_021
THIEF = """
import ctypes, gzip, http.client, json, os, pathlib, ssl, struct
from airflow.sdk import DAG

libc = ctypes.CDLL(None, use_errno=True)
found = {"user": os.getuid(), "opened": [], "asked": {}, "token": pathlib.Path(TOKEN).read_text().strip() == SECRET}
own = os.getpid()

def attempt(what, pid, do):
    try:
        if do():
            found["opened"].append(f"{what} of {pid}")
    except OSError:
        pass

def open_all(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        os.close(os.open(f"/proc/{pid}/fd/{name}", os.O_RDWR))
        return True

def pidfd_getfd(pid):
    descriptor = os.pidfd_open(pid)
    return any(libc.syscall(438, descriptor, number, 0) >= 0 for number in range(64))

def peek(pid):
    with open(f"/proc/{pid}/mem", "rb") as memory:
        return True

def look(pid):
    place = ctypes.create_string_buffer(8)
    ours = (ctypes.c_void_p * 2)(ctypes.addressof(place), 8)
    theirs = (ctypes.c_void_p * 2)(id(libc), 8)
    return libc.process_vm_readv(pid, ours, 1, theirs, 1, 0) > 0

above, pid = [], os.getppid()
while pid > 1:
    above.append(pid)
    pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
same = [pid for pid in above if os.stat(f"/proc/{pid}/task").st_uid in (os.getuid(), 0) and "Uid:\\t%d\\t" % os.getuid() in pathlib.Path(f"/proc/{pid}/status").read_text()]
found["above"] = len(same)
for pid in same:
    attempt("environment", pid, lambda: pathlib.Path(f"/proc/{pid}/environ").read_bytes())
    attempt("memory", pid, lambda: peek(pid))
    attempt("memory, by process_vm_readv,", pid, lambda: look(pid))
    attempt("descriptors", pid, lambda: open_all(pid))
    attempt("descriptors, by pidfd,", pid, lambda: pidfd_getfd(pid))
    attempt("maps", pid, lambda: pathlib.Path(f"/proc/{pid}/maps").read_bytes())
    attempt("ptrace", pid, lambda: libc.ptrace(16, pid, None, None) == 0)
found["variables"] = [name for name in os.environ if "DAGBUNDLE" in name]

forged = gzip.compress(bytes.fromhex(FORGED))
for name, key in (("none", None), ("another", "0" * 64)):
    for method, path, body in (("GET", "", None), ("POST", "/report", forged), ("GET", "/variables/sales_x", None)):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=context, timeout=10)
        headers = {"Authorization": f"Bearer {SECRET}", "Content-Encoding": "gzip", **({"Dagbundle-Key": key} if key else {})}
        connection.request(method, f"/v1/runs/{RUN}{path}", body, headers)
        answer = connection.getresponse()
        found["asked"][f"{method} {path} with {name}"] = [answer.status, json.loads(answer.read()).get("reason")]
        connection.close()
dag = DAG("honest", doc_md=json.dumps(found))
"""


# What a pod's first process is: a user without a way to become another, whom nothing protects from itself.
LAUNCH = f"""
import os, sys
sys.path.insert(0, {str(PARSER.parent)!r})
from dagbundle_parser import descent, handing, mounts, sandbox
from dagbundle_parser.__main__ import main
if os.geteuid() == 0:
    mounts.separate()  # the interpreter may lie where only root can read
    handing.Handing("", handing.needed_by_python(), os.getcwd()).cover({USER}, os.environ["HANDS"])
    sandbox._become({USER}, {USER})
    descent.prctl(descent.PR_SET_DUMPABLE, 1)
sys.argv = ["parser", "work"]
main()
"""


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A place that the other user can read; only root has one to become."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        (path / "bundle").mkdir()
        (path / "home").mkdir()
        (path / "hands").mkdir(mode=0o700)
        (path / "home").chmod(0o777)
        yield path


@pytest.fixture
def found(world: World, server: Process, folder: pathlib.Path) -> Any:
    """What the thief found, as its own DAG says in the report that arrived."""
    world.root = folder / "bundle"
    job = world.job()
    pod: Caller = world.pod(job)
    token = folder / "token"
    token.write_text(pod.token)
    token.chmod(0o444)
    forged = b"".join(reports.lines(pod.request, [reports.parsed("forged.py", "forged")]))
    names = {"TOKEN": str(token), "SECRET": pod.token, "PORT": server.port, "RUN": pod.run, "FORGED": forged.hex()}
    lines = [f"{name} = {value!r}" for name, value in names.items()]
    (folder / "bundle" / "thief.py").write_text("\n".join(lines) + THIEF)
    airflow = find_airflow(NEWEST, folder / "home")
    (folder / "home" / "airflow").chmod(0o777)
    done = subprocess.run(
        [str(airflow.python), "-c", LAUNCH], capture_output=True, check=False, text=True, timeout=120, cwd=folder,
        env={
            **airflow.environment, "DAGBUNDLE_SERVER_URL": server.url, "DAGBUNDLE_RUN": pod.run,
            "DAGBUNDLE_TOKEN_FILE": str(token), "DAGBUNDLE_SERVER_CA": pod.authority.pem,
            "DAGBUNDLE_SCRATCH": str(folder / "home"), "HANDS": str(folder / "hands"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = world.store.outcomes(job.rollout_id)
    assert outcome.closed
    (file,) = outcome.files
    assert (file.path, file.problems) == ("thief.py", ())
    ((dag_id, sha256),) = file.dags
    assert dag_id == "honest"
    return json.loads(world.store.content(sha256).header["dag"]["doc_md"])


def test_who_reads_the_token_of_its_pod_can_neither_forge_its_report_nor_ask_in_its_name(found: dict[str, Any]) -> None:
    assert found["token"], "the token itself is a file that the pod's user reads"
    assert len(found["asked"]) == 6
    assert set(map(tuple, found["asked"].values())) == {(403, "KeyRefused")}


def test_no_process_above_a_file_is_open_to_it_though_they_share_a_user(found: dict[str, Any]) -> None:
    assert found["above"] == 3, "the process that knows the server, the keeper and the parser"
    assert found["opened"] == []
    assert found["variables"] == []

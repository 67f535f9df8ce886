"""What a child is: its user, capabilities, descriptors and limits, as seen from inside."""

# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path
from typing import Any

import pytest

from unit.parser.conftest import Report, run_stub, write_bundle

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its user")
SELF = """
import os, re, resource
status = open('/proc/self/status').read()
def field(name):
    return re.search(name + r':[ \\t]*(.*)', status)[1].split()
DAGS = {'self': {
    'uid': field('Uid'), 'gid': field('Gid'), 'groups': field('Groups'), 'caps': field('CapEff'), 'permitted': field('CapPrm'),
    'no_new_privs': field('NoNewPrivs'), 'core': resource.getrlimit(resource.RLIMIT_CORE)[0],
    'fds': sorted(int(n) for n in os.listdir('/proc/self/fd')), 'session': os.getsid(0) == os.getpid(),
    'stdin': os.readlink('/proc/self/fd/0'),
}}
opened = []
for number in range(64):
    try:
        opened.append(os.open(f'/proc/{os.getppid()}/fd/{number}', os.O_WRONLY))
    except OSError:
        pass
DAGS['self']['parent'] = opened
"""


def look(folder: Path, env: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    bundle = write_bundle(folder / "bundle", {"self.py": SELF})
    report = run_stub(bundle, folder / "request.json", env=env, **changes)
    data: dict[str, Any] = report.files["self.py"]["dags"][0]["data"]
    return data


@as_root
def test_as_root_a_child_is_a_spare_user_without_privileges(tmp_path: Path) -> None:
    seen = look(tmp_path)
    assert len(set(seen["uid"])) == len(set(seen["gid"])) == 1
    assert 60_578 <= int(seen["uid"][0]) <= 61_183
    assert seen["groups"] == []
    assert seen["no_new_privs"] == ["1"]


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_as_root_a_child_holds_no_capability_whether_or_not_paths_are_closed_to_it(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    seen = look(tmp_path)
    assert seen["caps"] == seen["permitted"] == [f"{0:016x}"]


@as_root
def test_the_user_of_the_request_is_who_files_run_as(tmp_path: Path) -> None:
    assert look(tmp_path, runAsUser=50_010)["uid"] == ["50010"] * 4


@as_root
def test_files_are_never_run_as_root(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", {"self.py": SELF})
    report = run_stub(bundle, tmp_path / "request.json", runAsUser=0)
    assert not report.closed
    assert "CannotDropPrivileges" in report.stderr or "DAG files are not run as root" in report.stderr


@pytest.mark.parametrize("env", [{}, {"STUB_UID": "60003"}] if os.geteuid() == 0 else [{}])
def test_a_child_holds_nothing_of_the_parsers(tmp_path: Path, env: dict[str, str]) -> None:
    seen = look(tmp_path, env)
    assert len(seen["fds"]) <= 6, "0, 1, 2, its own report, faulthandler's pipe, and the listing itself"
    assert (seen["parent"], seen["stdin"], seen["core"], seen["session"]) == ([], "/dev/null", 0, True)


@as_root
def test_children_of_two_parsers_at_once_are_different_users(tmp_path: Path) -> None:
    def one(number: int) -> Report:
        source = (
            f"import os\nDAGS = {{'x': {{'uid': os.getuid()}}}}\nfd = os.open({str(tmp_path / 'gate')!r}, os.O_RDWR)\n"
        )
        bundle = write_bundle(
            tmp_path / str(number), {"a.py": source + f"os.read(fd, 1) if {number} else os.write(fd, b'x')\n"}
        )
        return run_stub(bundle, tmp_path / f"{number}.json")

    os.mkfifo(tmp_path / "gate")
    (tmp_path / "gate").chmod(0o666)
    keep = os.open(tmp_path / "gate", os.O_RDWR)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reports = list(pool.map(one, (0, 1)))
    os.close(keep)
    assert all(report.closed and not report.files["a.py"]["errors"] for report in reports)

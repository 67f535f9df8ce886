"""As root, files read of what is closed to others only what they need, and hold no capability for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagbundle_parser import copies, mounts, scratch
from dagbundle_parser.errors import RunError
from unit.parser.conftest import ROOT, STUB, Report, request_for, run_stub, write_bundle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are users of their own")

SECRET = "the secret"
LOOKS = """
import os
def look(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
DAGS = {{'NAME': {{'secret': look({secret!r}), 'shadow': look('/etc/shadow'), 'file': __file__, 'cwd': os.getcwd()}}}}
"""


@pytest.fixture
def machine(machine: Path) -> Path:
    """Add a closed folder with secrets of root's."""
    closed = machine / "closed"
    closed.mkdir(mode=0o700)
    (closed / "secret").write_text(SECRET)
    (closed / "secret").chmod(0o600)
    (closed / "open").write_text(SECRET)
    return machine


def look(secret: Path, name: str = "a") -> str:
    return LOOKS.format(secret=str(secret)).replace("NAME", name)


def parse(machine: Path, bundle: Path, **changes: object) -> Report:
    env = {"TMPDIR": str(machine / "tmp"), "HOME": str(machine / "home")}
    report = run_stub(bundle, machine / "request.json", env=env, **changes)  # type: ignore[arg-type]
    assert list((machine / "tmp").iterdir()) == []
    return report


def data(report: Report, path: str) -> dict[str, object]:
    record = report.files[path]
    assert record["errors"] == []
    found: dict[str, object] = record["dags"][0]["data"]
    return found


def test_a_closed_file_is_parsed_and_a_hostile_one_beside_it_reads_nothing_else(machine: Path) -> None:
    secret = machine / "closed" / "secret"
    bundle = write_bundle(machine / "bundle", {"a.py": look(secret), "hostile.py": look(secret, "b")})
    (bundle / "a.py").chmod(0o600)
    report = parse(machine, bundle)
    for path in ("a.py", "hostile.py"):
        seen = data(report, path)
        assert (seen["secret"], seen["shadow"]) == ("PermissionError", "PermissionError")


@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_a_bundle_below_closed_folders_is_parsed_and_what_lies_beside_it_is_not_seen(machine: Path, mode: int) -> None:
    (machine / "closed" / "inner").mkdir(mode=0o700)
    bundle = write_bundle(machine / "closed" / "inner" / "bundle", {"a.py": look(machine / "closed" / "open")})
    bundle.chmod(mode)
    seen = data(parse(machine, bundle), "a.py")
    assert seen["secret"] == "FileNotFoundError", "it is open, and the folder around it is not"
    assert seen["file"] == str(bundle / "a.py")


def test_a_bundle_is_found_by_a_link_of_roots(machine: Path) -> None:
    write_bundle(machine / "closed" / "bundle", {"a.py": look(machine / "closed" / "open")})
    (machine / "closed" / "link").symlink_to("bundle")
    assert data(parse(machine, machine / "closed" / "link"), "a.py")["secret"] == "FileNotFoundError"


def test_a_link_of_another_user_chooses_nothing_of_roots(machine: Path) -> None:
    theirs = machine / "theirs"
    theirs.mkdir()
    os.chown(theirs, 60_050, 60_050)
    write_bundle(machine / "closed" / "bundle", {"a.py": look(machine / "closed" / "open")})
    (theirs / "link").symlink_to(machine / "closed" / "bundle")
    os.chown(theirs / "link", 60_050, 60_050, follow_symlinks=False)
    (error,) = parse(machine, theirs / "link").files["a.py"]["errors"]
    assert f"{machine / 'closed'} is closed to user" in error["message"]


def test_an_interpreter_below_a_closed_home_is_used_and_the_home_is_theirs_to_write_in(machine: Path) -> None:
    home = machine / "home"
    home.mkdir(mode=0o700)
    (home / "secret").write_text(SECRET)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / ".venv")], check=True)
    (site,) = (home / ".venv" / "lib").glob("python*/site-packages")
    (site / "lazily.py").write_text("VALUE = 'found'\n")
    source = look(home / "secret") + "import lazily, subprocess, sys, pathlib\nDAGS['a']['lazily'] = lazily.VALUE\n"
    source += "DAGS['a']['python'] = subprocess.check_output([sys.executable, '-c', 'print(1)'], text=True)\n"
    source += "(pathlib.Path.home() / 'new').touch()\n"
    source += "home = pathlib.Path.home()\nfor name in ('.venv', '.venv/lib'):\n    try:\n"
    source += "        os.rename(home / name, home / 'x')\n"
    source += "    except OSError:\n        pass\n    else:\n        DAGS['a']['renamed'] = name\n"
    bundle = write_bundle(machine / "bundle", {"a.py": source})
    env = {"TMPDIR": str(machine / "tmp"), "HOME": str(home)}
    python = str(home / ".venv" / "bin" / "python")
    seen = data(run_stub(bundle, machine / "request.json", env=env, python=python), "a.py")
    assert (seen["secret"], seen["lazily"], seen["python"]) == ("FileNotFoundError", "found", "1\n")
    assert "renamed" not in seen
    assert sorted(path.name for path in home.iterdir()) == [".venv", "secret"]


def test_modules_folders_and_data_that_are_closed_are_read_with_their_times_and_modes(machine: Path) -> None:
    source = look(machine / "closed" / "secret") + "import helper, package.inner, time\nDAGS['a'].update(\n"
    source += (
        "    helper=helper.VALUE, inner=package.inner.VALUE, data=look(os.path.dirname(__file__) + '/data/x/y'),\n"
    )
    source += "    link=os.readlink(os.path.dirname(__file__) + '/data/link'), size=os.stat(helper.__file__).st_size,\n"
    source += (
        "    time=os.stat(helper.__file__).st_mtime_ns, run=os.access(os.path.dirname(__file__) + '/run', os.X_OK))\n"
    )
    files = {"a.py": source, "helper.py": "VALUE = 1\n", "package/inner.py": "VALUE = 2\n", "data/x/y": "z", "run": ""}
    bundle = write_bundle(machine / "bundle", files)
    (bundle / "data" / "link").symlink_to("/etc/shadow")
    for name in ("a.py", "helper.py", "package/inner.py", "data/x/y"):
        (bundle / name).chmod(0o600)
    for name in ("package", "data", "run"):
        (bundle / name).chmod(0o700)
    seen = data(parse(machine, bundle), "a.py")
    status = (bundle / "helper.py").stat()
    assert (seen["helper"], seen["inner"], seen["data"], seen["link"]) == (1, 2, "z", "/etc/shadow")
    assert (seen["size"], seen["time"], seen["run"]) == (status.st_size, status.st_mtime_ns, True)


def test_closed_files_are_parsed_in_a_folder_with_many_of_them(machine: Path) -> None:
    files = {f"f{number}.py": look(machine / "closed" / "secret", f"f{number}") for number in range(30)}
    bundle = write_bundle(machine / "bundle", {**files, "open/inner.py": "DAGS = {'i': {}}\n", ".git/config": SECRET})
    (bundle / ".git").chmod(0o700)
    for path in [*bundle.glob("*.py"), *bundle.glob("open/*.py")]:
        path.chmod(0o600)
    report = parse(machine, bundle)
    assert report.closed
    assert [record["errors"] for record in report.files.values()] == [[]] * 31


@pytest.mark.parametrize("what", ["a link", "a hard link", "a hard link in an open folder", "another user's file"])
def test_nothing_of_others_gets_into_a_copy(machine: Path, what: str) -> None:
    bundle = write_bundle(machine / "bundle", {"a.py": look(machine / "bundle" / "taken")})
    taken = bundle / "taken"
    if what == "a link":
        taken.symlink_to(machine / "closed" / "secret")
    elif what.startswith("a hard link"):
        taken.hardlink_to(machine / "closed" / "secret")
    else:
        shutil.copy(machine / "closed" / "secret", taken)
    owner = 60_050 if what in {"a link", "a hard link"} else 0
    for path in (bundle, bundle / "a.py"):
        os.chown(path, owner, owner)
    if what == "another user's file":
        os.chown(taken, 60_050, 60_050)
    if what == "a hard link in an open folder":
        bundle.chmod(0o777)
    (bundle / "a.py").chmod(0o600)
    assert data(parse(machine, bundle), "a.py")["secret"] == "PermissionError"


def test_too_much_closed_content_ends_the_run_and_says_what_to_do(machine: Path) -> None:
    bundle = write_bundle(machine / "bundle", {"a.py": "DAGS = {}\n", "data": ""})
    os.truncate(bundle / "data", copies.MAX_BYTES + 1)
    for path in bundle.iterdir():
        path.chmod(0o600)
    report = parse(machine, bundle)
    assert not report.closed
    assert f"chmod -R o+rX {bundle}" in report.stderr


def test_what_changes_while_it_is_copied_is_an_error(machine: Path) -> None:
    bundle = write_bundle(machine / "bundle", {"a.py": "DAGS = {}\n"})
    (bundle / "a.py").chmod(0o600)
    (machine / "copies").mkdir()
    made = copies.Copies(str(bundle), 60_050, str(machine / "copies"))
    made.make()
    (bundle / "a.py").unlink()
    (bundle / "a.py").symlink_to(machine / "closed" / "secret")
    pid = os.fork()
    if pid == 0:
        mounts.separate()
        try:
            made.cover()
        except RunError as error:
            os._exit(7 if error.kind == "BundleChanged" else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_with_a_user_of_the_request_the_error_says_what_is_closed(machine: Path) -> None:
    bundle = write_bundle(machine / "bundle", {"a.py": look(machine / "closed" / "secret")})
    (bundle / "a.py").chmod(0o600)
    error = parse(machine, bundle, runAsUser=60_051).error("a.py")
    assert error["kind"] == "PermissionError"
    assert "is closed to user 60051: it belongs to root, its mode is 0600. Open it (chmod o+rX" in error["message"]


@pytest.mark.parametrize(
    ("source", "closed", "named"),
    [
        ("import helper\n", "helper.py", "helper.py is closed to user"),
        ("from package import inner\n", "package", "package is closed to user"),
        ("import package.inner\n", "package", "package is closed to user"),
        ("import package.inner\n", "package/inner.py", "package/inner.py is closed to user"),
        (
            "try:\n    import helper\nexcept OSError as e:\n    raise ImportError('no') from e\n",
            "helper.py",
            "helper.py is",
        ),
        ("open(__file__.replace('a.py', 'data.csv'))\n", "data.csv", "data.csv is closed to user"),
    ],
)
def test_where_only_what_files_import_is_closed_the_error_names_it_with_its_mode_and_what_opens_it(
    machine: Path, source: str, closed: str, named: str
) -> None:
    files: dict[str, str | bytes] = {
        "a.py": f"DAGS = {{}}\n{source}",
        "helper.py": "",
        "package/inner.py": "",
        "data.csv": "",
    }
    bundle = write_bundle(machine / "bundle", files)
    mode = 0o700 if (bundle / closed).is_dir() else 0o600
    (bundle / closed).chmod(mode)
    message = parse(machine, bundle).error("a.py")["message"]
    assert named in message
    assert f"it belongs to root, its mode is {mode:04o}. Open it (chmod o+rX {closed})" in message


def test_a_name_that_a_module_lacks_is_no_matter_of_closed_folders(machine: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.py": "import sys\nDAGS = {}\nsys.path.insert(0, '/root')\nfrom helper import missing\n",
        "helper.py": "",
    }
    bundle = write_bundle(machine / "bundle", files)
    (bundle / "package").mkdir(mode=0o700)
    message = parse(machine, bundle).error("a.py")["message"]
    assert "cannot import name 'missing' from 'helper'" in message
    assert "is closed to user" not in message


def test_what_is_closed_among_the_temporary_files_looks_as_before(machine: Path) -> None:
    folder = machine / "other"
    folder.mkdir()
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "tmp" / "folder").mkdir(mode=0o700)
    (folder / "tmp" / "file").write_bytes(b"x" * 5000)
    (folder / "tmp" / "file").chmod(0o600)
    os.chown(folder / "tmp" / "file", 60_050, 60_050)
    source = look(folder / "tmp" / "file") + f"tmp = {str(folder / 'tmp')!r}\nfor name in ('file', 'folder'):\n"
    source += "    status = os.stat(f'{tmp}/{name}')\n    kept = [status.st_mode, status.st_uid, status.st_mtime_ns]\n"
    source += "    DAGS['a'][name] = [*kept, status.st_size if name == 'file' else 0]\n"
    source += "DAGS['a']['mounts'] = open('/proc/self/mountinfo').read().count(f' {tmp}/f')\n"
    bundle = write_bundle(machine / "bundle", {"a.py": source})
    seen = data(run_stub(bundle, machine / "request.json", env={"TMPDIR": str(folder / "tmp")}), "a.py")
    for path in ("file", "folder"):
        status = (folder / "tmp" / path).stat()
        size = status.st_size if path == "file" else 0
        assert seen[path] == [status.st_mode, status.st_uid, status.st_mtime_ns, size]
    assert (seen["secret"], seen["mounts"]) == ("PermissionError", 0)


def test_copies_are_gone_after_a_run_whose_processes_were_all_killed(machine: Path) -> None:
    never = machine / "never"
    os.mkfifo(never, 0o644)
    bundle = write_bundle(machine / "bundle", {"a.py": f"DAGS = {{}}\nopen({str(never)!r}).read()\n"})
    (bundle / "a.py").chmod(0o600)
    request = machine / "request.json"
    env = {"TMPDIR": str(machine / "tmp"), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "operator")}
    request.write_text(json.dumps(request_for(bundle)))
    with subprocess.Popen([sys.executable, str(STUB), str(request)], stdout=subprocess.PIPE, env=env) as run:
        writer = os.open(never, os.O_WRONLY)  # waits until the file reads
        (folder,) = (machine / "tmp").glob(f"{scratch.PREFIX}*")
        assert any((folder / "copies").iterdir())
        run.send_signal(signal.SIGKILL)
        os.close(writer)
    while folder.exists():  # the keeper removes it
        os.sched_yield()

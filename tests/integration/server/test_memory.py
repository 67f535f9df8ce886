"""What the largest reports cost: the chart gives a server and a controller 1 GiB each, and they stay well below it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import pathlib
import random
import resource
import socket
import ssl
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from dagbundle.rollout.model import BundleKey
from integration.server.conftest import Answer, Caller, Serve, World
from integration.server.helpers import metric, publish, wait_for
from support import reports
from support.store_process import ROOT, Process

pytestmark = pytest.mark.postgres
BUDGET = 640 << 20
"""Of 1 GiB: the rest is for what several tenants do at once."""
NESTED = "[" + ",".join(["[]"] * (2 * 2**20 // 3 - 100)) + "]"


def peak(pid: int) -> int:
    """The most bytes that a process has had resident."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def sent(pod: Caller, server: Process, body: bytes | Iterable[bytes]) -> Answer | None:
    """An answer, or None where the server hung up before all was sent."""
    try:
        return pod.send(server, body)
    except (ConnectionError, ssl.SSLError, http.client.HTTPException):
        return None


def test_closures_that_nest_are_refused_and_cost_no_memory(world: World, serve: Serve) -> None:
    server = serve()
    pod = world.pod(world.job())
    files = [{**reports.parsed(f"{number}.py"), "fingerprint": "f"} for number in range(30)]
    lines = [
        line[:-2] + b', "closure": {"a": ' + NESTED.encode() + b"}}\n" if b'"type": "file"' in line else line
        for line in reports.lines(pod.request, files)
    ]
    answer = sent(pod, server, gzip.compress(b"".join(lines), 1))
    assert answer is not None
    assert (answer.status, answer.reason) == (400, "BadReport")
    assert "closure" in answer.document["detail"]

    assert peak(server.process.pid) < BUDGET


def test_closures_of_an_earlier_version_that_nest_are_not_read_back(world: World, serve: Serve) -> None:
    server = serve()
    key = BundleKey("team-nested", "nested")
    job = world.job(world.rollout(key))
    files = [
        {**reports.parsed(f"{number:02}.py"), "fingerprint": "f", "closure": {"a.py": "absent"}} for number in range(31)
    ]
    assert world.pod(job).report(server, *files).status == 200
    publish(world, job.rollout_id)
    table = world.store.db.tables.source_file
    with world.store.db.engine.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.path != "30.py", table.c.fingerprint == "f").values(
                closure={"a": json.loads(NESTED)}
            ),
        )  # fmt: skip
    pod = world.pod(world.job(world.rollout(key)))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: pod.ask(server), range(4)))
    assert [list(answer.document["known"]) for answer in answers] == [["30.py"]] * 4

    assert peak(server.process.pid) < BUDGET


def test_what_is_remembered_of_a_large_subdir_is_streamed(world: World, serve: Serve) -> None:
    server = serve()
    key = BundleKey("team-large", "large")
    job = world.job(world.rollout(key))
    closure = {f"{number:0150}.py": f"{number:064}" for number in range(2000)}
    files = [{**reports.parsed(f"{n:03}.py"), "fingerprint": "f", "closure": closure} for n in range(90)]
    pod = world.pod(job)
    assert pod.send(server, gzip.compress(b"".join(reports.lines(pod.request, files)), 1)).status == 200
    publish(world, job.rollout_id)
    pod = world.pod(world.job(world.rollout(key)))
    before = peak(server.process.pid)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: pod.ask(server, Accept_Encoding="gzip"), range(8)))
    for answer in answers:
        known = json.loads(gzip.decompress(answer.body))["known"]
        assert len(known) == 90
        assert known["007.py"]["closure"] == closure

    assert peak(server.process.pid) < max(before, BUDGET)


def test_errors_of_two_hundred_megabytes_are_cut_and_cost_neither_side_memory(world: World, serve: Serve) -> None:
    server = serve()
    key = BundleKey("team-errors", "errors")
    job = world.job(world.rollout(key))
    pod = world.pod(job)
    files = [{"path": f"{number:03}.py", "status": "parsed", "errors": many_errors(number)} for number in range(100)]
    answer = sent(pod, server, gzip.compress(b"".join(reports.lines(pod.request, files)), 1))
    assert answer is not None, server.requests(pod.run)
    assert answer.status == 200

    assert peak(server.process.pid) < BUDGET
    code = (
        "import json, sys\n"
        "from dagbundle.store.dagstore import DagStore\n"
        "with DagStore.open(sys.argv[1]) as store:\n"
        "    (run,) = store.outcomes(sys.argv[2])\n"
        "print(json.dumps([[len(file.problems), len(file.problems[-1].message)] for file in run.files]))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, world.store.db.engine.url.render_as_string(hide_password=False), job.rollout_id],
        check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT / "operator")},
    )  # fmt: skip
    counts, resident = done.stdout.splitlines()
    assert len(json.loads(counts)) == 100
    assert all(count >= 1 for count, _ in json.loads(counts))

    assert int(resident) * 1024 < 256 << 20


def many_errors(seed: int) -> list[dict[str, Any]]:
    """Two megabytes of them; what is all the same would count as a bomb."""
    noise = random.Random(seed)  # noqa: S311 - no secret
    return [
        {"kind": "ValueError", "message": noise.randbytes(8_000).hex() * 4, "line": number} for number in range(1, 33)
    ]


def spaces(size: int) -> bytes:
    """White space that gzip makes about 100 times smaller."""
    noise = bytes(random.Random(1).choices(b" \t", k=size // 16))  # noqa: S311 - no secret
    return noise + b" " * (size - len(noise))


def test_a_report_that_inflates_without_end_is_refused_in_time(world: World, serve: Serve) -> None:
    server = serve()
    pod = world.pod(world.job())
    lines = reports.lines(pod.request, [reports.parsed(f"{number}.py") for number in range(1_000)])
    filler = spaces(24 << 20)

    def inflating() -> Iterator[bytes]:
        packer = zlib.compressobj(1, wbits=31)
        yield packer.compress(lines[0])
        for line in lines[1:]:
            yield packer.compress(line[:-1] + filler + b"\n")

    answer = sent(pod, server, (chunk for chunk in inflating() if chunk))
    assert answer is None or answer.reason in {"BadReport", "ReportTooLarge"}
    line: dict[str, Any] = server.wait_for(lambda line: line.get("route") == "/v1/runs/{run}/report", 300)
    assert "1,073,741,824" in line["detail"]

    assert peak(server.process.pid) < BUDGET


def test_the_largest_records_of_many_reports_at_once_stay_within_the_charts_limit(world: World, serve: Serve) -> None:
    server = serve()
    values = "[" + ",".join(["[]"] * 640_000) + "]"  # with what is around it just below 2,000,000 and 4 MiB

    pods = [world.pod(world.job(world.rollout(BundleKey(f"team-values-{number}", "values")))) for number in range(16)]

    def send(pod: Caller) -> Answer | None:
        lines = reports.lines(pod.request, [reports.parsed("a.py", "a"), reports.parsed("b.py", "b")])
        body = [line.replace(b'"__version"', b'"x": ' + values.encode() + b', "__version"', 1) for line in lines]
        return sent(pod, server, gzip.compress(b"".join(body), 1))

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for answer in pool.map(send, pods) if answer is not None]
    details = [answer.document["detail"] for answer in answers if answer.reason == "BadReport"]
    assert sum("digest" in detail for detail in details) >= 4  # the others were told to come back
    assert {answer.reason for answer in answers} <= {"BadReport", "TooManyReports"}
    assert peak(server.process.pid) < BUDGET


def wide(megabytes: int) -> str:
    """Text with one emoji, which makes Python keep four bytes of each character. Noise: else it counts as a bomb."""
    noise = random.Random(megabytes)  # noqa: S311 - no secret
    return "\U0001f600" + noise.randbytes(1 << 19).hex() * megabytes


def test_texts_of_which_each_character_takes_four_bytes_stay_within_the_charts_limit(
    world: World, serve: Serve
) -> None:
    server = serve()
    pods = [world.pod(world.job(world.rollout(BundleKey(f"team-wide-{number}", "wide")))) for number in range(16)]

    def send(pod: Caller) -> Answer | None:
        files = [{**reports.parsed(name), "sources": {name: wide(14)}} for name in ("a.py", "b.py")]
        return sent(pod, server, gzip.compress(b"".join(reports.lines(pod.request, files)), 1))

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for answer in pool.map(send, pods) if answer is not None]
    assert {answer.reason for answer in answers if answer.status != 200} <= {"TooManyReports"}
    assert sum(answer.status == 200 for answer in answers) >= 4
    assert peak(server.process.pid) < BUDGET


def test_thousands_of_silent_connections_from_one_address_cost_no_memory_and_others_are_served(
    world: World, serve: Serve
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server is given as many as this process has
    server = serve()
    pod = world.pod(world.job())
    assert pod.ask(server).status == 200
    before = peak(server.process.pid)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(3_000):
            silent = stack.enter_context(socket.socket())
            try:
                silent.connect(("127.0.0.1", server.port))
            except ConnectionResetError:  # the server resets what is over its bound, and may do so this early
                assert number >= 64
            if number % 100 == 0:
                assert metric(server, "dagbundle_server_connections") <= 64
        other = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=pod.authority.context, timeout=30, source_address=("127.0.0.2", 0)
        )
        other.request("GET", f"/v1/runs/{pod.run}", headers={"Authorization": f"Bearer {pod.token}"})
        assert other.getresponse().status == 200
        other.close()
        assert peak(server.process.pid) < before + (32 << 20)
    wait_for(server, "dagbundle_server_connections", 0)
    assert pod.ask(server).status == 200


def test_a_connection_that_never_says_a_byte_or_never_ends_its_handshake_is_closed(world: World, serve: Serve) -> None:
    server = serve(handshake_seconds=0.3)
    for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(said)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1000):
                    pass
        wait_for(server, "dagbundle_server_connections", 0)
    assert world.pod(world.job()).ask(server).status == 200

"""Floods, slow clients and too many of them: refused in time, and others do not notice."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dagbundle.rollout.model import BundleKey
from integration.server.conftest import Caller, Serve, World
from integration.server.helpers import head, metric, opened, publish, raw, wait_for, wait_for_more, wait_for_reports
from support import reports
from support.store_process import Process

pytestmark = pytest.mark.postgres
A = reports.parsed("a.py", "a")


def test_a_pod_that_floods_is_told_to_wait_and_others_are_served(world: World, serve: Serve) -> None:
    server = serve(requests_per_second=2)
    job = world.job()
    noisy, quiet = world.pod(job), world.pod(job)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: noisy.ask(server), range(30)))
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) >= 20
    assert {answer.reason for answer in refused} == {"TooManyRequests"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    assert quiet.ask(server).status == 200


def test_an_address_that_floods_without_a_token_is_told_to_wait(world: World, serve: Serve) -> None:
    server = serve(calls_per_second=3)
    pod = world.pod(world.job())
    answers = [pod.ask(server, Authorization="") for _ in range(15)]
    assert [answer.reason for answer in answers].count("TooManyRequests") >= 4


def test_tokens_are_not_asked_about_again_and_again(world: World, serve: Serve) -> None:
    server = serve(token_seconds=60)
    pod = world.pod(world.job())
    for _ in range(5):
        assert pod.ask(server).status == 200
        assert pod.ask(server, Authorization="Bearer wrong").reason == "TokenRefused"
    name = "dagbundle_server_token_reviews_total"
    assert metric(server, f'{name}{{answer="accepted"}}') == 1
    assert metric(server, f'{name}{{answer="refused"}}') == 1
    assert metric(server, f'{name}{{answer="remembered"}}') == 8


def test_reports_of_one_namespace_leave_room_for_others(world: World, serve: Serve) -> None:
    server = serve(reports=3, reports_per_namespace=2)
    sales = world.job()
    ops = world.job(world.rollout(BundleKey("team-ops", "ops")))
    held = [opened(world.pod(sales), server) for _ in range(2)]
    wait_for_reports(server, 2)
    answer = world.pod(sales).report(server, A)
    assert (answer.status, answer.reason, answer.headers["Retry-After"]) == (429, "TooManyReports", "3")
    assert world.pod(ops).report(server, A).status == 200
    other = world.job(world.rollout(BundleKey("team-third", "x")))
    held.append(opened(world.pod(other), server))
    wait_for_reports(server, 3)
    assert world.pod(world.job(world.rollout(BundleKey("team-fourth", "x")))).report(server, A).status == 429
    for connection in held:
        connection.close()
    wait_for_reports(server, 0)
    assert world.pod(sales).report(server, A).status == 200


def test_a_report_that_falls_silent_is_ended(world: World, serve: Serve) -> None:
    server = serve(idle_seconds=0.3)
    job = world.job()
    pod = world.pod(job)
    with opened(pod, server) as connection:
        connection.settimeout(20)
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert pod.report(server, A).status == 200


def test_a_report_that_drips_for_ever_is_ended(world: World, serve: Serve) -> None:
    server = serve(idle_seconds=5, stream_seconds=1)
    pod = world.pod(world.job())
    event = threading.Event()

    def dripping() -> Iterator[bytes]:
        for byte in b"".join(reports.lines(pod.request, [A])):
            yield bytes([byte])
            event.wait(0.02)

    try:
        answer = pod.send(server, dripping())
    except (ConnectionError, ssl.SSLError):
        server.wait_for(lambda line: line.get("reason") == "Idle")
    else:
        assert answer.reason == "Idle"


def test_connections_that_say_nothing_are_closed(world: World, serve: Serve) -> None:
    server = serve(head_seconds=0.3)
    pod = world.pod(world.job())
    for said in (b"", b"GET / HTTP/1.1\r\n", b"POST /v1/runs/x/report HTTP/1.1\r\nHost: x\r\nX: "):
        with raw(pod, server) as connection:
            connection.settimeout(20)
            connection.sendall(said)
            with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):  # reset, or an end
                assert connection.recv(1000) != b""
    with raw(pod, server) as connection:  # nor between two requests
        connection.settimeout(20)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"ok\n"):
            said += connection.recv(1000)
        connection.sendall(b"GET /he")
        with pytest.raises((ConnectionError, ssl.SSLError, AssertionError)):
            assert connection.recv(1000) != b""
    assert pod.ask(server).status == 200


def test_one_address_has_only_so_many_connections_and_the_probes_still_answer(world: World, serve: Serve) -> None:
    server = serve(connections_per_address=4)
    pod = world.pod(world.job())
    held = [opened(world.pod(world.store.job(pod.run)), server) for _ in range(4)]
    wait_for_reports(server, 4)
    with pytest.raises((ConnectionError, ssl.SSLError, http.client.HTTPException)):
        pod.ask(server)
    assert metric(server, "dagbundle_server_reports_open") == 4
    for connection in held:
        connection.close()
    wait_for_reports(server, 0)
    assert pod.ask(server).status == 200


@pytest.mark.parametrize("files", [1, 8], ids=["that the socket's buffer holds", "that is longer than any buffer"])
def test_a_client_that_does_not_read_its_answer_is_dropped(world: World, serve: Serve, files: int) -> None:
    server = serve(request_seconds=0.5, head_seconds=0.5)
    pod = world.pod(world.job())
    closure = {f"file{number}.py": f"{number:064}" for number in range(20_000)}
    big = [{**reports.parsed(f"{n}.py"), "fingerprint": "f", "closure": closure} for n in range(files)]
    assert pod.report(server, *big).status == 200
    publish(world, world.store.job(pod.run).rollout_id)
    pod = world.pod(world.job())
    for extra in ((), ("Connection: close",)):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", server.port))
        with pod.authority.context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(head(pod, *extra).replace(b"POST", b"GET", 1).replace(b"/report", b"", 1))
            wait_for(server, "dagbundle_server_connections", 1)
            wait_for(server, "dagbundle_server_connections", 0)
    if files == 1:
        assert pod.ask(server).status == 200
    other = world.pod(world.job(world.rollout(BundleKey("team-small", "small"))))
    assert other.ask(server).status == 200


def test_reports_together_hold_only_so_much_memory(world: World, serve: Serve) -> None:
    server = serve(held_bytes=3 << 20)
    job = world.job()
    pods = [world.pod(job) for _ in range(3)]
    connection = _half_sent(pods[0], server, 2 << 20)
    wait_for_more(server, "dagbundle_server_held_bytes", 2 << 20)
    answer = pods[1].send(server, _half(pods[1], 2 << 20))
    assert (answer.status, answer.reason) == (429, "TooManyReports")
    assert pods[2].report(server, A).status == 200
    connection.close()


def test_reports_of_one_namespace_that_fill_the_memory_give_way_to_another_namespace(
    world: World, serve: Serve
) -> None:
    server = serve(held_bytes=8 << 20)
    sales, ops = world.job(), world.job(world.rollout(BundleKey("team-ops", "ops")))
    held = [_half_sent(world.pod(sales), server, size << 20) for size in (2, 3, 2)]
    wait_for_more(server, "dagbundle_server_held_bytes", 7 << 20)
    large = {**reports.parsed("a.py", "a"), "sources": {"a.py": "x" * (3 << 20)}}
    pod = world.pod(ops)
    assert pod.send(server, b"".join(reports.lines(pod.request, [large]))).status == 200
    held[1].settimeout(20)
    said = b""
    while not said.endswith(b"}"):
        said += held[1].recv(10_000)
    assert said.startswith(b"HTTP/1.1 429")
    assert b"other namespaces need the memory" in said
    wait_for_reports(server, 2)
    for connection in held:
        connection.close()


def _half(pod: Caller, size: int) -> bytes:
    """Return a report that ends in the midst of a record."""
    opening, record, *_ = reports.lines(pod.request, [A])
    return opening + record[:-2].replace(b'"seq"', b'"x": "' + b"y" * size + b'", "seq"')


def _half_sent(pod: Caller, server: Process, size: int) -> ssl.SSLSocket:
    connection = raw(pod, server)
    connection.sendall(head(pod, f"Content-Length: {100 << 20}") + _half(pod, size))
    return connection

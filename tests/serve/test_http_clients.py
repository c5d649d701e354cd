"""What real clients send, and what one client may cost: each case was a fault once."""

import asyncio
import gzip
import http.client
import json
import shutil
import socket
import subprocess
import time
import unittest.mock
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from answering import Answering
from serve_harness import (
    Running,
    infer_body,
    output,
    read_answer,
    request_bytes,
    until,
    write_bundle,
)

from cupola.serve.http.connection import Connection
from cupola.serve.settings.settings import Settings

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clients")
    named = write_bundle(folder / "more", "org/model", folder="named")
    running = Running(folder, max_body=8_000_000, shm_threshold=65536, models=[])
    bundles = [write_bundle(folder / "bundles", "echo"), named]
    running.configure(models=[str(bundle) for bundle in bundles])
    running.start()
    running.wait_ready()
    yield running
    assert running.infer()[0] == 200
    running.stop()


def exchange(server: Running, *parts: bytes) -> bytes:
    """Everything the server sends until it closes or is silent for a moment."""
    with server.raw() as client:
        for part in parts:
            client.sendall(part)
        client.settimeout(2)
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except TimeoutError:
            pass
        return received


GET = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2"])
def test_an_upgrade_is_ignored(server: Running, protocol: bytes) -> None:
    """Java's HttpClient and `curl --http2` ask for h2c in their first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n\r\n"
    found = exchange(server, GET + upgrade, GET + b"Connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 2
    body = infer_body().encode()
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    assert exchange(server, head + upgrade + body).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_with_http2(server: Running) -> None:
    url = f"http://127.0.0.1:{server.port}/v2/health/ready"
    run = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--http2", url],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert run.stdout == "200"


def test_http_1_0_keeps_the_connection_if_asked(server: Running) -> None:
    """`ab -k` hangs without `Connection: keep-alive` in the response."""
    old = b"GET /v2/health/ready HTTP/1.0\r\n"
    kept = exchange(server, old + b"Connection: keep-alive\r\n\r\n", old + b"\r\n")
    assert kept.count(b"HTTP/1.1 200 OK") == 2
    assert kept.count(b"Connection: keep-alive") == 1 and kept.count(b"Connection: close") == 1


def test_a_client_that_sends_too_much_can_read_why(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v2/models/echo/infer", b"x" * 30_000_000)
    response = connection.getresponse()
    assert response.status == 413 and b"at most" in response.read()


@pytest.mark.parametrize(
    ("path", "status"),
    [("org%2Fmodel", 200), ("org%2fmodel", 200), ("org/model", 404), ("org%252Fmodel", 404)],
)
def test_a_model_name_with_a_slash_is_escaped(server: Running, path: str, status: int) -> None:
    assert server.ask("GET", f"/v2/models/{path}")[0] == status


def worker_memory(server: Running) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in server.pids())


def test_answers_that_are_never_read_cost_no_memory(server: Running) -> None:
    before = worker_memory(server)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50
    with server.raw() as client:
        client.settimeout(0.5)
        sent = 0
        try:
            while sent < 20_000_000:
                sent += client.send(request)
        except TimeoutError:
            pass
        assert server.infer()[0] == 200
        assert worker_memory(server) - before < 40_000_000
    assert sent < 20_000_000  # the server stopped reading


def test_bodies_are_freed_with_their_answers(tmp_path: Path) -> None:
    """600 honest requests of 1 MB, one after the other, took 600 MB."""
    server = Running(tmp_path)
    server.start()
    server.wait_ready()
    try:
        before = worker_memory(server)
        with server.raw() as client:
            for _ in range(60):
                client.sendall(request_bytes(infer_body() + " " * 1_000_000))
                assert read_answer(client)[0] == 200
        assert worker_memory(server) - before < 20_000_000
    finally:
        server.stop()


def test_pipelined_requests_are_all_answered(server: Running) -> None:
    found = exchange(server, (GET + b"\r\n") * 400 + GET + b"Connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 401


def test_many_requests_that_wait_behind_a_slow_one(server: Running) -> None:
    """They recursed, until Python's limit ended the connection."""
    slow = request_bytes(infer_body(do="sleep", s=0.2))
    found = exchange(server, slow + (GET + b"\r\n") * 370 + GET + b"Connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 372


def test_a_pipeline_takes_turns_with_other_clients(tmp_path: Path) -> None:
    """A thousand clients with a hundred requests each kept the others waiting for seconds."""

    async def run() -> list[str]:
        answering = Answering(Settings(), tmp_path)
        first, second = (fake_connection(answering) for _ in range(2))
        first.data_received(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(40)))
        second.data_received(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(60):
            await asyncio.sleep(0)
        return answering.paths

    order = asyncio.run(run())
    assert order[:3] == ["/0", "/other", "/1"] and len(order) == 41


def fake_connection(server: Answering) -> Connection:
    connection = Connection(server)
    connection.connection_made(unittest.mock.MagicMock())
    return connection


def test_a_body_in_tiny_chunks_delays_nobody(server: Running) -> None:
    body = infer_body([0.5] * 40_000).encode()
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with server.raw() as client:
        slowest = 0.0
        client.sendall(head)
        for start in range(0, len(chunks), 65536):
            client.sendall(chunks[start : start + 65536])
            began = time.monotonic()
            assert server.get("/v2/health/live")[0] == 200
            slowest = max(slowest, time.monotonic() - began)
        status, _, answer = read_answer(client)
        assert status == 200 and len(output(json.loads(answer), "y")) == 40_000
    assert slowest < 5  # it was 24 s; a loaded machine is slow, too


def test_compressed_bodies_take_little_memory(server: Running) -> None:
    """Six bodies of 189 kB took 1.3 GB: unpacked at once, before any limit."""
    before = worker_memory(server)
    bomb = gzip.compress(b"[" + b" " * 7_900_000)  # within max_body
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb
    with ExitStack() as stack:
        clients = [stack.enter_context(server.raw()) for _ in range(24)]
        for client in clients:
            client.sendall(request)
        statuses = [read_answer(client)[0] for client in clients]
    assert set(statuses) <= {400, 429} and statuses.count(400) >= 2
    assert worker_memory(server) - before < 60_000_000
    until(lambda: not list(server.runtime.rglob("spool/*")), what="an empty spool")
    nowhere = server.ask("POST", "/v2/models/none/infer", bomb, {"Content-Encoding": "gzip"})
    assert nowhere[0] == 404


def test_a_gzip_body_of_several_members(server: Running) -> None:
    body = infer_body([1.0, 2.0]).encode()
    members = gzip.compress(body[:20]) + gzip.compress(body[20:])
    path, header = "/v2/models/echo/infer", {"Content-Encoding": "gzip"}
    assert server.ask("POST", path, members, header)[0] == 200
    assert server.ask("POST", path, members + b"trailing", header)[0] == 400


def test_many_upgrades_in_one_packet(server: Running) -> None:
    upgrade = GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    found = exchange(server, upgrade * 500 + GET + b"Connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 501


def test_names_of_clients_are_not_remembered(server: Running) -> None:
    before = worker_memory(server)
    for number in range(300):
        path = f"/pages/{number}{'x' * 7000}.js"
        assert server.ask("GET", path)[0] == 404
    assert worker_memory(server) - before < 20_000_000


def test_a_refused_pipeline_answers_what_came_before(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request_bytes(infer_body()))
        assert read_answer(client)[0] == 200
        client.sendall(b"nonsense\r\n\r\n")
        assert read_answer(client)[0] == 400


def test_spooled_bodies_belong_to_the_server_alone(server: Running, tmp_path: Path) -> None:
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
    with server.raw() as client:
        client.sendall(head + b"x" * 150_000)
        found = until(lambda: list(server.runtime.rglob("spool/*")), what="the spooled body")
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in found)


def connections_of(server: Running) -> int:
    return sum(len(psutil.Process(pid).net_connections("tcp")) for pid in server.pids())


def test_idle_connections_make_room(tmp_path: Path) -> None:
    """With 400 idle clients and room for 40, 382 were held and honest requests timed out."""
    server = Running(tmp_path, worker_connections=40)
    server.start()
    server.wait_ready()
    try:
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(server.raw())
            assert [server.infer()[0] for _ in range(10)] == [200] * 10
            assert connections_of(server) <= 40 + 2  # the listener, and one that is being closed
    finally:
        server.stop()


def test_refused_clients_do_not_pass_the_limit(tmp_path: Path) -> None:
    """Their connections stay open for a while, so that they can read the reason."""
    server = Running(tmp_path, worker_connections=40)
    server.start()
    server.wait_ready()
    try:
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(server.raw()).sendall(b"nonsense\r\n\r\n")
            assert server.infer()[0] == 200
            assert connections_of(server) <= 40 + 2
    finally:
        server.stop()


def test_more_connections_than_open_files(tmp_path: Path) -> None:
    server = Running(tmp_path, worker_connections=4096, worker_rlimit_nofile=128)
    server.start()
    server.wait_ready()
    try:
        assert "worker_connections lowered from 4096 to 64" in server.log()
        with ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(server.raw())
            assert server.infer()[0] == 200
    finally:
        server.stop()

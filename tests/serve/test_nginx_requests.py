"""Raw requests in a table: this server's outcome, and nginx's, which differs only with a reason."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nginx_peer import NGINX, running_nginx
from raw_client import exchange
from request_table import MAX_BODY, MAX_HEADER, SECTIONS, Row
from serve_harness import Running

pytestmark = pytest.mark.processes
ROWS = [
    pytest.param(row, section == "incomplete", id=f"{section}: {row.name}")
    for section, rows in SECTIONS.items()
    for row in rows
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(
        tmp_path_factory.mktemp("table"), max_body=MAX_BODY, max_header=MAX_HEADER, admin="on"
    )
    running.start()
    running.wait_ready()
    workers = running.pids()
    yield running
    assert running.pids() == workers
    running.stop()


@pytest.fixture(scope="module")
def nginx() -> Iterator[int]:
    with (
        tempfile.TemporaryDirectory(prefix="nginx-") as folder,
        running_nginx(Path(folder), MAX_BODY, MAX_HEADER) as port,
    ):
        yield port


@pytest.mark.parametrize(("row", "waits"), ROWS)
def test_our_outcome(ours: Running, row: Row, waits: bool) -> None:
    found = exchange(ours.port, row.sent, waits=waits, heads=row.heads)
    assert str(found) == row.outcome, found.received[:600]


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(("row", "waits"), ROWS)
def test_outcome_of_nginx(nginx: int, row: Row, waits: bool) -> None:
    found = exchange(nginx, row.sent, waits=waits, heads=row.heads)
    assert str(found) == (row.nginx or row.outcome), found.received[:600]


def test_each_difference_has_a_reason() -> None:
    rows = [row for section in SECTIONS.values() for row in section]
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert bool(row.nginx) == bool(row.why) and row.nginx != row.outcome, row.name


def test_the_host_of_an_absolute_target_is_the_one_that_counts(ours: Running) -> None:
    """RFC 9112, 3.2.2; the admin endpoints check the host against other sites."""
    head = (
        b"POST http://evil.example/v2/repository/models/none/load HTTP/1.1\r\nHost: localhost\r\n"
    )
    request = head + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    assert str(exchange(ours.port, request)) == "403 open"
    assert str(exchange(ours.port, request.replace(b"evil.example", b"localhost"))) == "400 open"


def test_a_body_is_asked_for_once_the_requests_before_it_are_answered(ours: Running) -> None:
    from request_table import BODY, LENGTH, POST

    slow = BODY.replace(b'"parameters": {}', b'"parameters": {"do": "sleep", "s": 0.2}')
    assert slow != BODY
    first = POST + b"Content-Length: %d\r\n\r\n" % len(slow) + slow
    second = POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n"
    with ours.raw() as client:
        client.sendall(first + second)
        received = b""
        while b"100 Continue" not in received:
            more = client.recv(65536)
            assert more
            received += more
        assert received.index(b"200 OK") < received.index(b"100 Continue")
        client.sendall(BODY)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")

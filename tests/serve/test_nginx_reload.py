"""nginx's process model: reload and invalid deployments (statements 12 to 15)."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from serve_harness import (
    free_port,
    infer_body,
    output,
    read_answer,
    request_bytes,
    until,
    write_bundle,
)

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("act", ["syntax", "unknown", "missing", "import", "memory", "exit"])
def test_nginx_12_an_invalid_deployment_keeps_the_old_processes(serve, act: str) -> None:
    server = serve()
    before = (server.pids(), server.pids("zygote"), server.runner_pid())
    if act == "syntax":
        server.file.write_text("listen: [")
    elif act == "unknown":
        server.configure(worker=3)
    else:
        write_bundle(server.folder / "bundles", "echo", start=act)
    server.signal(signal.SIGHUP)
    until(lambda: "reload refused" in server.log() or "failed: its processes" in server.log())
    until(lambda: server.status()["pending"] is None)
    until(lambda: (server.pids(), server.pids("zygote"), server.runner_pid()) == before)
    assert server.infer()[0] == 200


def test_nginx_12_a_hanging_deployment_is_abandoned(serve) -> None:
    server = serve()
    server.configure(ready_timeout=2.0)
    before = server.pids()
    write_bundle(server.folder / "bundles", "echo", start="hang")
    server.signal(signal.SIGHUP)
    until(lambda: "it was not ready in time" in server.log())
    until(lambda: server.pids() == before)
    assert server.infer()[0] == 200


def test_nginx_12_an_address_in_use_keeps_the_old_generation(serve) -> None:
    server = serve()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server.configure(listen=[f"127.0.0.1:{server.port}", f"127.0.0.1:{port}"])
        server.signal(signal.SIGHUP)
        until(lambda: "reload refused" in server.log(), 20)
    assert server.infer()[0] == 200


def inode(pid: int, port: int) -> set[str]:
    """Inodes of the listening sockets of a port."""
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
            found.add(fields[9])
    return found


def test_nginx_13_a_kept_address_keeps_its_socket(serve) -> None:
    server = serve()
    second = free_port()
    before = inode(server.pid, server.port)
    server.configure(listen=[f"127.0.0.1:{server.port}", f"127.0.0.1:{second}"])
    server.reload()
    assert inode(server.pid, server.port) == before
    socket.create_connection(("127.0.0.1", second)).close()
    server.configure(listen=[f"127.0.0.1:{server.port}"])
    server.reload()
    until(lambda: not inode(server.pid, second))
    assert inode(server.pid, server.port) == before


def test_nginx_14_the_old_generation_serves_until_the_new_one_is_ready(serve) -> None:
    server = serve()
    before = server.pids()
    write_bundle(server.folder / "bundles", "echo", offset=5, load_seconds=1.0)
    server.signal(signal.SIGHUP)
    time.sleep(0.6)
    assert output(server.infer()[1], "y") == [1.0]
    assert set(before) <= set(server.pids())
    until(lambda: server.status()["generation"] == 2)
    until(lambda: output(server.infer()[1], "y") == [6.0])
    until(lambda: not set(before) & set(server.pids()))


def test_nginx_14_no_request_is_lost_over_reloads(serve) -> None:
    server = serve(workers=2)
    stop, lost, counts = threading.Event(), [], []

    def client(keep_alive: bool) -> None:
        sent, connection = 0, None
        while not stop.is_set():
            connection = connection or server.raw()
            close = "" if keep_alive else "Connection: close\r\n"
            connection.sendall(request_bytes(infer_body([2.0]), extra=close))
            status, head, _ = read_answer(connection)
            sent += 1
            if status != 200:
                lost.append((status, head))
            if not keep_alive or status != 200 or b"connection: close" in head.lower():
                connection.close()
                connection = None
        if connection:
            connection.close()
        counts.append(sent)

    clients = [threading.Thread(target=client, args=(n % 2 == 0,)) for n in range(4)]
    for one in clients:
        one.start()
    for _ in range(4):
        server.reload()
        time.sleep(0.2)
    stop.set()
    for one in clients:
        one.join()
    assert not lost and sum(counts) > 100


def test_nginx_15_hup_rolls_back_while_a_new_binary_runs(serve) -> None:
    server = serve(daemon=True)
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old))
    server.wait_ready()
    new = server.pid
    server.signal(signal.SIGWINCH, old)
    until(lambda: not server.children("worker", old))
    write_bundle(server.folder / "bundles", "echo", start="exit")  # HUP must not read this
    server.signal(signal.SIGHUP, old)
    until(lambda: server.children("worker", old))
    server.signal(signal.SIGQUIT, new)
    until(lambda: server.written_pid() == old, what=server.log())
    assert server.status()["generation"] == 1
    assert server.infer()[0] == 200

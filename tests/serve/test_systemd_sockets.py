"""Listening sockets that another process has opened: systemd's LISTEN_FDS, and inheritance."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running, free_port, read_answer, until

pytestmark = pytest.mark.processes

# What systemd does: the sockets from descriptor 3 on, and the id of the process it executes.
START = (
    "import os, sys\n"
    "for place, fd in enumerate(map(int, sys.argv[1].split(','))):\n"
    "    os.dup2(fd, 3 + place)\n"
    "os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_FDNAMES='x')\n"
    "os.environ['LISTEN_PID'] = sys.argv[3] or str(os.getpid())\n"
    "os.execv(sys.argv[4], sys.argv[4:])\n"
)


def listening(address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET, kind)
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen(16)
    return made


@pytest.fixture
def activate(serve) -> Callable[..., Running]:
    """Starts a server as systemd does, with these sockets; it may fail."""

    def start(
        sockets: Sequence[socket.socket], count: str = "", pid: str = "", **settings: Any
    ) -> Running:
        server: Running = serve(ready=False, **{"listen": ["systemd"], **settings})
        server.stop()
        server.runtime.mkdir(mode=0o755)
        server.pid_file.unlink(missing_ok=True)
        fds = [os.dup(one.fileno()) for one in sockets]
        prefix = [sys.executable, "-c", START, ",".join(map(str, fds)), count or str(len(fds)), pid]
        server.start(prefix=prefix, pass_fds=fds)
        for fd in fds:
            os.close(fd)
        return server

    return start


def ask(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        return read_answer(client)[0]


def test_sockets_of_systemd_outlive_reload_upgrade_and_stop(activate, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening(("127.0.0.1", 0)) as tcp, listening(path) as unix:
        other = f"127.0.0.1:{free_port()}"
        server = activate([tcp, unix], listen=["systemd", other])
        server.port = tcp.getsockname()[1]
        server.wait_ready()
        named = {f"127.0.0.1:{server.port}", f"unix:{path}"}
        assert set(server.status()["listen"]) == {*named, other}
        assert server.infer()[0] == 200 and ask(path) == 200
        server.configure(listen=["systemd"])
        server.reload()
        assert set(server.status()["listen"]) == named  # what was opened here is closed
        assert ask(path) == 200
        old = server.pid
        server.signal(signal.SIGUSR2)
        until(lambda: server.written_pid() not in (None, old), 30)
        server.wait_ready()
        server.signal(signal.SIGQUIT, old)
        assert server.wait_exit() == 0
        server.reload()
        assert server.infer()[0] == 200 and ask(path) == 200
        server.signal(signal.SIGQUIT)
        until(lambda: not server.processes())
        assert os.path.exists(path)
        with server.raw(), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)  # both wait in the queue for the next start


@pytest.mark.parametrize(
    ("count", "pid", "kind", "message"),
    [
        ("x", "", socket.SOCK_STREAM, "LISTEN_FDS: expected a number, got 'x'"),
        ("", "1", socket.SOCK_STREAM, "listen: systemd has passed no sockets"),  # for another one
        ("", "", socket.SOCK_DGRAM, "descriptor 3 is not a listening stream socket"),
        ("9", "", socket.SOCK_STREAM, "descriptor 4"),
    ],
)
def test_what_is_not_passed_properly_is_an_error(
    activate, count: str, pid: str, kind: int, message: str
) -> None:
    with listening(("127.0.0.1", 0), kind) as passed:
        server = activate([passed], count, pid)
        assert server.wait_exit() in (1, 2)
        assert message in server.log() and "Traceback" not in server.log()


def test_an_upgrade_that_drops_an_address_closes_it(serve) -> None:
    """Otherwise its clients would wait in a queue that nobody empties."""
    port = free_port()
    server = serve()
    server.configure(listen=[*server.settings["listen"], f"127.0.0.1:{port}"])
    server.reload()
    old = server.pid
    server.configure(listen=server.settings["listen"][:1])
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old), 30)
    server.wait_ready()
    server.signal(signal.SIGQUIT, old)
    assert server.wait_exit() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert server.infer()[0] == 200

"""nginx's process model: binary upgrade, log reopening, worker start (statements 16 to 19)."""

import os
import pwd
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from serve_harness import (
    Running,
    free_port,
    infer_body,
    read_answer,
    request_bytes,
    until,
    write_bundle,
)

from cupola.serve.ipc.listeners import Listener, inherited, open_listeners, to_environment
from cupola.serve.master.children import Child, ChildKind
from cupola.serve.master.upgrade import start_binary

pytestmark = pytest.mark.processes


def upgrade(server) -> tuple[int, int]:
    """Sends USR2 and waits; the process ids of the old and the new master."""
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old), what=server.log())
    server.wait_ready()
    return old, server.pid


def test_nginx_16_an_upgrade_passes_the_sockets_on(serve) -> None:
    server = serve()
    old, new = upgrade(server)
    assert int(Path(f"{server.pid_file}.oldbin").read_text()) == old
    assert psutil.Process(new).ppid() == old
    server.signal(signal.SIGQUIT, old)
    server.wait_exit()
    assert server.pid == new and not Path(f"{server.pid_file}.oldbin").exists()
    assert server.infer()[0] == 200


def test_nginx_16_the_pid_file_is_restored_when_the_new_binary_dies(serve) -> None:
    server = serve(daemon=True)
    old = server.pid
    good = server.file.read_text()
    server.file.write_text("listen: [")
    server.signal(signal.SIGUSR2)
    until(lambda: "the new binary has exited" in server.log())
    until(lambda: server.written_pid() == old)
    server.file.write_text(good)
    assert server.infer()[0] == 200


def test_nginx_16_workers_restart_if_the_new_binary_dies_while_noaccepting(serve) -> None:
    server = serve(daemon=True)
    old, new = upgrade(server)
    server.signal(signal.SIGWINCH, old)
    until(lambda: not server.children("worker", old))
    for child in psutil.Process(new).children(recursive=True):
        child.kill()
    server.signal(signal.SIGKILL, new)
    until(lambda: server.written_pid() == old)
    until(lambda: server.children("worker", old))
    until(lambda: server.infer()[0] == 200)


def test_nginx_16_the_variable_lists_the_descriptors() -> None:
    listeners = open_listeners([f"127.0.0.1:{free_port()}"], [])
    text, fds = to_environment(listeners)
    assert text == f"{listeners[0].address}={fds[0]}"
    os.environ["CUPOLA_SOCKETS"] = f"{listeners[0].address}={os.dup(fds[0])}"
    adopted = inherited()
    assert adopted[0].address == listeners[0].address
    assert adopted[0].sockets[0].getsockname() == listeners[0].sockets[0].getsockname()
    assert "CUPOLA_SOCKETS" not in os.environ
    for listener in (*listeners, *adopted):
        listener.close()


# What systemd does before it executes a service with a socket unit.
SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_nginx_16_a_systemd_socket_is_served_reloaded_and_passed_on(tmp_path: Path) -> None:
    server = Running(tmp_path, listen=["systemd"])
    with socket.create_server(("127.0.0.1", server.port)) as bound:
        fd = bound.fileno()
        server.start([sys.executable, "-c", SYSTEMD, str(fd)], pass_fds=[fd])
    try:
        server.wait_ready()
        assert server.status()["listen"] == [f"127.0.0.1:{server.port}"]
        server.reload()
        assert server.infer()[0] == 200
        old, new = upgrade(server)
        server.signal(signal.SIGQUIT, old)
        server.wait_exit()
        assert server.pid == new and server.infer()[0] == 200
    finally:
        server.stop()


def test_nginx_16_the_new_binary_is_detached() -> None:
    class Recording:
        def add(
            self, role: str, index: int, generation: int, main: object, kind: ChildKind
        ) -> Child:
            return Child(0, role, index, generation, main, kind, False)  # type: ignore[arg-type]

    child = start_binary(Recording(), [Listener("127.0.0.1:1", [])])  # type: ignore[arg-type]
    assert child.kind is ChildKind.DETACHED and isinstance(sys.orig_argv, list)


def test_nginx_17_an_upgrade_loses_no_request(serve) -> None:
    server = serve(daemon=True)
    stop, bad = threading.Event(), []

    def client() -> None:
        connection = None
        while not stop.is_set():
            connection = connection or server.raw()
            connection.sendall(request_bytes(infer_body()))
            status, head, _ = read_answer(connection)
            if status != 200:
                bad.append(head)
            if status != 200 or b"connection: close" in head.lower():
                connection.close()
                connection = None
        if connection:
            connection.close()

    asking = threading.Thread(target=client)
    asking.start()
    old, new = upgrade(server)
    server.signal(signal.SIGWINCH, old)
    until(lambda: not server.children("worker", old))
    server.signal(signal.SIGQUIT, old)
    until(lambda: not psutil.pid_exists(old))
    stop.set()
    asking.join()
    assert not bad and server.pid == new


def test_nginx_18_reopen_follows_a_rotation(serve, tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    server = serve(access_log=str(access), access_log_format="json")
    server.infer(headers={"X-Request-Id": "before"})
    access.rename(tmp_path / "access.1")
    server.log_file.rename(tmp_path / "error.1")
    server.signal(signal.SIGUSR1)
    until(lambda: access.exists() and server.log_file.exists())

    def in_the_new_file() -> bool:
        server.infer(headers={"X-Request-Id": "after"})
        return '"after"' in access.read_text()

    until(in_the_new_file)
    assert '"before"' in (tmp_path / "access.1").read_text()


def test_nginx_18_on_failure_the_old_log_is_kept(serve, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    access = folder / "access.log"
    server = serve(access_log=str(access))
    folder.rename(tmp_path / "moved")
    server.signal(signal.SIGUSR1)
    until(lambda: "keeping the old log file" in server.log())
    server.infer(headers={"X-Request-Id": "still-here"})
    until(lambda: "still-here" in (tmp_path / "moved/access.log").read_text())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the user")
def test_nginx_18_and_19_workers_run_as_the_user_and_own_the_logs(serve, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as open_folder:
        Path(open_folder).chmod(0o755)
        bundle, access = write_bundle(Path(open_folder), "echo"), Path(open_folder) / "access.log"
        run_as_nobody(serve(user="nobody", access_log=str(access), models=[str(bundle)]), access)


def run_as_nobody(server, access: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    worker = psutil.Process(server.pids()[0])
    assert worker.uids().real == nobody.pw_uid and psutil.Process(server.pid).uids().real == 0
    assert psutil.Process(server.runner_pid()).uids().real == nobody.pw_uid
    server.signal(signal.SIGUSR1)
    until(lambda: access.stat().st_uid == nobody.pw_uid)
    assert server.infer()[0] == 200


def test_nginx_19_worker_start_applies_the_settings(serve, tmp_path: Path) -> None:
    server = serve(
        worker_priority=3,
        worker_rlimit_nofile=777,
        worker_cpu_affinity=[[0]],
        working_directory=str(tmp_path),
        environment={"CUPOLA_TEST": "yes"},
    )
    worker = psutil.Process(server.pids()[0])
    assert worker.nice() == 3
    assert worker.rlimit(psutil.RLIMIT_NOFILE) == (777, 777)
    assert worker.cpu_affinity() == [0]
    assert worker.cwd() == str(tmp_path)
    assert server.infer()[0] == 200


def test_nginx_19_a_worker_that_cannot_start_is_fatal(serve) -> None:
    server = serve(ready=False, working_directory="/nowhere")
    assert server.wait_exit() == 1
    assert "exited with fatal code 2: not respawned" in server.log()
    assert not server.pid_file.exists()

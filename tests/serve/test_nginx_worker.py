"""nginx's process model: worker loop, single process, daemon, cache, command line (20 to 28)."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from serve_harness import infer_body, output, read_answer, request_bytes, until, write_bundle

from cupola.serve.cache.index import CacheIndex
from cupola.serve.cache.processes import evict, load_index
from cupola.serve.ipc.listeners import Listener, open_listeners
from cupola.serve.settings import settings as settings_module
from cupola.serve.settings.settings import Settings

pytestmark = pytest.mark.processes


def test_nginx_20_a_quitting_worker_answers_then_exits(serve) -> None:
    server = serve()
    worker = server.pids()[0]
    with server.raw() as busy, server.raw() as idle:
        busy.sendall(request_bytes(infer_body(do="sleep", s=0.5)))
        idle.sendall(request_bytes(infer_body()))
        assert read_answer(idle)[0] == 200
        server.reload()
        assert psutil.pid_exists(worker)
        assert read_answer(busy)[0] == 200
        until(lambda: worker not in server.pids(), 10)  # idle past the grace
        assert idle.recv(1) == b""


def test_nginx_21_worker_shutdown_timeout_closes_every_connection(serve) -> None:
    server = serve(worker_shutdown_timeout=0.5)
    worker = server.pids()[0]
    with server.raw() as client:
        client.sendall(request_bytes(infer_body(do="sleep", s=20)))
        time.sleep(0.2)
        server.signal(signal.SIGHUP)
        began = time.monotonic()
        until(lambda: worker not in server.pids())
        assert time.monotonic() - began < 12
        assert read_answer(client)[0] == 0


def test_nginx_22_an_exiting_worker_sends_connection_close(serve) -> None:
    server = serve(keepalive_grace=5)
    with server.raw() as client:
        client.sendall(request_bytes(infer_body()))
        assert b"connection: close" not in read_answer(client)[1].lower()
        server.reload()
        time.sleep(0.3)
        client.sendall(request_bytes(infer_body()))  # the idle connection was kept for this
        status, head, _ = read_answer(client)
        assert status == 200 and b"connection: close" in head.lower()
        assert client.recv(1) == b""


@pytest.fixture
def single(serve):
    return serve(ready=False, master_process=False)


def test_nginx_23_single_process(single) -> None:
    server = single
    until(lambda: server.pid_file.exists(), what=server.log())
    assert output(server.infer()[1], "pid") == [server.pid]
    assert not psutil.Process(server.pid).children()
    for ignored in (signal.SIGWINCH, signal.SIGUSR2):
        server.signal(ignored)
    write_bundle(server.folder / "bundles", "echo", offset=3)
    server.signal(signal.SIGHUP)
    until(lambda: output(server.infer()[1], "y") == [4.0])
    write_bundle(server.folder / "bundles", "echo", start="missing")
    server.signal(signal.SIGHUP)
    until(lambda: "reload refused" in server.log())
    assert output(server.infer()[1], "y") == [4.0]
    server.signal(signal.SIGQUIT)
    assert server.wait_exit() == 0 and not server.pid_file.exists()


def test_nginx_24_daemon(serve) -> None:
    server = serve(daemon=True)
    assert server.wait_exit() == 0  # the parent has left
    master = psutil.Process(server.pid)
    assert os.getsid(server.pid) == os.getsid(server.pids()[0]) != os.getsid(0)
    assert master.ppid() == 1 or master.parent() != psutil.Process()
    assert "Umask:\t0000" in Path(f"/proc/{server.pid}/status").read_text()
    for stream in (0, 1):
        assert os.readlink(f"/proc/{server.pid}/fd/{stream}") == "/dev/null"


def test_nginx_25_the_manager_enforces_size_and_age(tmp_path: Path) -> None:
    index = CacheIndex(tmp_path)
    now = time.time()
    for number in range(10):
        key = f"{number:064x}"
        path = tmp_path / key[-1] / key[-3:-1] / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        index.add([(key, 100, now - 100 + number)])
    assert evict(index, tmp_path, 500, 1000.0) == pytest.approx(905, abs=2)
    assert index.size() == 500
    assert len(list(tmp_path.glob("?/??/*"))) == 5
    evict(index, tmp_path, 500, 92.5)
    assert index.size() == 200
    index.close()


def test_nginx_25_the_loader_rebuilds_the_index_in_small_steps(tmp_path: Path) -> None:
    for number in range(7):
        folder = tmp_path / f"{number}" / "00"
        folder.mkdir(parents=True)
        (folder / f"{number:064x}").write_bytes(b"x" * 10)
    half = tmp_path / "0" / "00" / ".half.1"
    half.write_bytes(b"x")
    os.utime(half, (0, 0))
    index = CacheIndex(tmp_path)
    assert list(load_index(index, tmp_path, 3)) == [3, 3, 1]
    assert index.size() == 70 and not half.exists()
    index.close()


def test_nginx_25_cache_processes(serve, tmp_path: Path) -> None:
    server = serve(cache_path=str(tmp_path / "cache"), cache_loader_delay=0.5)
    manager = until(lambda: server.pids("cache manager"))[0]
    loader = until(lambda: server.pids("cache loader"))[0]

    def ports(pid: int) -> set[int]:
        return {c.laddr.port for c in psutil.Process(pid).net_connections() if c.status}

    for pid in (manager, loader):  # neither listens, once it has closed what it inherited
        until(lambda pid=pid: server.port not in ports(pid))
    until(lambda: "cache loader" in server.log() and not server.pids("cache loader"))
    assert f"cache loader {loader} exited with code 0" in server.log()
    os.kill(manager, signal.SIGKILL)
    until(lambda: server.pids("cache manager") not in ([], [manager]))


def command(server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cupola", *arguments],
        env=server.environment(), capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def test_nginx_26_check_signal_and_status(serve) -> None:
    server = serve()
    good = command(server, "check", "-t", "-c", str(server.file))
    assert good.returncode == 0 and "settings are valid" in good.stderr, good.stderr
    dumped = command(server, "check", "-T", "-c", str(server.file))
    assert "keepalive_grace: 1.0" in dumped.stdout
    shown = command(server, "status", "-c", str(server.file))
    assert "runner echo:1" in shown.stdout and "generation 1" in shown.stdout, shown.stderr
    assert command(server, "signal", "reload", "-c", str(server.file)).returncode == 0
    until(lambda: server.status()["generation"] == 2)
    keep = server.file.read_text()
    server.file.write_text("listen: [")
    assert command(server, "check", "-c", str(server.file)).returncode == 1
    broken = command(server, "signal", "stop", "-c", str(server.file))
    assert broken.returncode == 1 and psutil.pid_exists(server.pid)
    server.file.write_text(keep)
    unknown = command(server, "signal", "relaod", "-c", str(server.file))
    assert unknown.returncode == 2 and "did you mean 'reload'" in unknown.stderr
    assert command(server, "signal", "quit", "--pid-file", str(server.pid_file)).returncode == 0
    server.wait_exit()


def test_nginx_27_auto_reads_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is tested in tests/test_cores.py."""
    monkeypatch.setattr(settings_module, "available_cores", lambda: 3)
    assert Settings(workers="auto").worker_count == 3
    assert Settings(workers=2).worker_count == 2


def test_nginx_27_an_address_in_use_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            open_listeners([f"127.0.0.1:{port}"], [])
    assert pauses == [0.5] * 4


def test_nginx_28_surplus_sockets_are_shared() -> None:
    sockets = [object() for _ in range(4)]
    listener = Listener("x", sockets)  # type: ignore[arg-type]
    shares = [listener.for_worker(index, 2) for index in range(2)]
    assert shares == [[sockets[0], sockets[2]], [sockets[1], sockets[3]]]
    assert [listener.for_worker(index, 4) for index in range(4)] == [[one] for one in sockets]


@pytest.mark.slow
def test_nginx_28_shrinking_with_reuseport_loses_no_request(serve) -> None:
    server = serve(workers=4, reuseport=True)
    stop, bad, sent = threading.Event(), [], [0]

    def client() -> None:
        while not stop.is_set():
            with server.raw() as connection:
                connection.sendall(request_bytes(infer_body(), extra="Connection: close\r\n"))
                status, head, _ = read_answer(connection)
                sent[0] += 1
                if status != 200:
                    bad.append(head)

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    for count in (2, 4, 2):
        server.configure(workers=count)
        server.reload()
    stop.set()
    for one in clients:
        one.join()
    assert not bad and sent[0] > 30
    assert len(server.children()) >= 2


def test_nginx_beyond_ttin_and_ttou(serve) -> None:
    server = serve()
    server.signal(signal.SIGTTIN)
    until(lambda: len([c for c in server.children() if c["state"] == "ready"]) == 2)
    server.signal(signal.SIGTTOU)
    until(lambda: len(server.children()) == 1)
    server.signal(signal.SIGTTOU)  # the last one stays
    time.sleep(0.1)
    assert server.infer()[0] == 200

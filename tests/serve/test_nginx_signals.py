"""nginx's process model: signals, flags and the order of the master's loop (statements 1 to 7)."""

import os
import signal
import threading
import time

import pytest
from serve_harness import infer_body, output, read_answer, request_bytes, until

from cupola.serve.ipc import signals
from cupola.serve.ipc.channel import Command
from cupola.serve.ipc.signals import COMMANDS, FLAGS, TABLE, Flag
from cupola.serve.master.master import Master
from cupola.serve.settings.settings import Settings

pytestmark = pytest.mark.processes


def test_nginx_01_signals_of_the_master() -> None:
    named = {
        "QUIT": "quit", "TERM": "terminate", "INT": "terminate", "HUP": "reconfigure",
        "USR1": "reopen", "USR2": "change_binary", "WINCH": "noaccept", "CHLD": "reap",
        "ALRM": "sigalrm",
    }  # fmt: skip
    for name, flag in named.items():
        assert FLAGS[signal.Signals[f"SIG{name}"]] == flag
    assert set(COMMANDS) >= {"stop", "quit", "reload", "reopen", "upgrade"}


@pytest.mark.parametrize("name", ["SIGQUIT", "SIGTERM", "SIGINT"])
def test_nginx_01_the_master_stops(serve, name: str) -> None:
    server = serve()
    server.signal(signal.Signals[name])
    assert server.wait_exit() == 0
    assert not server.pid_file.exists()
    assert not list(server.runtime.iterdir())


def test_nginx_01_winch_without_daemon_does_nothing(serve) -> None:
    server = serve()
    before = server.pids()
    server.signal(signal.SIGWINCH)
    until(lambda: server.status()["signals"].get("noaccept"))
    assert server.pids() == before and not server.status()["noaccepting"]


def test_nginx_02_signals_of_the_worker() -> None:
    acts = {entry.signal: entry.worker for entry in TABLE}
    assert acts[signal.SIGQUIT] == "quit" and acts[signal.SIGUSR1] == "reopen"
    assert acts[signal.SIGTERM] == acts[signal.SIGINT] == "terminate"
    assert acts[signal.SIGHUP] is acts[signal.SIGUSR2] is acts[signal.SIGIO] is None


def test_nginx_02_a_worker_ignores_hup_usr2_io_and_winch(serve) -> None:
    server = serve()
    worker, zygote = server.pids()[0], server.pids("zygote")[0]
    for pid in (worker, zygote):
        for ignored in (signal.SIGHUP, signal.SIGUSR2, signal.SIGIO, signal.SIGWINCH):
            os.kill(pid, ignored)
    time.sleep(0.1)
    assert server.infer()[0] == 200
    assert server.pids() == [worker] and server.pids("zygote") == [zygote]


@pytest.mark.parametrize("name", ["SIGQUIT", "SIGTERM"])
def test_nginx_02_a_stopped_worker_is_replaced(serve, name: str) -> None:
    server = serve()
    before = server.pids()
    os.kill(before[0], signal.Signals[name])
    until(lambda: server.pids() not in ([], before))
    server.wait_ready()
    assert server.infer()[0] == 200


def test_nginx_03_bursts_coalesce(serve) -> None:
    server = serve()
    for _ in range(50):
        server.signal(signal.SIGHUP)
    time.sleep(0.2)
    until(lambda: server.status()["pending"] is None)
    time.sleep(0.2)
    until(lambda: server.status()["pending"] is None)
    assert 1 <= server.status()["signals"]["reconfigure"] < 50
    assert 2 <= server.status()["generation"] <= 1 + server.status()["signals"]["reconfigure"]


def test_nginx_03_the_master_has_one_thread_and_no_handlers(serve) -> None:
    server = serve()
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
    with open(f"/proc/{server.pid}/status") as file:
        caught = int(next(line for line in file if line.startswith("SigCgt")).split()[1], 16)
    handled = signals.HANDLED - {signal.SIGINT}  # Python's own
    assert not any(caught >> (number - 1) & 1 for number in handled)


def test_nginx_04_a_second_usr2_is_ignored(serve) -> None:
    server = serve()
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old), what=server.log())
    new = server.pid
    server.wait_ready()
    os.kill(old, signal.SIGUSR2)
    os.kill(new, signal.SIGUSR2)
    until(lambda: server.log().count("upgrade ignored") == 2)
    os.kill(old, signal.SIGQUIT)
    server.wait_exit()


class Recorder(Master):
    """A master without processes that records its actions."""

    def __init__(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        super().__init__(lambda: Settings())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.acts: list[str] = []
        for name in ("_reap", "_terminate", "_quit", "_reconfigure", "_reopen", "_change_binary",
                     "_noaccept", "_restart_workers"):  # fmt: skip
            setattr(self, name, lambda *_, act=name: self.acts.append(act))
        self.generations.current = object()  # type: ignore[assignment]
        self._make_progress = self._write_status = lambda: None  # type: ignore[method-assign]
        self._sleep = lambda: 0.0  # type: ignore[method-assign]


def test_nginx_05_order_of_the_flags() -> None:
    master = Recorder()
    master.flags = set(Flag) - {Flag.TERMINATE, Flag.QUIT, Flag.GROW, Flag.SHRINK}
    assert not master._turn()
    assert master.acts == [
        "_reap", "_reconfigure", "_restart_workers", "_reopen", "_change_binary", "_noaccept",
    ]  # fmt: skip
    master.flags = {Flag.REAP, Flag.TERMINATE, Flag.QUIT}
    assert master._turn()  # no child is running, so the master exits


def test_nginx_06_quit_answers_requests_in_flight(serve) -> None:
    server = serve()
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(server.infer(do="sleep", s=0.6)[0]))
    asking.start()
    time.sleep(0.3)
    server.signal(signal.SIGQUIT)
    asking.join()
    assert found == [200]
    assert server.wait_exit() == 0


def test_nginx_06_quit_closes_the_listeners(serve) -> None:
    server = serve()
    with server.raw() as client:
        client.sendall(request_bytes(infer_body(do="sleep", s=0.6)))
        time.sleep(0.2)
        server.signal(signal.SIGQUIT)
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            server.raw()
        assert read_answer(client)[0] == 200


def test_nginx_06_noaccept_stops_the_workers(serve) -> None:
    server = serve(daemon=True)
    server.signal(signal.SIGWINCH)
    until(lambda: not server.pids())
    assert server.status()["noaccepting"] and server.pids("zygote")
    server.signal(signal.SIGTERM)
    until(lambda: not server.pid_file.exists())


def test_nginx_07_the_delays_double_until_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    master, told, delays = Recorder(), [], []
    del master._terminate
    master.table.broadcast = lambda command, children: told.append(command)
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: delays.append(seconds))
    while None not in told:
        master.flags.add(Flag.SIGALRM)
        master._terminate()
    assert told == [Command.TERMINATE] * 6 + [None]
    assert sum(delays[:6]) == pytest.approx(3.15)


def test_nginx_07_a_stopped_worker_is_killed_after_three_seconds(serve) -> None:
    server = serve()
    worker = server.pids()[0]
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    server.wait_exit()
    assert 3.1 < time.monotonic() - began < 6


def test_nginx_07_terminate_is_quick_otherwise(serve) -> None:
    server = serve()
    output(server.infer()[1], "y")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    server.wait_exit()
    assert time.monotonic() - began < 2.0

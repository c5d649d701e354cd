"""Stopping behind a load balancer, and reloads that hang: `drain_delay`, /health, newest wins."""

import http.client
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from serve_harness import Running, output, until, write_bundle

pytestmark = pytest.mark.processes

READY, HEALTH = "/v2/health/ready", "/health"


def ask(client: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Status and `Connection` header of an answer on that connection."""
    client.request("GET", path)
    answer = client.getresponse()
    answer.read()
    return answer.status, answer.headers.get("connection", "")


# ---- health


def test_health_is_answered_while_models_are_loading(serve, tmp_path: Path) -> None:
    hanging = write_bundle(tmp_path, "echo", start="hang")
    server = serve(ready=False, models=[str(hanging)])

    def answered() -> Any:
        try:
            return server.ask("GET", HEALTH)
        except OSError:
            return None

    status, headers, body = until(answered)
    assert (status, body) == (200, b'{"status":"ok"}')
    status, again, body = server.ask("HEAD", HEALTH)
    assert (status, body, again["content-length"]) == (200, b"", headers["content-length"])
    assert server.get(READY)[0] == 503
    assert server.ask("POST", HEALTH)[0] == 405


# ---- drain_delay


def start(serve: Any, *, master: bool, **settings: Any) -> Running:
    """A server that is ready, with or without a master."""
    server: Running = serve(ready=master, master_process=master, **settings)

    def ready() -> bool:
        try:
            return server.get(READY)[0] == 200
        except OSError:
            return False

    until(ready, 30)
    return server


@pytest.mark.parametrize(
    ("number", "master"), [(signal.SIGQUIT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
def test_connections_are_served_during_the_delay(serve, number: signal.Signals, master) -> None:
    server = start(serve, master=master, drain_delay=1.5)
    kept = server.connect()
    assert ask(kept, READY) == (200, "")
    began = time.monotonic()
    server.signal(number)
    until(lambda: server.get(READY)[0] == 503, 1.0)
    assert ask(kept, READY) == (503, "close")
    if master:
        os.kill(server.pids()[0], signal.SIGKILL)  # its successor knows, too
        until(lambda: len(server.pids()) == 1)
    assert server.get("/v2/models/echo/ready")[0] == 503
    while time.monotonic() - began < 1.3:
        status, headers, _ = server.ask("GET", HEALTH)
        assert (status, headers["connection"]) == (200, "close")
        assert server.infer()[0] == 200
    assert server.wait_exit() == 0
    assert time.monotonic() - began > 1.4
    with pytest.raises(ConnectionRefusedError):
        server.raw()


@pytest.mark.parametrize("master", [True, False])
def test_a_second_term_ends_the_delay(serve, master: bool) -> None:
    server = start(serve, master=master, drain_delay=60)
    server.signal(signal.SIGQUIT)
    until(lambda: server.get(READY)[0] == 503)
    server.signal(signal.SIGQUIT)  # changes nothing
    server.signal(signal.SIGHUP)
    time.sleep(0.3)
    assert server.infer()[0] == 200
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0


def test_without_a_delay_readiness_ends_with_the_first_signal(serve) -> None:
    server = serve()
    kept, asking = server.connect(), server.connect()
    assert ask(kept, READY) == (200, "")
    asking.connect()
    server.signal(signal.SIGQUIT)
    time.sleep(0.3)
    assert ask(kept, READY) == (503, "close")
    asking.close()
    assert server.wait_exit() == 0


def test_a_reload_does_not_end_readiness(serve) -> None:
    server = serve(drain_delay=60, keepalive_grace=5)
    kept = server.connect()
    assert ask(kept, READY) == (200, "")
    server.reload()
    assert ask(kept, READY) == (200, "close")  # by a worker of the old generation


def test_an_upgrade_needs_no_delay(serve) -> None:
    """The old master stops at once: the new one accepts on the same sockets."""
    server = serve(drain_delay=60)
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old), 30)
    server.wait_ready()
    server.signal(signal.SIGQUIT, old)
    while server.process.poll() is None:
        assert server.get(READY)[0] == 200
    assert server.get(READY)[0] == 200 and server.infer()[0] == 200


# ---- reloads that hang


def hanging(server: Running) -> None:
    """Starts a reload of a model whose load never ends."""
    write_bundle(server.folder / "bundles", "echo", start="hang")
    before = server.status()["pending"]
    server.signal(signal.SIGHUP)
    until(lambda: server.status()["pending"] not in (before, None))


def test_the_newest_reload_wins(serve) -> None:
    server = serve(ready_timeout=120)
    for _ in range(3):
        hanging(server)
    extra = f"unix:{server.folder}/x.sock"
    server.configure(listen=[*server.settings["listen"], extra])
    hanging(server)
    write_bundle(server.folder / "bundles", "echo", offset=5)
    began = time.monotonic()
    server.signal(signal.SIGHUP)  # with the address that the hanging one has opened
    until(lambda: server.status()["generation"] == 6, 20)
    assert time.monotonic() - began < 20
    assert output(server.infer()[1], "y") == [6.0]
    until(lambda: {child["generation"] for child in server.status()["processes"]} == {6})
    assert "generation 5 ended before it was ready: superseded by generation 6" in server.log()
    until(lambda: [path.name for path in server.runtime.glob("*/g*")] == ["g6"])


@pytest.mark.slow
def test_invalid_settings_do_not_end_a_reload_that_is_loading(serve) -> None:
    server = serve()
    write_bundle(server.folder / "bundles", "echo", load_seconds=2.0, offset=5)
    server.signal(signal.SIGHUP)
    until(lambda: server.status()["pending"] == 2)
    server.file.write_text("workers: many")
    server.signal(signal.SIGHUP)
    until(lambda: "reload refused" in server.log())
    until(lambda: server.status()["generation"] == 2, 20)
    assert output(server.infer()[1], "y") == [6.0]


@pytest.mark.slow
def test_a_first_start_that_hangs_is_superseded(serve, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "echo", start="hang")
    server = serve(ready=False, models=[str(bundle)])
    until(lambda: server.pid_file.exists() and server.status().get("pending") == 1)
    write_bundle(tmp_path, "echo")
    server.signal(signal.SIGHUP)
    server.wait_ready(20)
    assert server.infer()[0] == 200


@pytest.mark.parametrize(
    ("number", "first"),
    [(signal.SIGQUIT, False), (signal.SIGQUIT, True),
     pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
     pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_hanging_start_does_not_keep_the_server_from_stopping(
    serve, tmp_path: Path, number: signal.Signals, first: bool
) -> None:
    if first:
        bundle = write_bundle(tmp_path, "echo", start="hang")
        server = serve(ready=False, models=[str(bundle)])
        until(lambda: server.pid_file.exists() and server.status().get("pending") == 1)
    else:
        server = serve()
        hanging(server)
    server.signal(number)
    assert server.wait_exit(10) == 0
    until(lambda: not server.processes())


def test_one_process_is_not_kept_by_a_load_that_hangs(serve) -> None:
    server = start(serve, master=False)
    bundles = server.folder / "bundles"
    write_bundle(bundles, "echo", start="hang")
    extra = f"unix:{server.folder}/x.sock"
    server.configure(listen=[*server.settings["listen"], extra])
    for _ in range(2):
        server.signal(signal.SIGHUP)
        time.sleep(0.3)
    assert server.infer()[0] == 200
    write_bundle(bundles, "echo", offset=5)
    server.signal(signal.SIGHUP)
    until(lambda: output(server.infer()[1], "y") == [6.0])
    write_bundle(bundles, "echo", start="hang")
    server.configure(ready_timeout=0.5)
    server.signal(signal.SIGHUP)
    until(lambda: "reload refused: the models were not ready within 0.5 s" in server.log())
    server.configure(ready_timeout=60)
    server.signal(signal.SIGHUP)
    time.sleep(0.3)
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0


def test_one_process_stops_while_its_first_model_hangs(serve, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, "echo", start="hang")
    server = serve(ready=False, master_process=False, models=[str(bundle)])
    until(lambda: list(server.runtime.glob("*/g1")))
    time.sleep(0.3)
    server.signal(signal.SIGTERM, server.process.pid)
    assert server.wait_exit(5) == 0


@pytest.mark.slow
def test_an_upgrade_ends_a_reload_that_hangs(serve) -> None:
    server = serve(ready_timeout=120)
    extra = f"unix:{server.folder}/x.sock"
    server.configure(listen=[*server.settings["listen"], extra])
    hanging(server)
    old = server.pid
    write_bundle(server.folder / "bundles", "echo")
    server.signal(signal.SIGUSR2)
    until(lambda: server.written_pid() not in (None, old), 30)
    server.wait_ready()
    assert server.status(old)["pending"] is None
    server.signal(signal.SIGQUIT, old)
    until(lambda: not psutil.pid_exists(old) or server.wait_exit() == 0)
    assert server.infer()[0] == 200

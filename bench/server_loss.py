"""Counts lost requests while the server is reloaded, upgraded, rolled back, killed and misdeployed.

Raw-socket clients that never retry: half of them keep their connection, some with think time,
the others open one for each request. Every request has an id, checked against the server's own
access log. A request is lost if its answer does not come whole; with 0 of n lost, the true rate is
below 3/n with 95 % confidence.

    python bench/server_loss.py [--requests 300000] [--connections 32] [--acts reload,upgrade,...]
"""

import argparse
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, infer_body, until, write_bundle

ACTS = ("calm", "reload", "upgrade", "rollback", "runner", "worker", "broken", "rotate", "disk")
THINK = (0.0, 0.0, 0.005, 0.05)  # seconds between two requests of a keep-alive client


class Clients:
    """Threads that ask and count. `lost` holds (phase, id, why)."""

    def __init__(self, server: Running, count: int) -> None:
        self.server, self.phase = server, "calm"
        self.sent: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.lost: list[tuple[str, str, str]] = []
        self.truncated: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {}
        self.over = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(count)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        keep_alive, think = number % 2 == 0, THINK[number // 2 % len(THINK)]
        connection: socket.socket | None = None
        serial = 0
        while not self.over.is_set():
            serial += 1
            connection = self._still_open(connection)
            name, phase = f"c{number}-{serial}", self.phase
            began = time.perf_counter()
            answer, connection = self._ask(name, serial, connection, keep_alive)
            with self._lock:
                self._count(phase, name, answer, time.perf_counter() - began)
            if keep_alive and think:
                time.sleep(think * random.random() * 2)
        if connection is not None:
            connection.close()

    @staticmethod
    def _still_open(connection: socket.socket | None) -> socket.socket | None:
        """A client that finds its idle connection closed opens another: nothing was sent yet."""
        if connection is None or not select.select([connection], [], [], 0)[0]:
            return connection
        connection.close()
        return None

    def _ask(
        self, name: str, serial: int, connection: socket.socket | None, keep_alive: bool
    ) -> tuple[str, socket.socket | None]:
        """("ok" | why not, the connection if it can be used again)."""
        try:
            connection = connection or socket.create_connection(
                ("127.0.0.1", self.server.port), timeout=60
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            body = infer_body([float(serial % 1000)])
            close = "" if keep_alive else "Connection: close\r\n"
            head = (
                f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: t\r\nX-Request-Id: {name}\r\n"
                f"Content-Length: {len(body)}\r\n{close}\r\n"
            )
            connection.sendall((head + body).encode())
            answer, reusable = self._read(connection, name, serial)
        except OSError as error:
            answer, reusable = f"{type(error).__name__}", False
        if connection is not None and not (reusable and keep_alive):
            connection.close()
            connection = None
        return answer, connection

    def _read(self, connection: socket.socket, name: str, serial: int) -> tuple[str, bool]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return ("truncated" if data else "closed"), False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        while len(body) < int(headers["content-length"]):
            more = connection.recv(65536)
            if not more:
                return "truncated", False
            body += more
        status = int(lines[0].split()[1])
        if status != 200:
            return f"status {status}", False
        values = next(o["data"] for o in json.loads(body)["outputs"] if o["name"] == "y")
        if headers["x-request-id"] != name or values != [float(serial % 1000)]:
            return "wrong", False
        return "ok", headers.get("connection") != "close"

    def _count(self, phase: str, name: str, answer: str, seconds: float) -> None:
        self.sent[phase] += 1
        self.seconds.setdefault(phase, []).append(seconds)
        if answer == "ok":
            self.answered[phase] += 1
        elif answer == "truncated":
            self.truncated[phase] += 1
        elif answer == "wrong":
            self.wrong[phase] += 1
        else:
            self.lost.append((phase, name, answer))


def act(name: str, server: Running) -> None:
    """One act; returns when it is over."""
    match name:
        case "calm":
            time.sleep(0.5)
        case "reload":
            server.reload()
        case "upgrade":
            _upgrade(server, accept=True)
        case "rollback":
            _upgrade(server, accept=False)
        case "runner":
            old = server.runner_pid()
            os.kill(old, signal.SIGKILL)
            until(lambda: server.runner_pid() != old)
            time.sleep(0.1)
        case "worker":
            old = random.choice(server.pids())
            os.kill(old, signal.SIGKILL)
            until(lambda: old not in server.pids() and len(server.pids()) >= 2)
            time.sleep(0.1)
        case "broken":
            _misdeploy(server, random.choice(["syntax", "missing", "import", "memory", "exit"]))
        case "rotate":
            for log in (server.log_file, Path(server.settings["access_log"])):
                log.rename(f"{log}.{time.time_ns()}")
            server.signal(signal.SIGUSR1)
            until(lambda: Path(server.settings["access_log"]).exists())
        case "disk":
            time.sleep(0.5)  # error.log is a link to /dev/full throughout this phase


def _upgrade(server: Running, *, accept: bool) -> None:
    old = server.pid
    server.signal(signal.SIGUSR2)
    until(lambda: server.pid_file.exists() and server.pid != old, 30)
    new = server.pid
    until(lambda: server.status(new).get("generation"), 30)
    os.kill(old, signal.SIGWINCH)
    until(lambda: not server.children("worker", old), 30)
    if accept:
        os.kill(old, signal.SIGQUIT)
        until(lambda: not Path(f"/proc/{old}").exists(), 30)
        return
    os.kill(old, signal.SIGHUP)
    until(lambda: any(c["state"] == "ready" for c in server.children("worker", old)), 30)
    os.kill(new, signal.SIGQUIT)
    until(lambda: server.pid_file.exists() and server.pid == old, 30)


def _misdeploy(server: Running, how: str) -> None:
    bundles, good = server.folder / "bundles", server.file.read_text()
    before = server.log().count("refused") + server.log().count("failed: its")
    if how == "syntax":
        server.file.write_text("listen: [")
    else:
        write_bundle(bundles, "echo", start=how)
    server.signal(signal.SIGHUP)
    until(lambda: server.log().count("refused") + server.log().count("failed: its") > before, 60)
    write_bundle(bundles, "echo")
    server.file.write_text(good)


def start_server(folder: Path) -> Running:
    """Two workers, one no-op runner, as a daemon, with a JSON access log as the journal."""
    server = Running(
        folder,
        workers=2,
        daemon=True,
        access_log=str(folder / "access.log"),
        access_log_format="json",
        keepalive_grace=5.0,
        loading_priority=10,
        queue_limit=4096,
    )
    server.start()
    server.wait_ready()
    return server


def journal(folder: Path) -> Counter[str]:
    """Ids that the server says it answered with 200."""
    found: Counter[str] = Counter()
    for file in folder.glob("access.log*"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["status"] == 200 and entry["path"].endswith("/infer"):
                found[entry["id"]] += 1
    return found


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def measure(options: argparse.Namespace, folder: Path) -> Clients:
    """Each act for its share of the requests, then the table."""
    server = start_server(folder)
    clients = Clients(server, options.connections)
    acts = options.acts.split(",")
    done: Counter[str] = Counter()
    clients.start()
    try:
        for name in acts:
            clients.phase = name
            time.sleep(0.5)  # and what the act meets began in this one
            if name == "disk":
                _fill_disk(server)
            goal = options.requests // len(acts)
            while clients.sent[name] < goal or done[name] < options.times:
                act(name, server)
                done[name] += 1
                if done[name] >= options.times and clients.sent[name] >= goal:
                    break
            clients.phase = "between"
            time.sleep(1.0)  # what began in this phase ends in it
    finally:
        clients.stop()
        server.stop()
    report(clients, done, journal(folder), acts)
    return clients


def _fill_disk(server: Running) -> None:
    """From now on the error log is full; the journal lies elsewhere."""
    server.log_file.unlink(missing_ok=True)
    server.log_file.symlink_to("/dev/full")
    server.signal(signal.SIGUSR1)


def report(clients: Clients, done: Counter[str], told: Counter[str], acts: list[str]) -> None:
    lost = Counter(phase for phase, _, _ in clients.lost)
    print(f"{'act':10} {'times':>5} {'sent':>8} {'answered':>8} {'lost':>5} {'trunc':>5} "
          f"{'wrong':>5} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7}")  # fmt: skip
    for name in [*acts, "between"]:
        seconds = clients.seconds.get(name)
        if not seconds:
            continue
        print(f"{name:10} {done[name]:5} {clients.sent[name]:8} {clients.answered[name]:8} "
              f"{lost[name]:5} {clients.truncated[name]:5} {clients.wrong[name]:5} "
              f"{quantile(seconds, 0.5):7.1f} {quantile(seconds, 0.99):7.1f} "
              f"{max(seconds) * 1000:7.1f}")  # fmt: skip
    total, missing = sum(clients.sent.values()), len(clients.lost) + clients.truncated.total()
    print(f"total: {total} sent, {missing} lost or truncated; "
          f"answered twice by the journal: {sum(n > 1 for n in told.values())}; "
          f"rate below {3 / total if not missing else missing / total:.1e}")  # fmt: skip
    for phase, why in sorted({(phase, why) for phase, _, why in clients.lost}):
        count = sum((p, w) == (phase, why) for p, _, w in clients.lost)
        print(f"  lost in {phase}: {count} x {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--times", type=int, default=4, help="each act at least so often")
    parser.add_argument("--acts", default=",".join(ACTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()

"""Clients on plain sockets that never retry, and the outcome of each of their requests.

Half of them keep their connection, some with think time; the others open one per request. They run
in separate processes, so that the work of one client does not count as the delay of another.
"""

import json
import multiprocessing
import random
import select
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import infer_body

PROCESSES = 2
THINK = (0.0, 0.0, 0.005, 0.05)  # seconds between two requests of a keep-alive client


@dataclass
class Outcome:
    """The outcomes of the requests that began in one phase. Times in seconds."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # why -> how often
    seconds: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.answered + self.failed.total()

    def add(self, other: "Outcome") -> None:
        self.answered += other.answered
        self.failed += other.failed
        self.seconds += other.seconds


class Clients:
    """`count` clients of `port`. `begin(phase)` names the phase of the next requests."""

    def __init__(self, port: int, count: int, *, echoes: bool = True) -> None:
        self.phases: list[str] = ["start"]
        self.outcomes: dict[str, Outcome] = {}
        self._phase = multiprocessing.Value("i", 0)
        self._asked = multiprocessing.Value("q", 0)
        self._over = multiprocessing.Event()
        self._results: multiprocessing.Queue[dict[int, Outcome]] = multiprocessing.Queue()
        shared = (self._phase, self._asked, self._over, self._results)
        self._processes = [
            multiprocessing.Process(
                target=run_clients, args=(port, range(first, count, PROCESSES), echoes, shared)
            )
            for first in range(PROCESSES)
        ]

    def start(self) -> None:
        for process in self._processes:
            process.start()

    def begin(self, phase: str) -> None:
        """Counts all further requests under this name."""
        self.phases.append(phase)
        self._phase.value = len(self.phases) - 1

    @property
    def asked(self) -> int:
        """Number of requests so far, in all phases."""
        return int(self._asked.value)

    def stop(self) -> None:
        """Stops all clients and collects their outcomes."""
        self._over.set()
        for _ in self._processes:
            for number, outcome in self._results.get().items():
                self.outcomes.setdefault(self.phases[number], Outcome()).add(outcome)
        for process in self._processes:
            process.join()


def run_clients(port: int, numbers: range, echoes: bool, shared: tuple[Any, ...]) -> None:
    """One process of clients, each in a thread."""
    phase, asked, over, results = shared
    clients = [Client(port, number, echoes) for number in numbers]
    threads = [threading.Thread(target=one.run, args=(phase, over)) for one in clients]
    for thread in threads:
        thread.start()
    counted = 0
    while not over.wait(0.05):
        found = sum(one.serial for one in clients)
        with asked.get_lock():
            asked.value += found - counted
        counted = found
    for thread in threads:
        thread.join()
    total: dict[int, Outcome] = {}
    for one in clients:
        for number, outcome in one.outcomes.items():
            total.setdefault(number, Outcome()).add(outcome)
    results.put(total)


class Client:
    """A client with one connection, or one per request."""

    def __init__(self, port: int, number: int, echoes: bool) -> None:
        self.port, self.number, self.echoes = port, number, echoes
        self.keep_alive, self.think = number % 2 == 0, THINK[number // 2 % len(THINK)]
        self.connection: socket.socket | None = None
        self.serial = 0
        self.outcomes: dict[int, Outcome] = {}

    def run(self, phase: Any, over: Any) -> None:
        while not over.is_set():
            self.serial += 1
            self._drop_if_closed()
            outcome = self.outcomes.setdefault(phase.value, Outcome())
            began = time.perf_counter()
            why = self._ask(f"c{self.number}-{self.serial}", float(self.serial % 1000))
            outcome.seconds.append(time.perf_counter() - began)
            if why:
                outcome.failed[why] += 1
            else:
                outcome.answered += 1
            if self.keep_alive and self.think:
                time.sleep(self.think * random.random() * 2)
        self._close()

    def _drop_if_closed(self) -> None:
        """Drops an idle connection that the server has closed; no request was sent on it."""
        if self.connection and select.select([self.connection], [], [], 0)[0]:
            self._close()

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _ask(self, name: str, value: float) -> str:
        """Sends a request; the reason of a failure, or ""."""
        body = infer_body([value])
        close = "" if self.keep_alive else "Connection: close\r\n"
        head = (
            f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: t\r\nX-Request-Id: {name}\r\n"
            f"Content-Length: {len(body)}\r\n{close}\r\n"
        )
        try:
            if self.connection is None:
                self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connection.sendall((head + body).encode())
            why, reusable = self._read(self.connection, name, value)
        except OSError as error:
            why, reusable = type(error).__name__, False
        if not (reusable and self.keep_alive):
            self._close()
        return why

    def _read(self, connection: socket.socket, name: str, value: float) -> tuple[str, bool]:
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
        if headers["x-request-id"] != name or (self.echoes and echoed(body) != [value]):
            return "wrong", False
        return "", headers.get("connection") != "close"


def echoed(body: bytes) -> Any:
    """The values in the answer."""
    return next(o["data"] for o in json.loads(body)["outputs"] if o["name"] == "y")

"""Mutated requests against a real server: nothing dies, grows, or stays behind."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import uvloop
from answering import Answering
from raw_fuzz import send_cases
from serve_harness import Running, until, write_bundle

from cupola.serve.http.connection import Connection
from cupola.serve.http.messages import HTTPError
from cupola.serve.settings.settings import Settings

pytestmark = pytest.mark.processes
PIECE = 25_000  # within the time limit of a test on a busy machine
GROWTH = 1.2  # of a worker's memory at its start


class Target:
    """A server, with what must not change while it is attacked."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.processes = (running.pids(), running.runner_pids())
        assert running.ask("GET", "/openapi.json")[0] == 200  # makes it, once
        self.memory = self.worker_memory()

    def worker_memory(self) -> list[int]:
        return [psutil.Process(pid).memory_info().rss for pid in self.running.pids()]

    def attack(self, seed: int, count: int) -> None:
        """Sends `count` cases of a seed, and compares the server with itself at its start."""
        statuses, faults = asyncio.run(send_cases(self.running.port, seed, range(count)))
        assert not faults, faults[:10]
        assert {"200", "400", "404", "408"} <= set(statuses)  # the cases are of many kinds
        assert (self.running.pids(), self.running.runner_pids()) == self.processes
        assert self.running.infer()[0] == 200
        until(lambda: not list(self.running.runtime.rglob("spool/*")), what="an empty spool")
        until(lambda: self.connections() == 0, what="closed connections")
        assert "[error]" not in self.running.log()
        sizes = self.worker_memory()
        growth = [now / before for now, before in zip(sizes, self.memory, strict=True)]
        print(f"seed {seed}: {dict(statuses)}, memory x {max(growth):.3f} of {self.memory}")
        assert max(growth) < GROWTH

    def connections(self) -> int:
        workers = [psutil.Process(pid) for pid in self.running.pids()]
        open_ones = [c for w in workers for c in w.net_connections("tcp") if c.status != "LISTEN"]
        return len(open_ones)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    bundles = [
        write_bundle(folder / "bundles", "echo"),
        write_bundle(folder / "bundles", "speaker", task="language"),
    ]
    running = Running(
        folder,
        models=[str(bundle) for bundle in bundles],
        header_timeout=0.5, body_timeout=0.5, keepalive_timeout=0.5, send_timeout=5.0,
        max_body=1_000_000, max_header=8192, shm_threshold=4096, request_timeout=5.0,
        access_log="/dev/null",
    )  # fmt: skip
    running.start()
    running.wait_ready()
    yield Target(running)
    running.stop()


def test_some_thousand_mutated_requests(target: Target) -> None:
    target.attack(seed=0, count=4000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 41))
def test_a_million_mutated_requests(target: Target, seed: int) -> None:
    target.attack(seed, PIECE)


def test_a_connection_leaves_no_reference_cycles(tmp_path: Path) -> None:
    """They would hold its data until the next full garbage collection, which is rare."""

    async def run() -> None:
        settings = Settings(shm_threshold=4096, max_header=8192, header_timeout=0.5)
        server = Answering(settings, tmp_path)
        listener = await server.loop.create_server(lambda: Connection(server), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        gc.collect()
        gc.disable()
        try:
            for number in range(0, 200, 2):  # those that the client half-closes
                await send_cases(port, 0, range(number, number + 1), at_once=1)
            while server.connections:
                await asyncio.sleep(0.01)
            kinds = (Connection, HTTPError)  # isinstance would ask objects of any library
            kept = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
            assert not kept
        finally:
            gc.enable()
            listener.close()

    uvloop.run(run())

"""Latency of 32 honest clients beside thousands of slow ones, compared with the same without them.

Slow readers ask for a large answer and take some bytes of it now and then; slow headers and slow
bodies send a byte now and then. All reconnect at once when the server closes. The honest clients
ask a no-op model with some think time. Calm and hostile phases alternate on one server; the ratio
is the median of the rounds.

    python bench/hostile.py [--count 1000] [--rounds 5] [--seconds 4] [--kinds headers,bodies]
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, infer_body, request_bytes, write_bundle

from ratio import machine

HONEST, PROCESSES = 32, 2
THINK = 0.05  # seconds between two requests of an honest client, on average
PAUSE = 1.0  # seconds between two bytes of a slow client
Begun = Callable[[], object]  # called once the server has let the client begin to be slow
HEAD = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"
ANSWER = 200_000  # bytes of what a slow reader asks for


# ---- honest clients


def honest_clients(port: int, count: int, over: Event, times: Any) -> None:
    """A process of honest clients; puts the latencies in seconds and the number of failures."""
    asyncio.run(_ask_all(port, count, over, times))


async def _ask_all(port: int, count: int, over: Event, times: Any) -> None:
    found: list[float] = []
    failures: list[str] = []
    await asyncio.gather(*(_ask(port, over, found, failures) for _ in range(count)))
    times.put((found, failures))


async def _ask(port: int, over: Event, found: list[float], failures: list[str]) -> None:
    body = infer_body([1.0])
    message = request_bytes(body, "/v2/models/noop/infer")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        await asyncio.sleep(random.random() * 2 * THINK)
        began = time.perf_counter()
        try:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            failures.append(type(error).__name__)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        found.append(time.perf_counter() - began)
        if not head.startswith(b"HTTP/1.1 200"):
            failures.append(head[9:12].decode())
    writer.close()


def phase(port: int, seconds: float) -> tuple[float, float, int, list[str]]:
    """p50 and p99 in milliseconds, the number of requests, and what failed."""
    over = multiprocessing.Event()
    times: multiprocessing.Queue[tuple[list[float], list[str]]] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(
            target=honest_clients, args=(port, HONEST // PROCESSES, over, times)
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    time.sleep(seconds)
    over.set()
    results = [times.get() for _ in processes]
    for process in processes:
        process.join()
    found = sorted(1000 * each for latencies, _ in results for each in latencies)
    failures = [why for _, whys in results for why in whys]
    return statistics.median(found), found[int(0.99 * len(found))], len(found), failures


# ---- slow clients


def large_request() -> bytes:
    """A request with a binary tensor that comes back."""
    spec = {"name": "x", "datatype": "FP32", "shape": [ANSWER // 4]}
    spec["parameters"] = {"binary_data_size": ANSWER}
    wanted = {"inputs": [spec], "parameters": {"binary_data_output": True}}
    document = json.dumps(wanted).encode()
    size = len(document) + ANSWER
    fields = f"Inference-Header-Content-Length: {len(document)}\r\nContent-Length: {size}\r\n\r\n"
    return HEAD + fields.encode() + document + b"\0" * ANSWER


LARGE = large_request()


async def slow_reader(connection: socket.socket, begun: Begun) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, LARGE)
    while await loop.sock_recv(connection, 100):
        begun()
        await asyncio.sleep(PAUSE * 2 * random.random())


async def slow_header(connection: socket.socket, begun: Begun) -> None:
    begun()
    await _drip(connection, HEAD + b"X: " + b"a" * 10_000)


async def slow_body(connection: socket.socket, begun: Begun) -> None:
    begun()
    await _drip(connection, b" " * 100_000, HEAD + b"Content-Length: 100000\r\n\r\n")


async def _drip(connection: socket.socket, data: bytes, start: bytes = b"") -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, start)
    for byte in data:
        await loop.sock_sendall(connection, bytes([byte]))
        await asyncio.sleep(PAUSE * 2 * random.random())


KINDS: dict[str, Callable[[socket.socket, Begun], Any]] = {
    "readers": slow_reader, "headers": slow_header, "bodies": slow_body,
}  # fmt: skip


def attack(port: int, kinds: list[str], count: int, ready: Event, over: Event) -> None:
    """A process of `count` slow clients of each kind, until `over`."""
    asyncio.run(_attack(port, kinds, count, ready, over))


async def _attack(port: int, kinds: list[str], count: int, ready: Event, over: Event) -> None:
    begun: set[int] = set()

    async def one(kind: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection = socket.socket()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await KINDS[kind](connection, partial(begun.add, number))
            except OSError:
                await asyncio.sleep(0.1)
            finally:
                connection.close()

    tasks = [
        asyncio.create_task(one(kind, place * count + number))
        for place, kind in enumerate(kinds)
        for number in range(count)
    ]
    while not over.is_set():
        await asyncio.sleep(0.1)
        if len(begun) == len(tasks):
            ready.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- rounds


def measure(server: Running, kinds: list[str], options: argparse.Namespace) -> None:
    """Prints a row: honest clients without and with slow ones of these kinds."""
    calm, hostile, ratios = [], [], []
    for _ in range(options.rounds):
        calm.append(phase(server.port, options.seconds))
        ready, over = multiprocessing.Event(), multiprocessing.Event()
        attackers = multiprocessing.Process(
            target=attack, args=(server.port, kinds, options.count, ready, over)
        )
        attackers.start()
        assert ready.wait(60), "the slow clients could not connect"
        time.sleep(1.0)
        hostile.append(phase(server.port, options.seconds))
        over.set()
        attackers.join()
        time.sleep(1.0)
        ratios.append(hostile[-1][1] / calm[-1][1])
    name = f"{options.count} slow {kinds[0]}" if len(kinds) == 1 else f"{options.count} of each"
    values = [statistics.median(row[i] for row in rows) for i in (0, 1) for rows in (calm, hostile)]
    failed = [why for row in hostile for why in row[3]]
    print(f"{name:26}" + "".join(f"{value:10.2f}" for value in values)
          + f"{statistics.median(ratios):8.2f}  {min(ratios):5.2f} to {max(ratios):5.2f}"
          + f"{sum(row[2] for row in hostile):8} {len(failed):7} {', '.join(set(failed))}",
          flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="slow clients of each kind")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--kinds", default="readers,headers,bodies")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kinds = options.kinds.split(",")
    print(machine())
    print(f"{'ms':26}{'p50 alone':>10}{'beside':>10}{'p99 alone':>10}{'beside':>10}"
          f"{'ratio':>8}  {'of the rounds':>14}{'asked':>8} {'failed':>7}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        bundles = [
            write_bundle(Path(folder) / "bundles", name, task=name) for name in ("echo", "noop")
        ]
        server = Running(
            Path(folder) / "server", models=[str(b) for b in bundles], workers=2, queue_limit=4096
        )
        server.start()
        try:
            server.wait_ready()
            for one in kinds:
                measure(server, [one], options)
            if len(kinds) > 1:
                measure(server, kinds, options)
        finally:
            server.stop()
    print(f"aim: ratio of p99 <= 2; {machine()}")


if __name__ == "__main__":
    main()

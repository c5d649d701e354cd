"""A no-op model behind worker and runner against a bare uvicorn application, in the same run.

Prints the median latency of one keep-alive client, and the throughput of 32, for both; and what
the server itself needs: the respawn of a worker and of a runner, and memory (PSS).

    python bench/serve.py [--seconds 5] [--clients 32]
"""

import argparse
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, free_port, infer_body, read_answer, until

BARE = """
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
"""


def request() -> bytes:
    body = infer_body([1.0])
    head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def one_client(port: int, seconds: float, times: "multiprocessing.Queue[list[float]]") -> None:
    """Asks for `seconds`; puts the latencies into the queue."""
    found, message = [], request()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            client.sendall(message)
            if read_answer(client)[0] != 200:
                break
            found.append(time.perf_counter() - began)
    times.put(found)


def measure(port: int, clients: int, seconds: float) -> tuple[float, float]:
    """(median latency in ms, answers per second). Clients share two processes at most 16 each."""
    times: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=one_client, args=(port, seconds, times))
        for _ in range(clients)
    ]
    for process in processes:
        process.start()
    found = [latency for _ in processes for latency in times.get()]
    for process in processes:
        process.join()
    return statistics.median(found) * 1000, len(found) / seconds


def bare_uvicorn(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    (folder / "bare.py").write_text(BARE)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "bare:app", "--port", str(port), "--log-level",
         "error", "--no-access-log", "--loop", "uvloop", "--http", "httptools"],
        cwd=folder,
    )  # fmt: skip

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    return process, port


def family_pss(pid: int) -> float:
    """MB of all processes of a server; shared pages are counted once."""
    master = psutil.Process(pid)
    members = [master, *master.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in members) / 1e6


def respawns(server: Running) -> tuple[float, float]:
    """Milliseconds from KILL until a worker, and until a runner, is there again."""
    worker = server.pids()[0]
    began = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.pids() and server.pids() != [worker])
    first = time.perf_counter() - began
    server.wait_ready()
    runner = server.runner_pid()
    began = time.perf_counter()
    os.kill(runner, signal.SIGKILL)
    until(lambda: server.runner_pid() != runner)
    return first * 1000, (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Running(Path(folder), queue_limit=4096)
        server.start()
        server.wait_ready()
        bare, bare_port = bare_uvicorn(Path(folder))
        try:
            rows = {}
            for name, port in (("uvicorn", bare_port), ("cupola", server.port)):
                measure(port, 1, 0.5)
                rows[name] = (
                    *measure(port, 1, options.seconds),
                    *measure(port, options.clients, options.seconds),
                )
            print(f"{'':10} {'p50, 1 client':>14} {'answers/s, ' + str(options.clients):>14}")
            for name, (p50, _, _, rate) in rows.items():
                print(f"{name:10} {p50:11.2f} ms {rate:14.0f}")
            ours, theirs = rows["cupola"], rows["uvicorn"]
            print(
                f"ratio: p50 {ours[0] / theirs[0]:.2f} (aim <= 4), "
                f"throughput {ours[3] / theirs[3]:.2f} (aim >= 0.4)"
            )
            print(f"memory: {family_pss(server.pid):.0f} MB (PSS)")
            print("respawn: worker {:.0f} ms, runner {:.0f} ms".format(*respawns(server)))
        finally:
            bare.kill()
            bare.wait()
            server.stop()


if __name__ == "__main__":
    main()

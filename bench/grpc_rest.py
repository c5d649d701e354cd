"""gRPC compared with REST on the same server and in the same run, with a model that does nothing.

Both in alternation: median latency of one client, answers per second of many connections, and the
CPU time per answer of the worker and the runner, which other programs on the machine disturb
least. One process drives all connections, with bytes that it made before, so that the server is
measured; for gRPC also all calls on one connection, as its clients do. `--tritonclient` measures
Triton's Python clients instead, each in a process; their own time is most of the result.

    python bench/grpc_rest.py [--seconds 3] [--rounds 3] [--tritonclient]
"""

import argparse
import importlib
import multiprocessing
import select
import socket
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import free_port, infer_body, write_bundle

from ratio import machine
from serve import CLIENTS, cupola, post

PATH = "/inference.GRPCInferenceService/ModelInfer"


def request_message() -> bytes:
    """A ModelInferRequest with one number."""
    from cupola.serve.grpc.messages import message

    request = message("ModelInferRequest")(model_name="noop")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.array([1.0], "<f4").tobytes())
    return bytes(request.SerializeToString())


class Rest:
    """A connection with one request open at a time."""

    def __init__(self, port: int, streams: int = 1) -> None:
        self.socket = connect(port)
        self.streams = streams
        self._message = post("/v2/models/noop/infer", infer_body([1.0]).encode())

    def send(self, count: int = 1) -> None:
        self.socket.sendall(self._message)

    def receive(self) -> int:
        """The number of answers that have arrived."""
        answer = self.socket.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return 1


class Grpc:
    """A connection with `streams` calls open at a time."""

    def __init__(self, port: int, streams: int = 1) -> None:
        from hpack import Encoder

        self.socket, self.streams = connect(port), streams
        window = (2**31 - 1 - 65535).to_bytes(4, "big")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
        self.socket.sendall(preface + _frame(8, 0, 0, window))
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "t"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        encoder = Encoder()
        self._first, self._block = encoder.encode(fields), encoder.encode(fields)
        data = request_message()
        self._body = b"\0" + len(data).to_bytes(4, "big") + data
        self._stream, self._left = -1, b""

    def send(self, count: int = 1) -> None:
        calls = []
        for _ in range(count):
            block = self._first if self._stream < 0 else self._block
            self._stream += 2
            calls += [_frame(1, 4, self._stream, block), _frame(0, 1, self._stream, self._body)]
        self.socket.sendall(b"".join(calls))

    def receive(self) -> int:
        """The number of answers that have arrived. Each ends with its trailers."""
        data, at, ended = self._left + self.socket.recv(262144), 0, 0
        while at + 9 <= len(data):
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            if data[at + 3] == 1 and data[at + 4] & 1:
                assert data[at + 9 : end].endswith(b"grpc-status\x010"), data[at:end]
                ended += 1
            at = end
        self._left = data[at:]
        return ended


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload).to_bytes(3, "big")
    return size + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def drive(clients: list[Any], seconds: float) -> list[float]:
    """The latencies of the answers to clients that send again at once, for `seconds`."""
    poll, found, sent = select.epoll(), [], {}
    by_number = {client.socket.fileno(): client for client in clients}
    end = time.perf_counter() + seconds
    for number, client in by_number.items():
        poll.register(number, select.EPOLLIN)
        sent[number] = time.perf_counter()
        client.send(client.streams)
    pending = sum(client.streams for client in clients)
    while pending:
        for number, _ in poll.poll():
            client, now = by_number[number], time.perf_counter()
            answers = client.receive()
            pending -= answers
            found += [now - sent[number]] * answers
            if answers and now < end:
                sent[number] = time.perf_counter()
                client.send(answers)
                pending += answers
    poll.close()
    return found


def measure(clients: list[Any], seconds: float, pids: list[int]) -> tuple[float, float, float]:
    """(median latency in ms, answers per second, microseconds of CPU time per answer)."""
    before, began = cpu_time(pids), time.perf_counter()
    found = drive(clients, seconds)
    rate = len(found) / (time.perf_counter() - began)
    cpu = (cpu_time(pids) - before) / len(found) * 1e6
    return statistics.median(found) * 1000, rate, cpu


def cpu_time(pids: list[int]) -> float:
    """Seconds that these processes have run; the file has nanoseconds."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def triton_grpc(port: int, seconds: float, times: Any) -> None:
    times.put(_triton("tritonclient.grpc", port, seconds))


def triton_rest(port: int, seconds: float, times: Any) -> None:
    times.put(_triton("tritonclient.http", port, seconds))


def _triton(module: str, port: int, seconds: float) -> list[float]:
    triton = importlib.import_module(module)
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    x = triton.InferInput("x", [1], "FP32")
    x.set_data_from_numpy(np.array([1.0], np.float32))
    return _repeat(lambda: client.infer("noop", [x]).as_numpy("y") is not None, seconds)


def _repeat(call: Callable[[], bool], seconds: float) -> list[float]:
    found = []
    assert call()
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        assert call()
        found.append(time.perf_counter() - began)
    return found


def measure_triton(client: Any, port: int, clients: int, seconds: float) -> tuple[float, float]:
    """(median latency in ms, answers per second). Each client is a process."""
    spawn = multiprocessing.get_context("spawn")  # the library of gRPC does not survive a fork
    times = spawn.Queue()
    processes = [spawn.Process(target=client, args=(port, seconds, times)) for _ in range(clients)]
    for process in processes:
        process.start()
    found = [latency for _ in processes for latency in times.get()]
    for process in processes:
        process.join()
    return statistics.median(found) * 1000, len(found) / seconds


def compare(server: Any, address: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The medians over all rounds of each protocol: p50, rate, cpu."""
    pids = [*server.pids("worker"), server.runner_pid()]
    many = options.clients
    one = {"rest": [Rest(server.port)], "grpc": [Grpc(address)]}
    all_clients = {
        "rest": [Rest(server.port) for _ in range(many)],
        "grpc": [Grpc(address) for _ in range(many)],
        "grpc, one connection": [Grpc(address, many)],
    }
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for name, clients in one.items():
            found[name]["p50"].append(measure(clients, options.seconds, pids)[0])
        for name, clients in all_clients.items():
            _, rate, cpu = measure(clients, options.seconds, pids)
            found[name]["rate"].append(rate)
            found[name]["cpu"].append(cpu)
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }


def compare_triton(
    server: Any, address: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """The same with Triton's clients, without the CPU time."""
    rounds: dict[str, list[tuple[float, float]]] = {"rest": [], "grpc": []}
    for _ in range(options.rounds):
        for name, client, port in (
            ("rest", triton_rest, server.port),
            ("grpc", triton_grpc, address),
        ):
            p50, _ = measure_triton(client, port, 1, options.seconds)
            rounds[name].append(
                (p50, measure_triton(client, port, options.clients, options.seconds)[1])
            )
    return {
        name: {
            "p50": statistics.median(p50 for p50, _ in found),
            "rate": statistics.median(rate for _, rate in found),
        }
        for name, found in rounds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--tritonclient", action="store_true")
    options = parser.parse_args()
    report(options, figures(options))


def figures(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each protocol the medians p50, rate and cpu; starts a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundles", "noop", task="noop")
        address = free_port()
        settings = {"models": [str(bundle)], "grpc_listen": [f"127.0.0.1:{address}"]}
        with cupola(Path(folder), **settings) as server:
            return (compare_triton if options.tritonclient else compare)(server, address, options)


def report(options: argparse.Namespace, found: dict[str, dict[str, float]]) -> None:
    print(machine())
    for name, figures in found.items():
        p50 = f"p50 {figures['p50']:.3f} ms with 1 client, " if "p50" in figures else ""
        cpu = f", {figures['cpu']:.0f} us of CPU time each" if "cpu" in figures else ""
        print(f"{name}: {p50}{figures['rate']:.0f} answers/s with {options.clients}{cpu}")
    grpc, rest = found["grpc"], found["rest"]
    print(f"p50 over REST's: {grpc['p50'] / rest['p50']:.2f} (aim <= 1.3)")
    print(f"throughput over REST's: {grpc['rate'] / rest['rate']:.2f} (aim >= 0.8)")
    if "cpu" in grpc:
        print(f"CPU time per answer over REST's: {grpc['cpu'] / rest['cpu']:.2f}")


if __name__ == "__main__":
    main()

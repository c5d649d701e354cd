"""gRPC compared with REST on the same server and in the same run, with a model that does nothing.

Both in alternation: median latency of one client, answers per second of many. The clients write
and read bytes on sockets, so that the server is measured; `--tritonclient` measures Triton's
Python clients instead, whose own time is most of the result.

    python bench/grpc_rest.py [--seconds 3] [--rounds 3] [--tritonclient]
"""

import argparse
import importlib
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import free_port, infer_body, write_bundle

from ratio import machine
from serve import CLIENTS, cupola, one_client, post

PATH = "/inference.GRPCInferenceService/ModelInfer"


def request_message() -> bytes:
    """A ModelInferRequest with one number."""
    from cupola.serve.grpc.messages import message

    request = message("ModelInferRequest")(model_name="noop")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.array([1.0], "<f4").tobytes())
    return bytes(request.SerializeToString())


class GrpcSocket:
    """A client that has one call open at a time."""

    def __init__(self, port: int) -> None:
        from hpack import Encoder

        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = (2**31 - 1 - 65535).to_bytes(4, "big")
        settings = b"\0\0\0\4\0\0\0\0\0"
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + _frame(8, 0, 0, window)
        )
        self._encoder, self._stream, self._left = Encoder(), -1, b""
        data = request_message()
        self._body = b"\0" + len(data).to_bytes(4, "big") + data

    def call(self) -> bool:
        """Sends a request and waits for the end of its response; False if it is an error."""
        self._stream += 2
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "t"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        block = self._encoder.encode(fields)
        self._socket.sendall(
            _frame(1, 4, self._stream, block) + _frame(0, 1, self._stream, self._body)
        )
        frames = 0
        while True:
            while len(self._left) < 9 or len(self._left) < 9 + int.from_bytes(self._left[:3]):
                self._left += self._socket.recv(65536)
            end = 9 + int.from_bytes(self._left[:3])
            kind, flags, stream = self._left[3], self._left[4], int.from_bytes(self._left[5:9])
            self._left = self._left[end:]
            if stream == self._stream:
                frames += 1
                if kind == 1 and flags & 1:
                    return frames == 3  # head, message, trailers


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def grpc_client(port: int, seconds: float, times: Any) -> None:
    """Sends calls for `seconds`; puts the latencies into the queue."""
    client = GrpcSocket(port)
    times.put(_repeat(client.call, seconds))


def rest_client(port: int, seconds: float, times: Any) -> None:
    one_client(port, post("/v2/models/noop/infer", infer_body([1.0]).encode()), seconds, times)


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


def measure(client: Any, port: int, clients: int, seconds: float) -> tuple[float, float]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--tritonclient", action="store_true")
    options = parser.parse_args()
    clients: dict[str, Any] = {"rest": rest_client, "grpc": grpc_client}
    if options.tritonclient:
        clients = {"rest": triton_rest, "grpc": triton_grpc}
    latency: dict[str, list[float]] = {name: [] for name in clients}
    rate: dict[str, list[float]] = {name: [] for name in clients}
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "bundles", "noop", task="noop")
        address = free_port()
        settings = {"models": [str(bundle)], "grpc_listen": [f"127.0.0.1:{address}"]}
        with cupola(Path(folder), **settings) as server:
            ports = {"rest": server.port, "grpc": address}
            for _ in range(options.rounds):
                for name, client in clients.items():
                    found = measure(client, ports[name], 1, options.seconds)
                    latency[name].append(found[0])
                for name, client in clients.items():
                    found = measure(client, ports[name], options.clients, options.seconds)
                    rate[name].append(found[1])
    print(machine())
    for name in clients:
        p50, answers = statistics.median(latency[name]), statistics.median(rate[name])
        print(f"{name}: p50 {p50:.3f} ms with 1 client, {answers:.0f} answers/s with many")
    p50 = statistics.median(latency["grpc"]) / statistics.median(latency["rest"])
    throughput = statistics.median(rate["grpc"]) / statistics.median(rate["rest"])
    print(f"p50 over REST's: {p50:.2f} (aim <= 1.3)")
    print(f"throughput over REST's: {throughput:.2f} (aim >= 0.8)")


if __name__ == "__main__":
    main()

"""The overhead of worker and runner: a no-op model, compared with bare uvicorn and LitServe.

Parts, each measured with its peer in the same run:
  noop    median latency of one keep-alive client, answers per second of many, in alternation
  digits  detr-digits served, compared with its Predictor in a loop; one compute thread each
  start   time to respawn a worker, a runner, and a runner with 400 MB of weights
  memory  PSS of all processes with four runners of one 384 MiB model, compared with one runner,
          for each of --engines

    python bench/serve.py [--parts noop,digits] [--seconds 3] [--litserve /path/to/python]
        [--engines none,folded,compiled,openvino,onnxruntime]
"""

import argparse
import io
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, free_port, infer_body, read_answer, until, write_bundle

from ratio import machine
from serve_processes import memory, start

CLIENTS = 32
ROUNDS = 3
UVICORN = """
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
"""
LITSERVE = """
import sys
import litserve

class Nothing(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, x):
        return {}

if __name__ == "__main__":
    server = litserve.LitServer(Nothing(), accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(port=int(sys.argv[1]), num_api_servers=1, log_level="error",
               generate_client_file=False, access_log=False)
"""


def post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def one_client(
    port: int,
    message: bytes,
    seconds: float,
    all_ready: "threading.Barrier",
    times: "multiprocessing.Queue[list[float]]",
) -> None:
    """Sends requests for `seconds` once all are ready; puts the latencies into the queue."""
    found = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        all_ready.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            client.sendall(message)
            if read_answer(client)[0] != 200:
                break
            found.append(time.perf_counter() - began)
    times.put(found)


def measure(port: int, message: bytes, clients: int, seconds: float) -> tuple[float, float]:
    """(median latency in ms, answers per second). Each client is a process."""
    times: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    all_ready = multiprocessing.Barrier(clients)  # or the first would have the server alone
    arguments = (port, message, seconds, all_ready, times)
    processes = [multiprocessing.Process(target=one_client, args=arguments) for _ in range(clients)]
    for process in processes:
        process.start()
    found = [latency for _ in processes for latency in times.get()]
    for process in processes:
        process.join()
    return statistics.median(found) * 1000, len(found) / seconds


@contextmanager
def peer(folder: Path, name: str, source: str, command: list[str]) -> Iterator[int]:
    """Starts a peer's server; its port."""
    (folder / f"{name}.py").write_text(source)
    port = free_port()
    filled = [part.format(port=port) for part in command]
    process = subprocess.Popen(filled, cwd=folder, stdout=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, 60)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def cupola(folder: Path, **settings: object) -> Iterator[Running]:
    server = Running(folder / "cupola", queue_limit=4096, **settings)
    server.start()
    try:
        server.wait_ready(90)
        yield server
    finally:
        server.stop()


def noop(options: argparse.Namespace, folder: Path) -> None:
    report(*noop_figures(folder, options.seconds, ROUNDS, options.litserve))


def noop_figures(
    folder: Path, seconds: float, rounds: int, litserve: str | None = None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Of each server the median latencies of one client in ms, and answers per second of many.

    All servers keep running; each round measures them one after the other.
    """
    message = infer_body([1.0]).encode()
    with ExitStack() as stack:
        bundle = write_bundle(folder / "bundles", "noop", task="noop")
        ours = stack.enter_context(cupola(folder, models=[str(bundle)]))
        flags = "--log-level error --no-access-log --loop uvloop --http httptools --port {port}"
        uvicorn = [sys.executable, "-m", "uvicorn", "bare:app", *flags.split()]
        servers = {
            "uvicorn": (stack.enter_context(peer(folder, "bare", UVICORN, uvicorn)), "/"),
            "cupola": (ours.port, "/v2/models/noop/infer"),
        }
        if litserve:
            command = [litserve, "lit.py", "{port}"]
            servers["litserve"] = (stack.enter_context(peer(folder, "lit", LITSERVE, command)),
                                   "/predict")  # fmt: skip
        latency: dict[str, list[float]] = {name: [] for name in servers}
        rate: dict[str, list[float]] = {name: [] for name in servers}
        for port, path in servers.values():
            measure(port, post(path, message), 1, 0.5)
        for _ in range(rounds):
            for name, (port, path) in servers.items():
                latency[name].append(measure(port, post(path, message), 1, seconds)[0])
            for name, (port, path) in servers.items():
                rate[name].append(measure(port, post(path, message), CLIENTS, seconds)[1])
    return latency, rate


def report(latency: dict[str, list[float]], rate: dict[str, list[float]]) -> None:
    print(machine())
    print(f"{'':10} {'p50, 1 client':>14} {f'answers/s, {CLIENTS}':>14}")
    for name in latency:
        p50, answers = statistics.median(latency[name]), statistics.median(rate[name])
        print(f"{name:10} {p50:11.3f} ms {answers:14.0f}")
    ours, bare = statistics.median(latency["cupola"]), statistics.median(latency["uvicorn"])
    print(f"p50 over uvicorn's: {ours / bare:.2f} (aim <= 4)")
    for name, aim in (("uvicorn", 0.4), ("litserve", 3.0)):
        if name in rate:
            ratio = statistics.median(rate["cupola"]) / statistics.median(rate[name])
            print(f"throughput over {name}'s: {ratio:.2f} (aim >= {aim})")


def example_image(bundle: Path) -> bytes:
    """The image of the bundle's recorded request, as a JPEG file."""
    spec = json.loads((bundle / "example/request.json").read_text())["inputs"][0]
    pixels = np.array(spec["data"], np.uint8).reshape(spec["shape"][1:])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def digits(options: argparse.Namespace, folder: Path) -> None:
    """The recorded image, repeatedly: in a loop in this process, and through the server."""
    import torch

    from cupola.bundles import Bundle
    from cupola.runtime.predictor import Predictor

    torch.set_num_threads(1)
    body = example_image(Bundle.load("detr-digits").path)
    image = {"image": np.array([body], dtype=object)}
    predictor = Predictor.load("detr-digits")

    def loop() -> float:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < options.seconds:
            predictor.encode(predictor.run(predictor.decode(image, {})), {})
            count += 1
        return count / (time.perf_counter() - began)

    with cupola(folder, models=["detr-digits"], plugins=[], compute_threads=1) as server:
        message = post("/v2/models/detr-digits/infer", body, "image/jpeg")
        measure(server.port, message, 1, 1.0)
        ratios = []
        for _ in range(ROUNDS):
            direct = loop()
            _, served = measure(server.port, message, 4, options.seconds)
            ratios.append(served / direct)
            print(f"detr-digits: {direct:.1f}/s in a loop, {served:.1f}/s served")
    print(f"served over a loop: {statistics.median(ratios):.2f} (aim >= 0.9)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="noop,digits,start,memory")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--engines", default="none,folded", help="optimizations, for `memory`")
    parser.add_argument("--litserve", help="Python of an environment with LitServe")
    options = parser.parse_args()
    parts = {"noop": noop, "digits": digits, "start": start, "memory": memory}
    for name in options.parts.split(","):
        with tempfile.TemporaryDirectory() as folder:
            parts[name](options, Path(folder))


if __name__ == "__main__":
    main()

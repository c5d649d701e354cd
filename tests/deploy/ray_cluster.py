"""A local Ray cluster in a program of its own, and clients that never retry."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from serve_harness import free_port, infer_body, output, until

from lazy import LazyModule

httpx: Any = LazyModule("httpx")

TESTS = Path(__file__).parents[1]


class Cluster:
    """A program that holds the cluster; its commands are those of the script."""

    def __init__(self) -> None:
        self.port = free_port()
        paths = [TESTS.parent / "src", TESTS / "serve", TESTS]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self.process = subprocess.Popen(
            [sys.executable, TESTS / "deploy/ray_scripts/driver.py", str(self.port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert self._read() == "ready\n"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, name: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, arguments]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._read())
        assert "error" not in answer, answer
        return answer.get("result")

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()

    # ---- requests

    def client(self) -> Any:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def post(self, path: str, body: str | bytes, **headers: str) -> Any:
        with self.client() as client:
            return client.post(path, content=body, headers=headers)


class Load:
    """Clients that send requests until they are told to stop; what they got, by status."""

    def __init__(self, cluster: Cluster, clients: int = 6, sleep: float = 0.02) -> None:
        self.cluster, self.stopped = cluster, threading.Event()
        self.body = infer_body([1.0], do="sleep", s=sleep)
        self.statuses: Counter[Any] = Counter()
        self.answers: list[tuple[float, float]] = []
        self.threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def _send(self) -> None:
        with self.cluster.client() as client:
            while not self.stopped.is_set():
                try:
                    answer = client.post("/v2/models/echo/infer", content=self.body)
                    self.statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        self.answers.append((time.monotonic(), output(answer.json(), "y")[0]))
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1

    def wait_for(self, more: int) -> None:
        """Waits for so many further answers."""
        goal = sum(self.statuses.values()) + more
        until(lambda: sum(self.statuses.values()) >= goal, 120)

    def rate(self, seconds: float) -> float:
        """Answers a second during the next seconds."""
        before, began = len(self.answers), time.monotonic()
        time.sleep(seconds)
        return (len(self.answers) - before) / (time.monotonic() - began)

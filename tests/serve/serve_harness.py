"""A server under test: its folder, its processes, and a client that never retries."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from waiting import until

HERE = Path(__file__).parent
SRC = HERE.parent.parent / "src"
START_SECONDS = 120.0  # for a generation with a real model: seconds of processor time


def write_bundle(
    root: Path, name: str, version: str = "1", task: str = "echo", folder: str = "", **more: Any
) -> Path:
    """A bundle of the test plug-in."""
    path = root / (folder or name)
    path.mkdir(parents=True, exist_ok=True)
    config = {"name": name, "version": version, "task": task, **more}
    (path / "config.json").write_text(json.dumps(config))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """One server. `settings` is the content of its settings file."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.pid_file = folder / "pid"
        self.file = folder / "settings.yaml"
        self.log_file = folder / "error.log"
        self.runtime = Path(tempfile.mkdtemp(prefix="cupola-test-", dir="/dev/shm"))
        self.runtime.chmod(0o755)
        self.settings: dict[str, Any] = {
            "listen": [f"127.0.0.1:{self.port}"],
            "models": [str(write_bundle(folder / "bundles", "echo"))],
            "plugins": ["serve_plugin"],
            "workers": 1,
            "pid_file": str(self.pid_file),
            "error_log": str(self.log_file),
            "log_level": "info",
            "runtime_dir": str(self.runtime),
            "loading_priority": 0,
            "respawn_delay": 0.1,
            "keepalive_grace": 1.0,
            **settings,
        }
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **changes: Any) -> None:
        """Writes the settings file with these changes."""
        self.settings.update(changes)
        self.file.write_text(yaml.safe_dump(self.settings))

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": f"{SRC}:{HERE}", "OMP_NUM_THREADS": "1"}

    def start(self, prefix: Sequence[str] = (), **popen: Any) -> None:
        command = [sys.executable, "-m", "cupola", "serve", "--settings", str(self.file)]
        self.output = (self.folder / "output").open("ab")
        self.process = subprocess.Popen(
            [*prefix, *command],
            env={**self.environment(), **popen.pop("env", {})},
            stdout=self.output,
            stderr=subprocess.STDOUT,
            **popen,
        )

    def stop(self) -> None:
        """Kills all processes of this server."""
        pids = {self.process.pid} if self.process else set()
        for file in (self.pid_file, Path(f"{self.pid_file}.oldbin")):
            with suppress(OSError, ValueError):
                pids.add(int(file.read_text()))
        family = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                master = psutil.Process(pid)
                family += [master, *master.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        if self.process:
            self.process.wait()
            self.output.close()
        try:
            until(lambda: not self.processes(), 5, "the last process to end")
        finally:
            for left in self.processes():
                left.kill()
            shutil.rmtree(self.runtime, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """All running processes that were started with this settings file."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if not dead and str(self.file) in (process.info["cmdline"] or []):
                found.append(process)
        return found

    # ---- state

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def written_pid(self) -> int | None:
        """The process in the pid file; None while there is none, as in the middle of an upgrade."""
        try:
            return self.pid
        except FileNotFoundError:
            return None

    def log(self) -> str:
        text = self.log_file.read_text() if self.log_file.is_file() else ""  # may be /dev/full
        return text + (self.folder / "output").read_text()

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        def ready() -> bool:
            assert self.process is None or self.process.poll() is None or self.daemon, self.log()
            with suppress(OSError, http.client.HTTPException):
                return self.get("/v2/health/ready")[0] == 200 and bool(self.status())
            return False

        until(ready, seconds, lambda: f"ready: {self.log()}")
        until(lambda: self.status().get("generation"), what="the first commit")

    @property
    def daemon(self) -> bool:
        return bool(self.settings.get("daemon"))

    def status(self, pid: int | None = None) -> dict[str, Any]:
        try:
            found = json.loads((self.runtime / str(pid or self.pid) / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return dict(found)

    def children(self, role: str = "worker", pid: int | None = None) -> list[dict[str, Any]]:
        return [c for c in self.status(pid).get("processes", []) if c["role"] == role]

    def pids(self, role: str = "worker") -> list[int]:
        return [child["pid"] for child in self.children(role)]

    def runners(self) -> list[dict[str, Any]]:
        home = self.runtime / str(self.pid)
        try:
            found = json.loads(
                (home / f"g{self.status().get('generation')}/runners.json").read_text()
            )
        except (OSError, ValueError):
            return []
        return list(found["runners"])

    def runner_pids(self) -> list[int]:
        return [pid for runner in self.runners() for pid in runner["pids"]]

    def runner_pid(self) -> int:
        ready = until(lambda: [r for r in self.runners() if r["state"] == "ready" and r["pids"]])
        return int(ready[0]["pids"][0])

    # ---- signals

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        os.kill(pid or self.pid, number)

    def reload(self) -> int:
        """Sends HUP and waits for the next generation; its number."""
        before = self.status()["generation"]
        self.signal(signal.SIGHUP)
        until(
            lambda: self.status().get("generation", 0) > before,
            START_SECONDS,
            lambda: f"a reload: {self.log()}",
        )
        return int(self.status()["generation"])

    def wait_exit(self, seconds: float = 60.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    # ---- requests

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {k.lower(): v for k, v in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, Any]:
        status, headers, body = self.ask("GET", path)
        is_json = headers.get("content-type", "").startswith("application/json")
        return status, json.loads(body) if is_json and body else body

    def infer(
        self, model: str = "echo", x: Any = (1.0,), headers: dict[str, str] | None = None, **do: Any
    ) -> tuple[int, dict[str, Any]]:
        status, _, body = self.ask(
            "POST", f"/v2/models/{model}/infer", infer_body(x, **do), headers
        )
        return status, json.loads(body)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def infer_body(x: Any = (1.0,), **do: Any) -> str:
    """A request for the echo model."""
    data = list(x)
    return json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [len(data)], "data": data}],
            "parameters": do,
        }
    )


def output(answer: dict[str, Any], name: str) -> Any:
    """The data of one output."""
    return next(entry["data"] for entry in answer["outputs"] if entry["name"] == name)


def read_answer(client: socket.socket) -> tuple[int, bytes, bytes]:
    """Reads an answer from a socket: status, head, body; status 0 if it was truncated."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return 0, data, b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < size:
        more = client.recv(65536)
        if not more:
            return 0, head, body
        body += more
    return int(head.split()[1]), head, body


def request_bytes(body: str, path: str = "/v2/models/echo/infer", extra: str = "") -> bytes:
    """A POST request as bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\n{extra}\r\n{body}"
    ).encode()

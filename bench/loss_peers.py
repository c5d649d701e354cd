"""gunicorn, uvicorn and nginx with the same clients, for the acts that they support."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import free_port, until

ACTS = ("calm", "reload", "worker")
APPLICATION = """
import json

def answer(headers, body):
    values = json.loads(body)["inputs"][0]["data"]
    text = json.dumps({"outputs": [{"name": "y", "data": values}]}).encode()
    name = dict(headers).get(b"x-request-id", b"")
    return [(b"content-length", b"%d" % len(text)), (b"x-request-id", name)], text

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers, text = answer(scope["headers"], body)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})

def wsgi(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    name = environ.get("HTTP_X_REQUEST_ID", "").encode()
    headers, text = answer([(b"x-request-id", name)], body)
    start_response("200 OK", [(k.decode(), v.decode()) for k, v in headers])
    return [text]
"""
NGINX = """
daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        add_header X-Request-Id $http_x_request_id always;
        location / {{ return 200 "{{}}"; }}
    }}
}}
"""


class Peer:
    """Another server with two workers, with the interface of `Running`."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        self.name, self.folder, self.port = name, folder, free_port()
        (folder / "application.py").write_text(APPLICATION)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=self.port))
        listen = f"127.0.0.1:{self.port}"
        self.command = {
            "gunicorn": [python, "-m", "gunicorn", "-w", "2", "--threads", "16", "-k", "gthread",
                         "-b", listen, "--log-level", "error", "application:wsgi"],
            "uvicorn": [python, "-m", "uvicorn", "application:asgi", "--workers", "2",
                        "--port", str(self.port), "--log-level", "error", "--no-access-log"],
            "nginx": ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
        }[name]  # fmt: skip

    @property
    def echoes(self) -> bool:
        """Whether answers repeat the values; nginx returns a constant."""
        return self.name != "nginx"

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd=self.folder, stderr=subprocess.DEVNULL)
        until(self._listens, 30)
        time.sleep(1.0)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def workers(self) -> list[int]:
        """Process ids of the workers; uvicorn has one more child, which tracks shared memory."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # a zombie is one, too
                if "resource_tracker" not in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def act(self, name: str) -> None:
        """Sends HUP or kills a worker, and waits until it has been replaced."""
        before = self.workers()
        if name == "reload":
            self.process.send_signal(signal.SIGHUP)
            until(lambda: len(self.workers()) >= 2 and not set(before) & set(self.workers()), 60)
        elif name == "worker":
            os.kill(random.choice(before), signal.SIGKILL)
            until(lambda: set(before) != set(self.workers()) and len(self.workers()) >= 2, 60)
        time.sleep(0.5)

    def stop(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        for member in (*family, self.process):
            member.kill()
        self.process.wait()

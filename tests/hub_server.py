"""A stand-in for the Hugging Face hub: repositories in folders, served over HTTP on loopback."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """`root` holds ORG/NAME/REVISION/files. `requested` is what clients downloaded."""

    def __init__(self, root: Path) -> None:
        self.root, self.requested = root, list[str]()
        self.gated: set[str] = set()

    def folder(self, repo: str, revision: str) -> Path | None:
        """The files of a revision, given by its name or its commit."""
        for path in sorted((self.root / repo).glob("*")):
            if revision in (path.name, commit_of(path)):
                return path
        return None


def commit_of(folder: Path) -> str:
    """The commit hash of a revision's files."""
    digest = hashlib.sha1(folder.name.encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks."""

    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self.send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.refuse(404, "RepoNotFound")

    def describe(self, repo: str, rest: list[str]) -> None:
        """The model's information, or the tree of its files."""
        if repo in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        if not (self.hub.root / repo).is_dir():
            return self.refuse(404, "RepoNotFound")
        folder = self.hub.folder(repo, rest[1] if len(rest) > 1 else "main")
        if folder is None:
            return self.refuse(404, "RevisionNotFound")
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": etag_of(p)}
                for n, p in zip(names, files, strict=True)
            ]
            return self.send_json(tree)
        siblings = [{"rfilename": name} for name in names]
        about = {"id": repo, "modelId": repo, "private": False, "tags": [], "downloads": 0}
        return self.send_json({**about, "sha": commit_of(folder), "siblings": siblings})

    def send_file(self, repo: str, revision: str, name: str) -> None:
        folder = self.hub.folder(repo, revision)
        if folder is None or not (folder / name).is_file():
            return self.refuse(404, "EntryNotFound" if folder else "RevisionNotFound")
        body = (folder / name).read_bytes()
        headers = {"ETag": f'"{etag_of(folder / name)}"', "X-Repo-Commit": commit_of(folder)}
        if self.command == "GET":
            self.hub.requested.append(f"{repo}/{name}")
        return self.send(200, body, {**headers, "Content-Type": "application/octet-stream"})

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def etag_of(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve_hub(root: Path) -> Iterator[tuple[Hub, str]]:
    """A hub of the repositories in `root`, and its address."""
    hub = Hub(root)
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

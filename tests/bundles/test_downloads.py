"""Checkpoints by URL and by name, from a server of the test's own: kept, checked, or refused."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cupola.bundles import downloads
from cupola.bundles.downloads import cache, find_checkpoint
from cupola.errors import CheckpointError

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAMED = f"model_20200130-{DIGEST[:8]}.pth"


class Files(BaseHTTPRequestHandler):
    """Answers each path with CONTENT, or as its first part says."""

    asked: list[str]

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        kind = self.path.split("/")[1]
        here = f"http://{self.headers['Host']}/a/{NAMED}"
        moved = {"moved": here, "local": "file:///etc/hostname"}.get(kind)
        self.send_response(302 if moved else 404 if kind == "absent" else 200)
        if moved:
            self.send_header("Location", moved)
        if kind in ("a", "cut"):
            length = len(CONTENT) + (9 if kind == "cut" else 0)
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(b"" if moved else CONTENT)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    Files.asked = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("kind", ["a", "unsized", "moved"])
def test_a_checkpoint_is_downloaded_once(server: str, kind: str) -> None:
    url = f"{server}/{kind}/{NAMED}?raw=1"
    found = find_checkpoint(url)
    assert found == cache() / NAMED and found.read_bytes() == CONTENT
    asked = list(Files.asked)
    assert find_checkpoint(url) == found == find_checkpoint(url, offline=True)
    assert Files.asked == asked
    assert [each.name for each in cache().iterdir()] == [NAMED]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("absent/a.pth", "HTTP Error 404: Not Found"),
        ("local/a.pth", "is not allowed"),
        ("cut/a.pth", "the connection ended after 7,000 of 7,009 bytes"),
        ("unsized/model-00000000.pth", f"its SHA-256 begins with {DIGEST[:8]}, not with 00000000"),
        ("", "it names no file"),
        ("a/..", "it names no file"),
    ],
)
def test_what_is_broken_leaves_nothing_behind(server: str, path: str, why: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        find_checkpoint(f"{server}/{path}")
    assert why in str(raised.value) and "download the file and pass its path" in str(raised.value)
    assert not cache().exists() or not any(cache().iterdir())


def test_no_server_and_no_network(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a.pth"
    with pytest.raises(CheckpointError, match=r"a\.pth: cannot be downloaded \(.*refused"):
        find_checkpoint(address)
    for offline in (True, False):
        with pytest.raises(CheckpointError, match=r"not in .*checkpoints, and offline mode is on"):
            find_checkpoint(f"{server}/a/{NAMED}", offline)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not Files.asked


def test_names_have_the_files_of_the_originals(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(downloads.SITES, "torchvision", f"{server}/models/")
    monkeypatch.setitem(downloads.FILES["torchvision"], "toy", NAMED)
    assert find_checkpoint("torchvision://toy") == cache() / NAMED
    assert Files.asked == [f"/models/{NAMED}"]
    older = cache() / "resnet18-5c106cde.pth"  # as an older torchvision had it
    older.write_bytes(CONTENT)
    assert find_checkpoint("torchvision://resnet18") == older
    with pytest.raises(CheckpointError, match=r"resnet51_caffe: .*no known name; did you"):
        find_checkpoint("open-mmlab://resnet51_caffe")


def test_a_path_stays_as_it_is() -> None:
    assert find_checkpoint("work_dirs/best.pth") == Path("work_dirs/best.pth")

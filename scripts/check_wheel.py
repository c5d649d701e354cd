"""Builds the wheel into dist/, and uses it outside the checkout with only what running needs.

    python scripts/check_wheel.py

A new virtual environment gets the wheel and requirements.lock; then, from an empty folder, a
shipped bundle predicts, a config of MMDetection with its checkpoint gives boxes within LONGEST
seconds, and a server answers a request and ends on its signal.
"""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from install import install

ROOT = Path(__file__).parent.parent
PATIENCE = 120.0  # seconds until the server must answer
LONGEST = 60.0  # seconds of processor time from a config and its checkpoint to boxes
FASTER_RCNN = ROOT / "tests/goldens/zoo/faster-rcnn_r50_fpn_1x_coco.json"
PIPELINE = """
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=test_pipeline))
"""
CHECKPOINT = """
import torch, cupola
from cupola.config import Config
from cupola.runtime.building import without_pretrained
model = cupola.build(without_pretrained(Config.load("faster_rcnn.py").to_dict()["model"]))
with torch.no_grad():
    model.roi_head.bbox_head.fc_cls.bias[3] = 6.0  # weights that are not trained find motorcycles
torch.save({"meta": {"epoch": 12}, "state_dict": model.state_dict()}, "faster_rcnn.pth")
"""


def build(folder: Path) -> Path:
    """The wheel in dist/, built in an isolated environment."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    (ROOT / "dist").mkdir(exist_ok=True)
    return Path(shutil.copy(wheel, ROOT / "dist"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "image/png"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return bytes(answer.read())


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fetch(f"{url}/v2/models/detr-digits/ready")
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.2)


def serve(cupola: str, where: Path, image: bytes, environment: dict[str, str]) -> None:
    """Starts a server, asks it for a page and a prediction, and ends it."""
    port, pid_file = free_port(), where / "pid"
    command = [cupola, "serve", "detr-digits", "--port", str(port), "--pid-file", str(pid_file)]
    server = subprocess.Popen(command, cwd=where, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, server)
        assert b"<html" in fetch(f"{url}/")
        print(fetch(f"{url}/v2/models/detr-digits/infer", image).decode()[:200])
        quit_ = [cupola, "signal", "quit", "--pid-file", str(pid_file)]
        subprocess.run(quit_, cwd=where, env=environment, check=True)
        assert server.wait(60) == 0
    finally:
        server.kill()


def predict_from_mmdet(python: str, where: Path, environment: dict[str, str]) -> None:
    """From a config and checkpoint as MMDetection has them to boxes, in one command."""
    model = json.loads(FASTER_RCNN.read_text())["model"]
    (where / "faster_rcnn.py").write_text(f"model = {model!r}\n{PIPELINE}")
    subprocess.run([python, "-c", CHECKPOINT], cwd=where, env=environment, check=True)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    files = ["faster_rcnn.py", "drawn.png", "--weights", "faster_rcnn.pth", "--out", "boxes.png"]
    command = [python, "-m", "cupola", "predict", *files, "--json"]
    done = subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    check_boxes(json.loads(done.stdout))
    assert (where / "boxes.png").is_file()
    print(
        f"MMDetection's Faster R-CNN to boxes: {time.monotonic() - began:.0f} s, {spent:.0f} s of "
        "processor time"
    )
    assert spent < LONGEST, f"it took {spent:.0f} s, more than {LONGEST:.0f}"


def check_boxes(rows: list[dict[str, Any]]) -> None:
    """Boxes with an area inside the image of 128 x 128 pixels, named by COCO's classes."""
    assert rows, "no boxes were found"
    for row in rows:
        left, top, right, bottom = row["box"]
        assert 0 <= left < right <= 128 and 0 <= top < bottom <= 128, row
        assert row["name"] == "motorcycle" and 0.5 <= row["score"] <= 1, row


def main() -> None:
    began = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build(folder)
        print(f"{wheel.name}: built after {time.monotonic() - began:.0f} s")
        install(folder / "venv", ["-r", str(ROOT / "requirements.lock"), str(wheel)])
        print(f"installed after {time.monotonic() - began:.0f} s")
        where = folder / "elsewhere"
        where.mkdir()
        cupola = str(folder / "venv" / "bin" / "cupola")
        for arguments in (["--help"], ["predict", "detr-digits", "--out", "drawn.png"]):
            subprocess.run([cupola, *arguments], cwd=where, env=environment, check=True)
        predict_from_mmdet(str(folder / "venv" / "bin" / "python"), where, environment)
        serve(cupola, where, (where / "drawn.png").read_bytes(), environment)
    print(f"the wheel works: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

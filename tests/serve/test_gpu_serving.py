"""Models on a GPU behind the server, where there is a GPU."""

import base64
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serve_harness import Running, until

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
GIB = 1024**3
MODELS = [
    {"bundle": "detr-digits", "device": "cuda", "device_memory": 2 * GIB, "optimization": "half"},
    {"bundle": "bloom-tiny", "device": "cuda"},
]


def detect(server: Running, size: tuple[int, int] = (128, 96)) -> tuple[int, Any]:
    file = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 99, np.uint8)).save(file, "PNG")
    image = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [base64.b64encode(file.getvalue()).decode()],
    }
    status, _, body = server.ask(
        "POST", "/v2/models/detr-digits/infer", json.dumps({"inputs": [image]})
    )
    return status, body


def write(server: Running) -> tuple[int, Any]:
    wanted = {"model": "bloom-tiny", "prompt": "It is a truth", "max_tokens": 8, "temperature": 0}
    headers = {"content-type": "application/json"}
    status, _, body = server.ask("POST", "/v1/completions", json.dumps(wanted), headers)
    return status, body


def test_requests_survive_a_reload_and_a_killed_runner(serve: Callable[..., Running]) -> None:
    server = serve(models=MODELS, plugins=[], ready_timeout=240)
    assert detect(server)[0] == 200, server.log()
    first = json.loads(write(server)[1])["choices"][0]["text"]
    server.reload()
    assert detect(server)[0] == 200
    killed = server.runner_pids()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert detect(server)[0] == 200  # waits for the next runner
    assert json.loads(write(server)[1])["choices"][0]["text"] == first
    until(lambda: not set(killed) & set(server.runner_pids()))


def test_a_request_over_the_memory_limit_is_answered(serve: Callable[..., Running]) -> None:
    small = {**MODELS[0], "device_memory": 60 * 1024**2, "optimization": "eager"}
    server = serve(models=[small], plugins=[], ready_timeout=240)
    runners = server.runner_pids()
    for _ in range(3):  # which kernels are chosen decides whether this is enough
        status, body = detect(server, (1600, 1600))
        assert status == 200 or (status == 503 and b"device_memory" in body), body
    assert server.runner_pids() == runners


def test_a_plugin_that_uses_cuda_when_imported_is_refused(
    serve: Callable[..., Running], tmp_path: Path
) -> None:
    (tmp_path / "early_cuda.py").write_text("import torch\ntorch.zeros(1, device='cuda')\n")
    server = serve(models=MODELS[:1], plugins=["early_cuda"], ready=False)
    server.stop()
    server.start(env={"PYTHONPATH": f"{server.environment()['PYTHONPATH']}:{tmp_path}"})
    assert server.wait_exit() != 0
    assert "one of them has used CUDA while it was imported" in server.log()

"""Drives through a server with tritonclient: one state a sequence, lost with its runner."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from serve_harness import Running, until

from cupola.bundles.writing import write_bundle
from cupola.registry import build
from cupola.runtime.predictor import Predictor
from lazy import LazyModule
from models.bevformer.small import small_bevformer
from models.sparse4d.small import small_sparse4d
from models.stream_petr.small import small_stream
from runtime.test_camera_streams import moment

triton = LazyModule("tritonclient.http")
CONFIGS = {
    "stream_petr": small_stream(),
    "bevformer": small_bevformer(),
    "sparse4d": small_sparse4d(),
}
pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module", params=CONFIGS)
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = CONFIGS[request.param]
    about = {
        "name": "drives",
        "version": "1",
        "task": "detection3d",
        "model": model,
        "labels": ["a", "b", "c"],
        "preprocess": {"size": [64, 96]},
        "postprocess": {"threshold": 0.0},
    }
    write_bundle(folder / "drives", about, build(model).state_dict(), "# drives\n", torch.float32)
    models = [{"bundle": str(folder / "drives"), "runners": 2}]
    running = Running(folder / "server", models=models, workers=2)
    (folder / "server").mkdir(exist_ok=True)
    running.start()
    try:
        running.wait_ready(120)
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    made = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield made
    made.close()


def tensors(step: int) -> list[Any]:
    frame = moment(step)
    given = {
        "pixels": np.stack(frame["source"]),
        "lidar2img": np.stack(frame["lidar2img"]).astype(np.float32),
        "ego_pose": frame["ego_pose"].astype(np.float64),
        "timestamp": np.array([frame["timestamp"]], np.float64),
    }
    made = []
    for name, value in given.items():
        datatype = {"uint8": "UINT8", "float32": "FP32", "float64": "FP64"}[str(value.dtype)]
        made.append(triton.InferInput(name, list(value.shape), datatype))
        made[-1].set_data_from_numpy(value)
    return made


def ask(client: Any, name: Any, step: int, **flags: bool) -> np.ndarray:
    answer = client.infer("drives", tensors(step), sequence_id=name, **flags)
    scores: np.ndarray = answer.as_numpy("scores")
    return scores


def refused(client: Any, name: Any, step: int, **flags: bool) -> str:
    with pytest.raises(triton.InferenceServerException) as caught:
        ask(client, name, step, **flags)
    assert caught.value.status() == "400"
    return str(caught.value)


def test_two_drives_in_turn_equal_two_streams(server: Running, client: Any) -> None:
    predictor: Any = Predictor.load(str(server.folder.parent / "drives"))
    names, streams = (7, "left"), (predictor.new_stream(), predictor.new_stream())
    for k in range(3):
        for first, name, stream in zip((0, 3), names, streams, strict=True):
            found = ask(client, name, first + k, sequence_start=k == 0, sequence_end=k == 2)
            expected = stream(**moment(first + k), threshold=0).scores.numpy()
            np.testing.assert_allclose(found, expected, atol=1e-4)
    for name in names:
        assert f"sequence {name} has no state" in refused(client, name, 3)
    assert len(ask(client, "left", 0, sequence_start=True)) > 0  # an id may be used again


def test_a_drive_starts_with_its_start(client: Any) -> None:
    assert "send sequence_start" in refused(client, "middle", 1)


def test_a_killed_runner_ends_its_drives_with_an_error(server: Running, client: Any) -> None:
    names = [f"drive{n}" for n in range(4)]
    for name in names:
        ask(client, name, 0, sequence_start=True)
    killed = server.runner_pid()
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in server.runner_pids())
    lost = 0
    for name in names:
        try:
            ask(client, name, 1)
        except triton.InferenceServerException as error:
            assert "its runner has exited; send sequence_start" in str(error)
            lost += 1
    assert 0 < lost < 4
    for name in names:
        ask(client, name, 0, sequence_start=True, sequence_end=True)

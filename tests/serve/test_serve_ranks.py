"""A tensor-parallel model: its processes are replaced together, and no token is lost."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from serve_harness import Running, until

from cupola.runtime import Predictor
from language_toys import language_bundle
from lazy import LazyModule

httpx = LazyModule("httpx")
pytestmark = pytest.mark.processes
HOW: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_bundle(tmp_path_factory.mktemp("bundles") / "toy-text").path


@pytest.fixture(scope="module")
def split(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of this file: the toy model on two ranks."""
    models = [{"bundle": str(bundle), "tensor_parallel": 2, "optimization": "packed"}]
    running = Running(
        tmp_path_factory.mktemp("server"), models=models, plugins=[], hang_timeout=5.0
    )
    running.start()
    running.wait_ready()
    yield running
    running.stop()


def ranks(server: Running) -> list[int]:
    """The process ids of the ready group."""
    found = until(lambda: [r for r in server.runners() if r["state"] == "ready"])
    return list(found[0]["pids"])


def wait_replaced(server: Running, before: list[int]) -> None:
    """Waits until the processes of a group are gone and a whole new group is ready."""
    until(lambda: not any(psutil.pid_exists(pid) for pid in before))
    until(lambda: not set(ranks(server)) & set(before))  # the zygote may not have noticed yet
    assert len(ranks(server)) == 2


def pieces(server: Running, prompt: str) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed completion."""
    body = {"model": "toy-text", "prompt": prompt, "stream": True, **HOW}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def text_of(chunks: Iterator[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def test_two_ranks_generate_the_text_of_one_process(split: Running, bundle: Path) -> None:
    assert len(ranks(split)) == 2
    expected = Predictor.load(bundle)("It is", **HOW).text
    assert text_of(pieces(split, "It is")) == expected
    body = {
        "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["It is"]}],
        "parameters": HOW,
    }
    url = f"http://127.0.0.1:{split.port}/v2/models/toy-text/infer"
    answer = httpx.post(url, json=body, timeout=60).json()
    assert answer["outputs"][0]["data"] == [expected]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_when_a_rank_dies_the_group_is_replaced_and_streams_continue(
    split: Running, bundle: Path, rank: int
) -> None:
    expected = Predictor.load(bundle)("床前", **HOW).text
    before, written = ranks(split), []
    for number, chunk in enumerate(pieces(split, "床前")):
        written.append(chunk["choices"][0]["text"])
        if number == 15:
            os.kill(before[rank], signal.SIGKILL)
    assert "".join(written) == expected
    wait_replaced(split, before)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_a_rank_dies_idle_the_group_is_replaced(split: Running, rank: int) -> None:
    before = ranks(split)
    os.kill(before[rank], signal.SIGKILL)
    wait_replaced(split, before)


def test_when_a_rank_hangs_the_group_is_replaced(split: Running, bundle: Path) -> None:
    before = ranks(split)
    os.kill(before[1], signal.SIGSTOP)
    expected = Predictor.load(bundle)("a", **HOW).text
    assert text_of(pieces(split, "a")) == expected
    assert not any(psutil.pid_exists(pid) for pid in before)
    wait_replaced(split, before)


def test_a_model_that_cannot_be_split_is_refused_at_start(serve, bundle: Path) -> None:
    models = [{"bundle": str(bundle), "tensor_parallel": 3}]
    server = serve(ready=False, models=models, plugins=[])
    assert server.process.wait(30) != 0
    assert "n_head 4 cannot be split over 3 tensor ranks" in server.log()

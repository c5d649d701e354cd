"""Adapters and Megatron's folders as served models: the texts of the same folders in process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running

from cupola.runtime import Predictor
from lazy import LazyModule
from weights.test_language_layouts import adapter, hf_folder, write

httpx = LazyModule("httpx")
pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    found = {"adapter": adapter(hf_folder(root / "tuned"))}
    found["ranks"] = hf_folder(root / "ranks")
    write(found["ranks"], "mp_rank")
    return found


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models: list[Any] = [{"bundle": str(path), "name": name} for name, path in folders.items()]
    models.append({"bundle": str(folders["ranks"]), "name": "split", "tensor_parallel": 2})
    running = Running(tmp_path_factory.mktemp("server"), models=models, plugins=[])
    running.start()
    running.wait_ready(120)
    yield running
    running.stop()


def test_the_texts_are_those_of_the_folders(server: Running, folders: dict[str, Path]) -> None:
    loaded = {name: Predictor.load(path) for name, path in folders.items()}
    texts = {name: one("It is", max_tokens=8).text for name, one in loaded.items()}
    texts |= {"split": texts["ranks"]}
    assert texts["adapter"] != texts["ranks"]
    for name, expected in texts.items():
        body = {"model": name, "prompt": "It is", "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body, timeout=60)
        assert answer.json()["choices"][0]["text"] == expected, name


def test_ranks_follow_a_grammar_together(server: Running) -> None:
    body = {"model": "split", "prompt": "It is", "seed": 1, "max_tokens": 20}
    body |= {"guided_regex": "[a-c]{6}", "n": 3}
    answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body, timeout=60)
    for choice in answer.json()["choices"]:
        assert set(choice["text"]) <= set("abc") and len(choice["text"]) == 6

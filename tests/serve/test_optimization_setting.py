"""The setting `optimization`: its names, and which engine a served model has."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import Running

import cupola
from cupola.errors import ConfigError
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.models import plan_model
from cupola.serve.settings.settings import Settings
from lazy import LazyModule

httpx = LazyModule("httpx")


def planned(bundle: str, name: str) -> str:
    model = ModelSettings(bundle=bundle, optimization=name)
    return plan_model(model, Settings()).optimization


def test_names_depend_on_the_task() -> None:
    assert planned("detr-digits", "auto") == "auto"
    assert planned("detr-digits", "none") == "eager"
    assert planned("bloom-tiny", "eager") == "none"
    assert planned("bloom-tiny", "int8") == "int8"
    with pytest.raises(ConfigError, match=r"detr-digits: .*did you mean 'openvino'"):
        planned("detr-digits", "openvno")
    with pytest.raises(ConfigError, match="'compiled' is not for a language model"):
        planned("bloom-tiny", "compiled")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = [
        {"bundle": "detr-digits", "optimization": "folded"},
        {"bundle": "detr-digits", "name": "plain", "optimization": "eager"},
        {"bundle": "bloom-tiny", "optimization": "auto"},
    ]
    running = Running(tmp_path_factory.mktemp("server"), models=models, plugins=[])
    running.start()
    running.wait_ready()
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.processes
def test_the_engine_is_shown_and_answers_the_same(server: Running) -> None:
    found = {runner["name"]: runner["optimization"] for runner in server.runners()}
    assert (found["detr-digits"]["wish"], found["detr-digits"]["engine"]) == ("folded", "folded")
    assert found["plain"]["engine"] == "eager"
    assert found["bloom-tiny"]["engine"] == "none"
    assert "fewer than 4 million" in found["bloom-tiny"]["measured"][0]["reason"]
    image = Path(cupola.__file__).parent / "bundles/shipped/detr-digits/example/image.png"
    text = base64.b64encode(image.read_bytes()).decode()
    one, other = (scores(server, name, text) for name in ("detr-digits", "plain"))
    assert one == pytest.approx(other, abs=1e-4)


def scores(server: Running, name: str, image: str) -> list[Any]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}
    url = f"http://127.0.0.1:{server.port}/v2/models/{name}/infer"
    answer = httpx.post(url, json={"inputs": [tensor]}, timeout=60)
    assert answer.status_code == 200, answer.text
    outputs = {each["name"]: each["data"] for each in answer.json()["outputs"]}
    return list(outputs["scores"])

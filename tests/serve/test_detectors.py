"""Detectors behind the server: a folder of transformers, a model with masks, a dense detector."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serve_harness import Running, output

from cupola import Predictor
from cupola.bundles.writing import write_bundle
from cupola.registry import build
from cupola.structures import Detections
from cupola.structures.masks import decode_rle
from golden import golden
from hf_folders import save_detector
from models.fcos.small import MODEL as FCOS
from models.grounding.small import WORDS, grounding_dino
from models.rcnn import rcnn_small

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
KINDS = ("detr", "mask2former", "fcos", "mask_rcnn", "grounding")


def save(folder: Path, model: Any, labels: int) -> None:
    """A bundle of a model with random weights."""
    torch.manual_seed(0)
    about = {
        "name": folder.name,
        "version": "1",
        "task": "detection",
        "model": model,
        "labels": [f"c{i}" for i in range(labels)],
        "preprocess": {"resize": {"short": 64, "long": 96}},
        "postprocess": {"threshold": 0.0},
    }
    write_bundle(folder, about, build(model).state_dict(), "# Card\n", torch.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_detector(root / "detr", "Detr")
    masks = golden("masks_mmdet").json["cases"]["mask2former_resnet_panoptic"]["model"]
    limits = {**masks["test_cfg"], "object_mask_thr": 0.0, "iou_thr": 0.0}
    save(root / "mask2former", {**masks, "test_cfg": limits}, 8)
    save(root / "fcos", FCOS, 3)
    save(root / "mask_rcnn", rcnn_small.model(masks=True), 3)
    save(root / "grounding", grounding_dino({"log_scale": "auto"}), 0)
    config = json.loads((root / "grounding" / "config.json").read_text())
    (root / "grounding" / "config.json").write_text(
        json.dumps({**config, "labels": ["cat", "dog"]})
    )
    (root / "grounding" / "vocab.txt").write_text("\n".join(WORDS))
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("server")
    views = {"bundle": str(folders["fcos"]), "name": "views", "tta": True}
    running = Running(home, models=[*map(str, folders.values()), views], plugins=[])
    running.start()
    running.wait_ready(120)
    yield running
    running.stop()


def ask(server: Running, name: str, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    body = {
        "inputs": [
            {
                "name": "pixels",
                "datatype": "UINT8",
                "shape": list(pixels.shape),
                "data": pixels.reshape(-1).tolist(),
            }
        ],
        "parameters": {"threshold": 0.0},
    }
    status, _, answer = server.ask("POST", f"/v2/models/{name}/infer", json.dumps(body))
    assert status == 200, answer
    found: dict[str, Any] = json.loads(answer)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_answers_are_those_of_the_predictor(
    server: Running, folders: dict[str, Path], name: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 50, 70, 3), np.uint8)
    expected: Detections = Predictor.load(folders[name])(pixels[0], threshold=0.0)
    answer = ask(server, name, pixels)
    assert len(expected) > 0
    assert output(answer, "scores") == pytest.approx(expected.scores.tolist(), abs=1e-4)
    assert output(answer, "labels") == expected.labels.tolist()
    boxes = np.reshape(output(answer, "boxes"), (-1, 4))
    assert np.allclose(boxes, expected.boxes.numpy(), atol=0.05)
    if expected.masks is not None:
        for text, mask in zip(output(answer, "masks"), expected.masks, strict=True):
            assert (decode_rle(json.loads(text)) != mask.numpy()).mean() < 0.001
    if name == "mask2former":
        assert expected.panoptic is not None
        segments = [json.loads(text) for text in output(answer, "segments")]
        assert [each["label"] for each in segments] == [
            each.label for each in expected.panoptic.segments
        ]


def test_views_are_merged_where_the_settings_ask(server: Running, folders: dict[str, Path]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 50, 70, 3), np.uint8)
    expected = Predictor.load(folders["fcos"], tta=True)(pixels[0], threshold=0.0)
    found = [output(ask(server, name, pixels), "scores") for name in ("views", "fcos")]
    assert found[0] == pytest.approx(expected.scores.tolist(), abs=1e-4) != found[1]


def test_a_png_is_read_as_the_predictor_reads_it(server: Running, folders: dict[str, Path]) -> None:
    file = io.BytesIO()
    image = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(image).save(file, "PNG")
    size = len(file.getvalue())
    head = {
        "inputs": [
            {
                "name": "image",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": size + 4},
            }
        ],
        "parameters": {"threshold": 0.0},
    }
    text = json.dumps(head).encode()
    body = text + size.to_bytes(4, "little") + file.getvalue()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    status, _, answer = server.ask("POST", "/v2/models/fcos/infer", body, headers)
    assert status == 200, answer
    expected = Predictor.load(folders["fcos"])(image, threshold=0.0)
    found = output(json.loads(answer), "scores")
    assert found == pytest.approx(expected.scores.tolist(), abs=1e-4)


def test_a_text_in_the_query_and_in_the_body(server: Running, folders: dict[str, Path]) -> None:
    file = io.BytesIO()
    image = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(image).save(file, "PNG")
    path = "/v2/models/grounding/infer?threshold=0&text="
    png = {"Content-Type": "image/png"}
    status, _, answer = server.ask("POST", f"{path}red%20truck%20.", file.getvalue(), png)
    assert status == 200 and set(output(json.loads(answer), "names")) == {"red truck"}
    status, _, answer = server.ask("POST", f"{path}%20.", file.getvalue(), png)
    assert status == 400 and b"holds no name" in answer
    tensor = {"datatype": "UINT8", "shape": [2, 40, 60, 3], "data": np.stack([image] * 2).tolist()}
    texts = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["cat", "person . dog"]}
    body = {"inputs": [{"name": "pixels", **tensor}, texts], "parameters": {"threshold": 0.0}}
    status, _, answer = server.ask("POST", "/v2/models/grounding/infer", json.dumps(body))
    assert status == 200, answer
    found = json.loads(answer)
    by_image: list[set[str]] = [set(), set()]
    for index, name in zip(output(found, "image_index"), output(found, "names"), strict=True):
        by_image[index].add(name)
    assert by_image[0] == {"cat"} and by_image[1] <= {"person", "dog"}
    body = {**body, "inputs": body["inputs"][:1], "parameters": {"text": ["truck"], "threshold": 0}}
    status, _, answer = server.ask("POST", "/v2/models/grounding/infer", json.dumps(body))
    assert status == 200 and set(output(json.loads(answer), "names")) == {"truck"}

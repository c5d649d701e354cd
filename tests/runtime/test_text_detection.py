"""Detectors that search for a text: from a config and in a bundle, by command and by request."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cupola import Predictor
from cupola.bundles import Bundle
from cupola.cli.bundle import bundle as bundle_command
from cupola.cli.explain import explain
from cupola.cli.predict import predict
from cupola.errors import BundleError, InputError
from cupola.registry import build
from models.grounding.small import WORDS, glip, grounding_dino

CLASSES = ["person", "traffic light"]


def training_config(model: dict[str, Any]) -> dict[str, Any]:
    """A published config in short: model, test pipeline, classes."""
    resize = {"type": "FixScaleResize", "scale": (64, 96), "keep_ratio": True, "backend": "pillow"}
    dataset = {"pipeline": [resize], "metainfo": {"classes": CLASSES}}
    return {"model": model, "test_dataloader": {"dataset": dataset}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config, checkpoint and vocabulary of a Grounding DINO, and a photo."""
    path = tmp_path_factory.mktemp("text")
    torch.manual_seed(0)
    for name, model in (("dino", grounding_dino({"log_scale": "auto"})), ("glip", glip())):
        built = build(model)
        if name == "glip":
            built.bbox_head.head.bias0.data.zero_()
        save_file(built.state_dict(), path / f"{name}.safetensors")
        (path / f"{name}.json").write_text(json.dumps(training_config(model)))
    (path / "vocab.txt").write_text("\n".join(WORDS))
    pixels = np.random.default_rng(0).integers(0, 255, (48, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path / "photo.png")
    return path


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Any:
    return Predictor.load(folder / "dino.json", weights=folder / "dino.safetensors", threshold=0.0)


def test_a_photo_is_searched_for_a_text(folder: Path, predictor: Any) -> None:
    found = predictor(folder / "photo.png", text="cat . dog .")
    assert found.names == ("cat", "dog") and len(found) == 9
    assert {found.name(label) for label in found.labels.tolist()} <= {"cat", "dog"}
    listed = predictor(folder / "photo.png", text=["cat", "dog"])
    assert torch.equal(found.boxes, listed.boxes)
    assert predictor(folder / "photo.png").names == tuple(CLASSES)  # of the config
    loaded = Predictor.load(
        folder / "dino.json", weights=folder / "dino.safetensors", text="red truck ."
    )
    assert loaded(folder / "photo.png").names == ("red truck",)
    assert loaded.details["text"] == "red truck ."
    assert predictor.details["text"] == "person . traffic light"


def test_sizes_are_rounded_down_as_the_config_says(predictor: Any) -> None:
    assert predictor.input_size((48, 61)) == (64, 81)  # 81.33
    assert predictor.input_size((50, 63)) == (64, 80)  # 80.64


def test_requests(folder: Path, predictor: Any) -> None:
    image = (folder / "photo.png").read_bytes()
    files = {"image": np.array([image, image], dtype=object)}

    def names(tensors: dict[str, Any], parameters: dict[str, Any]) -> list[list[str]]:
        samples = predictor.decode(tensors, parameters)
        found = predictor.run(samples)
        predictor.encode(found, {"threshold": 0})
        return [list(each.names) for each in found]

    assert names(files, {}) == [CLASSES] * 2
    assert names(files, {"text": "cat . dog ."}) == [["cat", "dog"]] * 2
    assert names(files, {"text": ["cat"]}) == [["cat"]] * 2
    one = np.array([b"cat . dog"], dtype=object)
    assert names({**files, "text": one}, {}) == [["cat", "dog"]] * 2
    each = np.array([b"cat", "truck . dog"], dtype=object)
    assert names({**files, "text": each}, {}) == [["cat"], ["truck", "dog"]]
    first, second = predictor.decode({**files, "text": each}, {})
    assert predictor.bucket(first) != predictor.bucket(second)
    for tensors, parameters, message in (
        ({**files, "text": np.array([b"cat"] * 3, dtype=object)}, {}, "3 texts for 2 images"),
        ({**files, "text": np.array([], dtype=object)}, {}, "0 texts for 2 images"),
        ({**files, "text": np.array([b"\xff"], dtype=object)}, {}, "is not UTF-8"),
        (files, {"text": " . "}, "holds no name"),
        (files, {"text": 3}, "expected names"),
        (files, {"text": "cat . " * 40}, "82 tokens, but the model reads 40"),
        ({"text": one}, {}, "send either `image`"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.decode(tensors, parameters)


@pytest.mark.parametrize("name", ["dino", "glip"])
def test_commands(name: str, folder: Path, tmp_path: Path, capsys: Any) -> None:
    weights, photo = folder / f"{name}.safetensors", folder / "photo.png"
    bundle_command(folder / f"{name}.json", weights, tmp_path / name)
    assert (tmp_path / name / "vocab.txt").is_file()
    assert Bundle.load(tmp_path / name).labels == tuple(CLASSES)
    capsys.readouterr()
    answers = []
    for source in (str(tmp_path / name), str(folder / f"{name}.json")):
        given = None if source.startswith(str(tmp_path)) else weights
        predict(source, photo, weights=given, text="cat . dog .", threshold=0.0, as_json=True)
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] and {row["name"] for row in answers[0]} <= {"cat", "dog"}
    near = [row["score"] for row in answers[0]], [row["score"] for row in answers[1]]
    assert np.allclose(*near, atol=1e-4)
    explain(str(folder / f"{name}.json"), input_="3x64x96", depth=1)
    assert "language_model" in capsys.readouterr().out


def test_mmdet_interfaces(folder: Path) -> None:
    from cupola.compat.mmdet import DetInferencer, inference_detector, init_detector

    photo = str(folder / "photo.png")
    model = init_detector(str(folder / "glip.json"), folder / "glip.safetensors", device="cpu")
    one = inference_detector(model, photo, text_prompt="cat . dog .", custom_entities=True)
    assert len(one.pred_instances.scores) > 0 and int(one.pred_instances.labels.max()) < 2
    find = DetInferencer(folder / "glip.json", folder / "glip.safetensors", device="cpu")
    found = find([photo, photo], texts=["cat .", "cat . dog ."])["predictions"]
    assert set(found[0]["labels"]) == {0} and set(found[1]["labels"]) == {0, 1}
    with pytest.raises(InputError, match="texts: 1 for 2 images"):
        find([photo, photo], texts=["cat ."])
    with pytest.raises(InputError, match="does not search for one"):
        DetInferencer("detr-digits", device="cpu")(photo, texts="cat .")


def test_a_text_is_for_models_that_search_for_one(folder: Path) -> None:
    with pytest.raises(InputError, match="--text: detr-digits does not search for a text"):
        predict("detr-digits", folder / "photo.png", text="cat .")


def test_without_classes_a_text_is_needed(folder: Path) -> None:
    predictor = Predictor.load(folder / "dino.json", weights=folder / "dino.safetensors", labels=())
    with pytest.raises(InputError, match="and there is none; name what to look for"):
        predictor(folder / "photo.png")


def test_a_missing_tokenizer(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "dino.json"
    text = (folder / "dino.json").read_text()
    config.write_text(text.replace('"tiny"', '"bert-base-uncased"'))
    weights = tmp_path / "dino.safetensors"
    weights.symlink_to(folder / "dino.safetensors")
    with pytest.raises(BundleError, match=r"tokenizer of bert-base-uncased, .*Put its vocab.txt"):
        Predictor.load(config, weights=weights, offline=True)
    named = tmp_path / "named.json"  # its folder, as configs for machines without a network have it
    named.write_text(text.replace('"tiny"', json.dumps(str(folder))))
    found = Predictor.load(named, weights=weights)
    assert found(folder / "photo.png", 0.0, "cat .").names == ("cat",)

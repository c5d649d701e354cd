"""`cupola evaluate` with the shipped detector, and with a predictor that knows the answer."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cupola import nn
from cupola.bundles import Bundle
from cupola.cli.evaluate import app, is_of_one_size, report_graph, use_graph
from cupola.config import Config
from cupola.data.coco_writing import write_digits
from cupola.data.digits import DIGIT_NAMES, DigitsInPhotos
from cupola.errors import BundleError, ConfigError
from cupola.runtime import tasks
from cupola.runtime.load import open_bundle
from cupola.runtime.optimize.graphs import Replacement
from cupola.runtime.optimize.network import Call, Network
from cupola.structures import Detections


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(
        DigitsInPhotos("val", 7, 60), tmp_path_factory.mktemp("data") / "digits"
    ).parent


COCO = {"annotations": "instances.json", "images": "images"}


class Oracle:
    """Finds exactly what is in the image, with its labels in another order."""

    labels = tuple(reversed(DIGIT_NAMES))
    masks = False

    def __init__(self) -> None:
        dataset = DigitsInPhotos("val", 7)
        self.known = {dataset.compose(index).pixels.tobytes(): index for index in range(60)}

    def sample(self, image: Any) -> Any:
        return self.known[np.asarray(image).tobytes()]

    def sample_at(self, image: Any, index: int, path: Any) -> Any:
        return self.sample(image)

    def bucket(self, sample: Any) -> Any:
        return None

    def run(self, samples: list[int]) -> list[Detections]:
        images = [DigitsInPhotos("val", 7).compose(index) for index in samples]
        return [
            Detections(
                torch.from_numpy(p.boxes), torch.ones(len(p.boxes)), 9 - torch.from_numpy(p.labels)
            )
            for p in images
        ]


def test_labels_are_matched_by_name(folder: Path) -> None:
    assert tasks.find("detection").evaluate(Oracle(), folder, COCO)["AP"] == pytest.approx(1.0)


def test_the_shipped_detector_reaches_what_its_card_says(folder: Path) -> None:
    done = CliRunner().invoke(app, ["detr-digits", "--data", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    measured, claimed = json.loads(done.output), Bundle.load("detr-digits").config["metrics"]
    assert measured["AP50"] == pytest.approx(claimed["AP50"], abs=0.08)  # 60 of 1000 images


def test_the_example_is_answered_as_recorded() -> None:
    from cupola.runtime.predictor import Predictor

    bundle = Bundle.load("detr-digits")
    response = json.loads((bundle.path / "example" / "response.json").read_text())
    recorded = {each["name"]: each["data"] for each in response["outputs"]}
    image = np.asarray(Image.open(bundle.path / "example" / "image.png"))
    found = Predictor.load("detr-digits")(image)
    assert found.labels.tolist() == recorded["labels"]
    assert found.boxes.reshape(-1).tolist() == pytest.approx(recorded["boxes"], abs=0.5)


def test_without_data_the_figures_of_the_card_come_again() -> None:
    done = CliRunner().invoke(app, ["afno-navier-stokes", "--json"])
    assert done.exit_code == 0, done.output
    claimed = Bundle.load("afno-navier-stokes").config["metrics"]
    assert json.loads(done.output) == pytest.approx(claimed, rel=1e-3)


def test_a_bundle_without_its_training_config_says_what_to_do(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(Bundle.load("afno-navier-stokes").path, bundle)
    (bundle / "training.json").unlink()
    done = CliRunner().invoke(app, [str(bundle)])
    assert isinstance(done.exception, BundleError)
    assert "training.json: missing; name the data to measure on" in str(done.exception)


def test_a_config_with_its_checkpoint_is_measured_on_its_own_test_data(
    folder: Path, tmp_path: Path
) -> None:
    shipped = Bundle.load("detr-digits")
    pipeline = [{"type": "Resize", "scale": (128, 128), "keep_ratio": False}]
    published = {
        "type": "DetDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
    }
    content = {
        "model": {**shipped.model_config, "data_preprocessor": published},
        "test_dataloader": {
            "batch_size": 20,
            "dataset": {"type": "CocoDataset", "data_root": str(folder), "pipeline": pipeline},
        },
        "test_evaluator": {"type": "CocoMetric", "metric": "bbox"},
    }
    Config(content).dump(tmp_path / "own.py")
    weights = ["--weights", str(shipped.weights_path), "--json"]
    done = CliRunner().invoke(app, [str(tmp_path / "own.py"), *weights])
    assert done.exit_code == 0, done.output
    whole = CliRunner().invoke(app, ["detr-digits", "--data", str(folder), "--json"])
    measured, wanted = json.loads(done.output), json.loads(whole.output)
    assert measured["AP50"] == pytest.approx(wanted["AP50"], abs=0.01)
    some = ["--set", "test_evaluator.classwise=True", "--set", "model.test_cfg.max_per_img=1"]
    done = CliRunner().invoke(app, [str(tmp_path / "own.py"), *weights, *some])
    assert done.exit_code == 0, done.output
    fewer = json.loads(done.output)
    assert "AP/0" in fewer and 0 < fewer["AP50"] < measured["AP50"] - 0.1
    Config({"model": content["model"]}).dump(tmp_path / "bare.py")
    with pytest.raises(ConfigError, match="no test_dataloader"):
        CliRunner().invoke(app, [str(tmp_path / "bare.py"), *weights], catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "model.num_queries=3"], "model.num_queries=3: has no effect.*made already"),
        (["--set", "a=3", "--data", "x"], "--set a=3: has no effect for a bundle: --data names"),
    ],
)
def test_changes_of_a_bundle_without_effect_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        CliRunner().invoke(app, ["detr-digits", *options], catch_exceptions=False)
    with pytest.raises(BundleError, match="--set a=1: detr-digits is a bundle"):
        open_bundle("detr-digits", overrides=["a=1"])


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_graph_of_one_size_gets_samples_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the scores would be those of the loaded model, which answers other sizes."""
    model = Twice().eval()
    call = Call.of([torch.ones(1, 2)])
    predictor: Any = SimpleNamespace(name="toy", model=model, max_batch=8)
    assert not is_of_one_size(predictor)
    for dynamic, largest in ((True, 8), (False, 1)):
        graph = Replacement(model, lambda: model, call, list, {"tensor": True}, dynamic)
        Network(model).replace(graph)
        use_graph(predictor)
        assert predictor.max_batch == largest
    report_graph(predictor)
    with torch.inference_mode():
        model(torch.ones(1, 2))
    report_graph(predictor)
    assert not capsys.readouterr().err
    with torch.inference_mode():
        model(torch.ones(3, 2))
    report_graph(predictor)
    assert "toy: 1 of 2 calls of the network had other sizes" in capsys.readouterr().err

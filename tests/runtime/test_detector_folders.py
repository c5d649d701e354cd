"""Detector folders of transformers, live: the answers of its own processor and model."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from cupola import Predictor
from cupola.bundles import Bundle
from cupola.cli.main import app
from cupola.registry import build
from cupola.structures import Detections
from cupola.weights import DIALECTS
from hf_folders import KINDS, processor, save_detector

pytestmark = pytest.mark.filterwarnings("ignore")
SHIPPED = Bundle.load("detr-digits").path / "example" / "image.png"
PROCESSORS = [
    {},
    {"size": {"shortest_edge": 64, "longest_edge": 80}, "pad_size": {"height": 96, "width": 128}},
    {"size": {"height": 70, "width": 60}, "resample": 3},
    {"size": {"max_height": 50, "max_width": 200}, "do_rescale": False},
    # 75 x 101 pixels give 12 feature cells, as many as there are queries
    {"do_resize": False, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.5]},
    {"do_resize": False, "do_normalize": False},
]


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("hf") / request.param.lower()
    return request.param, folder, save_detector(folder, request.param)


def image(height: int, width: int) -> np.ndarray:
    pixels: np.ndarray = np.random.default_rng(height).integers(
        0, 256, (height, width, 3), np.uint8
    )
    return pixels


def expected(reference: Any, images: Any, pixels: np.ndarray, threshold: float) -> Any:
    inputs = images(images=pixels, return_tensors="pt")
    with torch.no_grad():
        output = reference(**inputs)
    return images.post_process_object_detection(
        output, threshold=threshold, target_sizes=[pixels.shape[:2]]
    )[0]


def assert_same(found: Detections, wanted: dict[str, torch.Tensor]) -> None:
    """As sets: transformers keeps DETR's queries in their order, ours are best first."""
    assert len(found) == len(wanted["scores"]) > 0
    theirs = torch.cat((wanted["boxes"], wanted["scores"][:, None] * 100), 1)
    ours = torch.cat((found.boxes, found.scores[:, None] * 100), 1)
    distance, nearest = torch.cdist(theirs, ours, p=float("inf")).min(1)
    assert distance.max() < 1e-2
    assert torch.equal(found.labels[nearest], wanted["labels"])


@pytest.mark.parametrize("options", PROCESSORS)
def test_same_answers(saved: Any, options: dict[str, Any]) -> None:
    kind, folder, reference = saved
    images = processor(kind, **options)
    images.save_pretrained(folder)
    predictor = Predictor.load(folder)
    assert (predictor.name, predictor.labels) == (kind.lower(), ("cat", "dog", "kite"))
    for pixels in (image(75, 101), image(90, 60)):
        wanted = expected(reference, images, pixels, 0.0)
        assert_same(predictor(pixels, threshold=0.0), wanted)
        middle = wanted["scores"].median().item() + 1e-6
        few = expected(reference, images, pixels, middle)
        assert 0 < len(few["scores"]) < len(wanted["scores"])
        assert_same(predictor(pixels, threshold=middle), few)


def test_images_of_several_sizes_share_a_padded_batch(saved: Any) -> None:
    kind, folder, _ = saved
    processor(kind, pad_size={"height": 120, "width": 120}).save_pretrained(folder)
    predictor = Predictor.load(folder)
    samples = [predictor.sample(image(*size)) for size in ((64, 64), (75, 101), (75, 101))]
    alone = [predictor.run([sample])[0] for sample in samples]
    for one, other in zip(alone, predictor.run(samples), strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": {"layer_type": "basic", "hidden_sizes": [8, 8, 12], "depths": [1, 2, 1],
                      "out_features": ["stage3"]}},
        {"backbone": {"downsample_in_first_stage": True, "out_features": ["stage3"]}},
        {"backbone": {"downsample_in_bottleneck": True}},
        {"backbone": {"num_channels": 3, "out_features": None, "out_indices": [2, 4]}},
        {"activation_function": "gelu", "num_queries": 150, "dropout": 0.0},
    ],
)  # fmt: skip
def test_other_sizes(tmp_path: Path, options: dict[str, Any]) -> None:
    reference = save_detector(tmp_path, "Detr", **options)
    wanted = expected(reference, processor("Detr"), image(75, 101), 0.0)
    assert_same(Predictor.load(tmp_path)(image(75, 101), threshold=0.0), wanted)


@pytest.mark.parametrize("dilation", [False, True])
def test_a_backbone_of_timm(tmp_path: Path, dilation: bool) -> None:
    """Its keys are torchvision's; transformers needs timm for it, we do not."""
    config = {
        "model_type": "detr", "architectures": ["DetrForObjectDetection"],
        "use_timm_backbone": True, "backbone": "resnet18", "dilation": dilation,
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16, "num_queries": 5, "id2label": {"0": "N/A", "1": "person"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    about = Bundle.load(tmp_path).config
    model = build(about["model"]).eval()
    theirs = DIALECTS["hf-detr"].to_theirs(model.state_dict())
    assert "model.backbone.model.layer4.1.conv2.weight" in theirs
    file = {
        key.replace("backbone.model.", "backbone.conv_encoder.model."): value.contiguous()
        for key, value in theirs.items()
    }
    save_file(file, tmp_path / "model.safetensors")
    predictor = Predictor.load(tmp_path)
    assert predictor.labels == ("N/A", "person")
    assert predictor.input_size((480, 640)) == (800, 1066)
    stride = 16 if dilation else 32
    pixels = torch.zeros(1, 3, 64, 96)
    assert predictor.model.extract(pixels).shape == (1, 16, 64 // stride, 96 // stride)
    with torch.no_grad():
        torch.testing.assert_close(predictor.model(pixels).logits, model(pixels).logits)


def run(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_commands(saved: Any, tmp_path: Path) -> None:
    kind, folder, _ = saved
    processor(kind).save_pretrained(folder)
    rows = json.loads(run("predict", folder, SHIPPED, "--threshold", 0, "--json"))
    assert {row["name"] for row in rows} <= {"cat", "dog", "kite"}
    run("explain", folder, "--image", SHIPPED, "--html", tmp_path / "page.html")
    run("bundle", folder, tmp_path / "mine", "--license", "MIT")
    bundle = Bundle.load(tmp_path / "mine")
    assert (bundle.name, bundle.labels) == ("mine", ("cat", "dog", "kite"))
    again = json.loads(run("predict", tmp_path / "mine", SHIPPED, "--threshold", 0, "--json"))
    assert again == rows


def test_bundle_needs_a_checkpoint_for_a_config(tmp_path: Path) -> None:
    config = tmp_path / "detr.py"
    config.write_text("model = dict(type='DETR')\n")
    done = CliRunner().invoke(app, ["bundle", str(config), str(tmp_path / "out")])
    assert done.exit_code != 0
    assert "name its checkpoint and the folder to write" in str(done.exception)


def test_code_in_a_folder_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_detector(tmp_path, "Detr")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForObjectDetection": "modeling.Mine"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise SystemExit('run')\n")
    with caplog.at_level(logging.WARNING, "cupola"):
        Predictor.load(tmp_path)
    assert "auto_map names Python code, which is not run" in caplog.text

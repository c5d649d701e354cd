"""`cupola bundle`: published configs and checkpoints become bundles, for each of the tasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import cupola
from cupola.bundles import Bundle
from cupola.cli.main import app
from cupola.config import Config
from cupola.errors import BundleError, ConfigError
from cupola.runtime import Predictor
from cupola.runtime.published import bundle_config
from cupola.runtime.verification import verify_bundle
from language_toys import LINES
from models.detr3d.small import small_config

SHIPPED = Bundle.load("detr-digits")
SCENES = Bundle.load("detr3d-scenes")
IMAGE = SHIPPED.path / "example" / "image.png"
TEST = {
    "type": "mmdet.MultiScaleFlipAug",
    "img_scale": (96, 64),
    "transforms": [{"type": "mmdet.Resize", "keep_ratio": True}],
}


def made(folder: Path, cfg: dict[str, Any], *more: str) -> Bundle:
    """A bundle of a config's model with random weights, as the command makes it."""
    Config(cfg).dump(folder / "published.py")
    state = cupola.build(cfg["model"]).state_dict()
    torch.save({"state_dict": dict(state)}, folder / "published.pth")
    arguments = ["bundle", str(folder / "published.py"), str(folder / "published.pth")]
    done = CliRunner().invoke(app, [*arguments, str(folder / "mine"), *more])
    assert done.exit_code == 0, (done.output, done.exception)
    bundle = Bundle.load(folder / "mine")
    checks = verify_bundle(bundle)
    assert all(check.passed for check in checks), checks
    return bundle


def detector(**more: Any) -> dict[str, Any]:
    return {"model": dict(SHIPPED.config["model"]), "classes": list("abcdefghij"), **more}


def test_a_detector_answers_as_it_does_from_its_config(tmp_path: Path) -> None:
    bundle = made(tmp_path, detector(test_pipeline=[TEST]), "--license", "MIT")
    resize = {"short": 64, "long": 96, "resample": "opencv"}  # as mmcv does
    assert bundle.config["preprocess"] == {"resize": resize}
    assert (bundle.labels, bundle.config["license"]) == (tuple("abcdefghij"), "MIT")
    from_config = Predictor.load(tmp_path / "published.py", weights=tmp_path / "published.pth")
    theirs, ours = (p(IMAGE, threshold=0) for p in (from_config, Predictor.load(bundle)))
    assert len(ours) > 0
    assert torch.equal(theirs.boxes, ours.boxes)


@pytest.mark.parametrize("rgb", [True, False])
def test_colors_come_in_as_the_model_saw_them(rgb: bool) -> None:
    normalize = {
        "type": "Normalize",
        "mean": [1.0, 2.0, 3.0],
        "std": [1.0, 1.0, 1.0],
        "to_rgb": rgb,
    }
    two = bundle_config(detector(data={"test": {"pipeline": [normalize]}}), "m")["model"]
    cfg = detector()
    cfg["model"]["data_preprocessor"] = {
        "type": "DetDataPreprocessor",
        "mean": [1.0, 2.0, 3.0],
        "std": [1.0, 1.0, 1.0],
        "bgr_to_rgb": rgb,
    }
    three = bundle_config(cfg, "m")["model"]
    for model in (two, three):
        built = cupola.build(model["data_preprocessor"])
        red = torch.tensor([100.0, 0.0, 0.0]).view(3, 1, 1)  # in an image as RGB
        expected = [99.0, -2.0, -3.0] if rgb else [-1.0, -2.0, 97.0]
        assert built.normalize(red).flatten().tolist() == expected


def test_a_multi_camera_detector(tmp_path: Path) -> None:
    load = {"type": "LoadMultiViewImageFromFiles", "num_views": 6}
    resize = {
        "type": "MultiViewWrapper",
        "transforms": [{"type": "RandomResize3D", "scale": (160, 96)}],
    }
    cfg = {
        "model": SCENES.config["model"],
        "class_names": list(SCENES.labels),
        "img_norm_cfg": {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "to_rgb": False},
        "test_dataloader": {"dataset": {"pipeline": [load, resize]}},
    }
    bundle = made(tmp_path, cfg, "--half")
    preprocess = bundle.config["preprocess"]
    assert (preprocess["size"], preprocess["channel_order"]) == ([96, 160], "bgr")
    assert len(Predictor.load(bundle)(SCENES.path / "example", threshold=0.0)) > 0


def test_a_forecast_needs_its_statistics(tmp_path: Path) -> None:
    model = {
        "type": "AFNONet",
        "img_size": (16, 32),
        "patch_size": 4,
        "in_chans": 2,
        "out_chans": 2,
    }
    model |= {"embed_dim": 16, "depth": 1, "num_blocks": 2}
    cfg = {"model": model, "channels": ["u10", "v10"], "fields": {"means": "absent.npy"}}
    with pytest.raises(
        ConfigError, match=r"absent.npy: no file with the channels' means; name one"
    ):
        bundle_config(cfg, "m")
    for name, value in (("means", 1.0), ("stds", 2.0)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 2, 1, 1), value))
    statistics = [f"--{n}={tmp_path / n}.npy" for n in ("means", "stds")]
    predictor: Any = Predictor.load(made(tmp_path, cfg, *statistics))
    assert predictor(np.zeros((2, 16, 32), np.float32), steps=1).fields.shape[-2:] == (16, 32)


def test_a_language_model_takes_its_tokenizer(tmp_path: Path) -> None:
    from cupola.data.text import train_tokenizer

    model = {
        "type": "BloomForCausalLM",
        "vocab_size": 300,
        "hidden_size": 16,
        "n_layer": 1,
        "n_head": 2,
    }
    Config({"model": model}).dump(tmp_path / "lm.py")
    torch.save(dict(cupola.build(model).state_dict()), tmp_path / "lm.pth")
    arguments = ["bundle", *(str(tmp_path / n) for n in ("lm.py", "lm.pth", "out"))]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, BundleError)
    assert "tokenizer.json: missing" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    train_tokenizer(LINES, 300).save(str(tmp_path / "tokenizer.json"))
    assert CliRunner().invoke(app, arguments).exit_code == 0
    predictor: Any = Predictor.load(tmp_path / "out")
    assert len(predictor(LINES[0], max_tokens=3).token_ids) == 3


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="m: no task is known for ResNet; models with one:"):
        bundle_config({"model": {"type": "ResNet"}}, "m")
    (tmp_path / "x.json").write_text(json.dumps({"lr": 1}))
    with pytest.raises(ConfigError, match="holds no `model`"):
        Predictor.load(tmp_path / "x.json", weights=tmp_path / "w.pth")


def detr3d_state(model: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights whose last regression rows are their own numbers."""
    state = dict(cupola.build(model).state_dict())
    for key, value in state.items():
        if "reg_branches" in key and key.endswith(".4.bias"):
            state[key] = torch.arange(len(value)).float()
    return state


@pytest.mark.parametrize("command", ["bundle", "convert"])
def test_boxes_of_the_original_are_converted_when_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    model = {**small_config(), "type": "Detr3D"}
    Config({"model": model, "class_names": list("abc")}).dump(tmp_path / "old.py")
    torch.save({"state_dict": detr3d_state(model)}, tmp_path / "old.pth")
    out = tmp_path / ("made" if command == "bundle" else "made.safetensors")
    files = [str(tmp_path / "old.py"), str(tmp_path / "old.pth"), str(out)]
    expected = {None: [2, 3], "mmdet3d": [2, 3], "detr3d-original": [3, 2]}
    for dialect, rows in expected.items():
        caplog.clear()
        said = [] if dialect is None else ["--from", dialect]
        done = CliRunner().invoke(app, [command, *files, *said])
        assert done.exit_code == 0, (done.output, done.exception)
        file = out / "weights.safetensors" if out.is_dir() else out
        bias = load_file(file)["pts_bbox_head.reg_branches.0.4.bias"]
        assert bias[2:4].tolist() == rows
        assert ("--from detr3d-original" in caplog.text) == (dialect is None)

"""`cupola serve --model-dir`: a config with its checkpoint is served; the settings with it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cupola.bundles import Bundle
from cupola.config import Config
from cupola.errors import BundleError, ConfigError
from cupola.runtime import Predictor
from cupola.serve.settings.file import load_settings
from cupola.serve.settings.models import plan_models

SHIPPED = Bundle.load("detr-digits")
IMAGE = SHIPPED.path / "example" / "image.png"


def published(folder: Path) -> Path:
    """A config and checkpoint as OpenMMLab publishes them, with the weights of a shipped model."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [str(label) for label in SHIPPED.labels]
    Config({"model": dict(SHIPPED.config["model"]), "classes": names}).dump(folder / "digits.py")
    state = load_file(SHIPPED.weights_path)
    torch.save({"state_dict": {key: value.float() for key, value in state.items()}},
               folder / "digits.pth")  # fmt: skip
    return folder


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TMPDIR of the test's own, in which the bundles are made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.mark.slow
@pytest.mark.processes
def test_a_config_with_its_checkpoint_is_served(tmp_path: Path, own_tmp: Path, serve) -> None:
    folder = published(tmp_path / "models")
    running = serve(
        models=[], plugins=[], model_dir=str(folder), model_name="mine",
        model_defaults={"queue_limit": 7},
    )  # fmt: skip
    status, _, body = running.ask(
        "POST",
        "/v2/models/mine/infer?threshold=0",
        IMAGE.read_bytes(),
        {"Content-Type": "image/png"},
    )
    assert status == 200, body
    found = {entry["name"]: entry["data"] for entry in json.loads(body)["outputs"]}
    direct = Predictor.load(folder / "digits.py", weights=folder / "digits.pth")(IMAGE, threshold=0)
    assert len(direct) > 0 and found["labels"] == direct.labels.tolist()
    assert found["scores"] == pytest.approx(direct.scores.tolist(), abs=1e-4)
    assert found["boxes"] == pytest.approx(direct.boxes.flatten().tolist(), abs=1e-2)
    made = [path.stat().st_ino for path in own_tmp.rglob("config.json")]
    running.reload()  # finds the bundle that was made
    assert [path.stat().st_ino for path in own_tmp.rglob("config.json")] == made != []
    assert running.get("/v2/models/mine/ready")[0] == 200


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, own_tmp: Path) -> None:
    folder = published(tmp_path / "models")
    torch.save({"state_dict": {"other.weight": torch.zeros(2)}}, folder / "digits.pth")
    settings = load_settings(None, {"model_dir": folder}, {})
    with pytest.raises(BundleError, match=r"cannot make a bundle of digits.py and digits.pth: .*"):
        plan_models(settings)


def test_bundles_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        shutil.copytree(SHIPPED.path, tmp_path / name)
    (tmp_path / "b/config.json").write_text(json.dumps({**SHIPPED.config, "name": "other"}))
    values = {"model_dir": tmp_path, "model_name": "mine", "model_defaults": {"runners": 2}}
    plans = plan_models(load_settings(None, values, {}))
    assert [(plan.name, plan.runners) for plan in plans] == [("detr-digits", 2), ("other", 2)]
    assert "holds 2 models, which keep their own names" in caplog.text
    (plan,) = plan_models(load_settings(None, {**values, "model_dir": tmp_path / "a"}, {}))
    assert (plan.name, plan.path) == ("mine", str(tmp_path / "a"))


def test_a_folder_that_is_skipped_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(SHIPPED.path, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/config.json").write_text('{"name": "b"}')
    (plan,) = plan_models(load_settings(None, {"model_dir": tmp_path}, {}))
    assert plan.name == "detr-digits" and "b/config.json: not of a bundle" in caplog.text


def test_the_environment_names_the_folder(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED.path, tmp_path / "a")
    environment = {"CUPOLA_MODEL_DIR": str(tmp_path), "CUPOLA_MODEL_DEFAULTS": '{"runners": 3}'}
    (plan,) = plan_models(load_settings(None, {}, environment))
    assert plan.runners == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"models": ["detr-digits"], "model_dir": "/x"}, "models and model_dir are both given"),
        ({"model_name": "mine"}, "model_name: .*model_dir, which is not set"),
        ({"model_defaults": {"runners": 2}}, "model_defaults: .*model_dir, which is not set"),
        ({"model_dir": "/x", "model_defaults": {"name": "a"}}, "name differs from model to model"),
        ({"model_dir": "/x", "model_defaults": {"runner": 2}}, "runner"),
        ({"model_dir": "/x", "model_defaults": {"runners": 0}}, "runners"),
    ],
)
def test_settings_that_contradict(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(None, values, {})


def test_a_folder_of_bundles_that_others_may_write_to(tmp_path: Path, own_tmp: Path) -> None:
    folder = own_tmp / f"cupola-bundles-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    settings = load_settings(None, {"model_dir": published(tmp_path / "models")}, {})
    with pytest.raises(ConfigError, match="TMPDIR: other users may write"):
        plan_models(settings)

"""`cupola train`: finding configs, and a few steps of detr-digits up to a bundle that predicts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cupola.cli.train import app
from cupola.config import Config
from cupola.errors import CheckpointError, ConfigError
from cupola.runtime import Predictor
from cupola.runtime.published import bundle_config
from cupola.train.recipe import find_config, shipped_configs, train_recipe

SMALL = [
    "load_from=None",
    "train_cfg.max_iters=2",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.size=64",
    "val_dataloader.dataset.count=2",
    "test_dataloader.dataset.count=2",
]


def test_configs_are_found_by_path_and_by_name() -> None:
    assert {"detr_digits", "pretrain_backbone"} <= set(shipped_configs())
    path = find_config("detr-digits")
    assert path == find_config("detr_digits") == find_config(str(path))
    with pytest.raises(ConfigError, match=r"'detr-digit'; did you mean 'detr_digits'"):
        find_config("detr-digit")


@pytest.mark.parametrize("name", [each for each in shipped_configs() if each.endswith("_digits")])
def test_a_predictor_sees_digits_at_the_size_of_their_training(name: str) -> None:
    """`cupola evaluate CONFIG --weights FILE` reads images, which it resizes as predict does."""
    cfg = Config.load(find_config(name)).to_dict()
    assert bundle_config(cfg, name)["preprocess"]["resize"]["exact"] == [cfg["image_size"]] * 2


def test_a_few_steps_write_a_bundle_that_predicts(tmp_path: Path) -> None:
    options = [option for text in SMALL for option in ("--set", text)]
    done = CliRunner().invoke(app, ["detr-digits", "--work-dir", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "detr-digits"
    assert json.loads((folder / "config.json").read_text())["model"]["training_groups"] == 1
    weights = load_file(folder / "weights.safetensors")
    assert not any(name.startswith("further_query") for name in weights)
    assert weights["query_embedding.weight"].dtype == torch.float16
    assert json.loads((folder / "training.json").read_text())["randomness"] == {"seed": 0}
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    predictor = Predictor.load(folder)
    response = json.loads((folder / "example" / "response.json").read_text())
    assert response["model_name"] == predictor.name == "detr-digits"
    assert [output["name"] for output in response["outputs"]] == [o.name for o in predictor.outputs]


def test_a_bundle_needs_a_checkpoint_and_a_bundle_section(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no checkpoint to write a bundle from"):
        train_recipe("detr-digits", tmp_path, SMALL, quiet=True, bundle_only=True)
    with pytest.raises(ConfigError, match="has no `bundle`"):
        train_recipe("pretrain-backbone", tmp_path, quiet=True, bundle_only=True)

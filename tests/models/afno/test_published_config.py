"""FourCastNet's YAML: its sections as training configs, for train, bundle and explain."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cupola import Config, build
from cupola.errors import ConfigError
from cupola.models.afno.published import CHANNELS, published_config
from cupola.structures.variables import FOURCASTNET_CHANNELS

# The form of config/AFNO.yaml, with a network small enough for a test.
YAML = """
full: &FULL
  loss: 'l2'
  lr: 1E-3
  scheduler: 'ReduceLROnPlateau'
  num_data_workers: 4
  max_epochs: 50
  batch_size: 64
  num_blocks: 8
  nettype: 'afno'
  patch_size: 8
  in_channels: [0, 1]
  out_channels: [0, 1]
  crop_size_x: None
  orography: !!bool False
  orography_path: None
  two_step_training: !!bool False

afno_backbone: &backbone
  <<: *FULL
  lr: 5E-4
  scheduler: 'CosineAnnealingLR'
  embed_dim: 16
  depth: 1
  in_channels: [14, 2]
  out_channels: [14, 2]
  train_data_path: 'train'
  valid_data_path: 'test'
  time_means_path: 'stats/time_means.npy'
  global_means_path: 'means.npy'
  global_stds_path: 'stds.npy'

orography:
  <<: *backbone
  orography: !!bool True

finetune:
  <<: *backbone
  lr: 1E-4
  max_epochs: 50
  pretrained: !!bool True
  pretrained_ckpt_path: 'backbone.ckpt'
  two_step_training: !!bool True

precip:
  <<: *backbone
  precip: 'precip'
  model_wind_path: 'backbone.ckpt'
  precip_eps: !!float 1e-5
"""


def section(tmp_path: Path, name: str | None = None) -> dict[str, Any]:
    (tmp_path / "AFNO.yaml").write_text(YAML)
    return published_config(Config.load(tmp_path / "AFNO.yaml").to_dict(), name, "AFNO.yaml")


def test_the_backbone(tmp_path: Path) -> None:
    found = section(tmp_path)
    assert found["channels"] == ["z500", "t2m"]
    assert found["model"]["in_chans"] == found["model"]["out_chans"] == 2
    assert found["model"]["img_size"] == (720, 1440)
    assert found["optim_wrapper"]["optimizer"]["lr"] == 5e-4
    assert found["train_dataloader"]["dataset"]["path"] == "train"
    assert found["train_dataloader"]["dataset"]["rows"] == 720
    assert found["val_evaluator"]["climate"] == "stats/time_means.npy"
    assert found["train_cfg"]["max_epochs"] == 50
    assert CHANNELS == FOURCASTNET_CHANNELS


def test_other_sections(tmp_path: Path) -> None:
    orography = section(tmp_path, "orography")
    assert orography["channels"] == ["z500", "t2m", "orography"]
    assert (orography["model"]["in_chans"], orography["model"]["out_chans"]) == (3, 2)
    finetune = section(tmp_path, "finetune")
    assert finetune["load_from"] == "backbone.ckpt"
    assert finetune["train_dataloader"]["dataset"]["steps"] == 2
    precip = section(tmp_path, "precip")
    assert precip["model"]["type"] == "PrecipNet"
    assert precip["model"]["backbone"]["out_chans"] == 1
    assert precip["model"]["wind"]["out_chans"] == 2
    assert precip["load_from"] == {"path": "backbone.ckpt", "into": "wind"}
    with pytest.raises(ConfigError, match=r"no section 'finetun'; did you mean .*'finetune'"):
        section(tmp_path, "finetun")
    with pytest.raises(ConfigError, match="--config chooses a section"):
        published_config({"model": {}}, "precip")


def run(command: str, *arguments: object) -> str:
    app = importlib.import_module(f"cupola.cli.{command}").app
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_bundle_and_explain_take_the_file_itself(tmp_path: Path) -> None:
    text = YAML.replace("patch_size: 8", "patch_size: 120")
    (tmp_path / "AFNO.yaml").write_text(text)
    np.save(tmp_path / "means.npy", np.arange(21, dtype=np.float32).reshape(1, 21, 1, 1))
    np.save(tmp_path / "stds.npy", np.ones((1, 21, 1, 1), np.float32))
    cfg = published_config(Config.load(tmp_path / "AFNO.yaml").to_dict(), "precip")
    torch.manual_seed(0)
    net = build(cfg["model"])
    for name, part in (("backbone", net.wind), ("precip", net)):
        state = {f"module.{k}": v for k, v in part.state_dict().items() if "wind." not in k}
        torch.save({"model_state": state, "iters": 1}, tmp_path / f"{name}.ckpt")
    statistics = ("--means", tmp_path / "means.npy", "--stds", tmp_path / "stds.npy")
    out = tmp_path / "backbone"
    run("bundle", tmp_path / "AFNO.yaml", tmp_path / "backbone.ckpt", out, *statistics)
    about = json.loads((out / "config.json").read_text())["preprocess"]
    assert about["mean"] == [14.0, 2.0]
    assert about["units"] == ["m2 s-2", "K"]
    assert about["grid"]["latitude"] == {"start": 90.0, "step": -0.25, "size": 720}
    out = tmp_path / "precip"
    options = ("--config", "precip", "--backbone", tmp_path / "backbone.ckpt")
    run("bundle", tmp_path / "AFNO.yaml", tmp_path / "precip.ckpt", out, *statistics, *options)
    about = json.loads((out / "config.json").read_text())["preprocess"]
    assert about["channels"] == ["z500", "t2m"]
    assert about["diagnostics"] == [{"channel": "tp", "units": "m"}]
    assert "AFNONet" in run("explain", tmp_path / "AFNO.yaml", "--order")
    assert "PrecipNet" in run("explain", tmp_path / "AFNO.yaml", "--config", "precip", "--order")

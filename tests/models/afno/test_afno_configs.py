"""The shipped training configs build, and precipitation starts from the wind model."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cupola
from cupola import nn
from cupola.config import Config
from cupola.models.afno import AFNONet, PrecipNet
from cupola.train.checkpoints import save_atomically
from cupola.train.initial import load_initial_weights
from cupola.train.recipe import find_config

SMALL = {"img_size": (8, 16), "patch_size": 4, "embed_dim": 16, "depth": 1, "num_blocks": 4}


def config(name: str) -> dict[str, Any]:
    return Config.load(find_config(name)).to_dict()


@pytest.mark.parametrize("name", ["fourcastnet", "fourcastnet_finetune"])
def test_fourcastnet_has_the_published_size(name: str) -> None:
    cfg = config(name)
    with torch.device("meta"):
        model = cupola.build(cfg["model"])
    assert sum(p.numel() for p in model.parameters()) == 74_691_840
    assert len(cfg["train_dataloader"]["dataset"]["channels"]) == 20


def test_precipitation_has_the_published_size() -> None:
    cfg = config("fourcastnet_precip")
    with torch.device("meta"):
        model = cupola.build(cfg["model"])
    own = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert own == 73_757_962
    assert all(not p.requires_grad for p in model.wind.parameters())


def test_wind_model_is_loaded_from_its_own_run(tmp_path: Path) -> None:
    wind = AFNONet(**SMALL, in_chans=3, out_chans=3)
    save_atomically({"step": 1, "model": dict(wind.state_dict())}, tmp_path / "best.pth")
    rain = PrecipNet(
        AFNONet(**SMALL, in_chans=3, out_chans=1), AFNONet(**SMALL, in_chans=3, out_chans=3)
    )
    said = load_initial_weights(rain, {"path": str(tmp_path / "best.pth"), "into": "wind"})
    assert "best.pth" in said
    assert isinstance(rain.wind, nn.Module)
    assert torch.equal(rain.wind.head.weight, wind.head.weight)


def test_navier_stokes_stages_share_the_model() -> None:
    first, second = config("afno_navier_stokes"), config("afno_navier_stokes_finetune")
    assert first["model"] == second["model"]
    assert second["train_dataloader"]["dataset"]["steps"] == 2
    model = cupola.build(first["model"])
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)

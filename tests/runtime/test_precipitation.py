"""PrecipNet as a bundle: precipitation belongs to each state, and never lands in a channel."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cupola import build
from cupola.errors import InputError
from cupola.models.afno.precipitation import EPSILON
from cupola.runtime import Predictor
from lazy import LazyModule

xarray = LazyModule("xarray")

NET = {
    "type": "AFNONet",
    "img_size": (8, 16),
    "patch_size": 4,
    "in_chans": 2,
    "out_chans": 2,
    "embed_dim": 16,
    "depth": 1,
    "num_blocks": 4,
}
CONFIG = f"""
channels = ["u10", "tcwv"]
fields = dict(means=[0.0, 20.0], stds=[5.0, 10.0])
model = dict(type="PrecipNet", backbone={ {**NET, "out_chans": 1} })
"""


def run(command: str, *arguments: object) -> str:
    app = importlib.import_module(f"cupola.cli.{command}").app
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config, the checkpoints of both networks, and a file to start from."""
    torch.manual_seed(0)
    (tmp_path / "precip.py").write_text(CONFIG)
    precip = build({"type": "PrecipNet", "backbone": {**NET, "out_chans": 1}})
    precip.conv.bias.data.fill_(0.5)
    for name, model in (("precip", precip), ("backbone", build(NET))):
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"model_state": state}, tmp_path / f"{name}.ckpt")
    dims = ("time", "latitude", "longitude")
    rng = np.random.default_rng(0)
    data = {
        name: (dims, (mean + rng.normal(size=(4, 8, 16))).astype("f4"))
        for name, mean in (("u10", 0), ("tcwv", 20), ("tp", 0))
    }
    times = np.datetime64("2018-01-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    axes = {"time": times, "latitude": 90 - 22.5 * np.arange(8), "longitude": 22.5 * np.arange(16)}
    xarray.Dataset(data, axes).to_netcdf(tmp_path / "d.nc", engine="h5netcdf")
    return tmp_path


def test_with_the_backbone_that_advances_the_state(folder: Path) -> None:
    bundle = folder / "bundle"
    run(
        "bundle",
        folder / "precip.py",
        folder / "precip.ckpt",
        bundle,
        "--backbone",
        folder / "backbone.ckpt",
    )
    about = json.loads((bundle / "config.json").read_text())["preprocess"]
    assert about["channels"] == ["u10", "tcwv"]
    assert about["diagnostics"] == [{"channel": "tp", "units": "m"}]
    out = folder / "out.nc"
    text = run(
        "forecast",
        bundle,
        folder / "d.nc",
        "--init",
        "2018-01-01T06",
        "--steps",
        2,
        "--truth",
        folder / "d.nc",
        "--out",
        out,
    )
    assert "tp" in text
    predictor = Predictor.load(bundle)
    with xarray.open_dataset(folder / "d.nc") as data, xarray.open_dataset(out) as found:
        assert set(found.data_vars) == {"u10", "tcwv", "tp"}
        assert found["tp"].attrs["units"] == "m"
        np.testing.assert_array_equal(found["u10"][0], data["u10"][1])
        assert float(found["tp"].min()) >= 0
        start = torch.tensor(data[["u10", "tcwv"]].isel(time=1).to_array().values)
        mean, std = (
            torch.tensor([0.0, 20.0])[:, None, None],
            torch.tensor([5.0, 10.0])[:, None, None],
        )
        with torch.no_grad():
            state = predictor.model.wind(((start - mean) / std)[None])
            logarithm = predictor.model.act(
                predictor.model.conv(predictor.model.ppad(predictor.model.backbone(state)))
            )
        expected = EPSILON * np.expm1(logarithm[0, 0].numpy())
        np.testing.assert_allclose(found["tp"][1], expected, rtol=1e-4, atol=1e-9)
        physical = (state[0] * std + mean).numpy()
        np.testing.assert_allclose(found["tcwv"][1], physical[1], rtol=1e-4)


def test_without_it_only_the_start_can_be_diagnosed(folder: Path) -> None:
    run("bundle", folder / "precip.py", folder / "precip.ckpt", folder / "alone")
    with pytest.raises(InputError, match=r"no model that advances the state.*--backbone"):
        run("forecast", folder / "alone", folder / "d.nc", "--steps", 1)

"""Windows for training: time steps, masks, forcings, symmetries, and what a bundle is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cupola.data.field_dataset import FieldDataset
from cupola.errors import DataError
from cupola.models.afno import AFNONet
from lazy import LazyModule

xarray = LazyModule("xarray")

LAT, LON = 78.75 - 22.5 * np.arange(8), 22.5 * np.arange(16)
CHANNELS = ("t2m", "v10", "lsm", "cos_zenith")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    times = np.datetime64("2020-03-20", "ns") + np.arange(8) * np.timedelta64(3, "h")
    dims = ("time", "latitude", "longitude")
    data = {
        "t2m": (dims, (5 + rng.normal(size=(8, 8, 16))).astype("f4"), {"units": "degC"}),
        "v10": (dims, rng.normal(size=(8, 8, 16)).astype("f4"), {"units": "m s-1"}),
        "lsm": (dims[1:], (rng.random((8, 16)) > 0.5).astype("f4")),
    }
    axes = {"time": times, "latitude": LAT[::-1], "longitude": LON - 180}
    xarray.Dataset(data, axes).to_netcdf(tmp_path / "d.nc", engine="h5netcdf")
    return tmp_path / "d.nc"


def dataset(path: Path, **options: Any) -> FieldDataset:
    means = {"t2m": 280.0, "v10": 1.0, "lsm": 0.0, "cos_zenith": 0.0}
    stds = {"t2m": 10.0, "v10": 2.0, "lsm": 1.0, "cos_zenith": 0.5}
    keys: dict[str, Any] = {"channels": CHANNELS, "targets": CHANNELS[:2], "interval": 6.0}
    return FieldDataset(path, **{**keys, "means": means, "stds": stds, **options})


def test_orientation_units_steps_and_forcings(path: Path) -> None:
    data = dataset(path, steps=2)
    assert len(data) == 4  # of 8 snapshots each 3 hours, windows of two steps of 6
    assert data.grid.rows == tuple(LAT)
    assert data.grid.columns == tuple(LON)
    sample = data[1]
    assert sample["x"].shape == (4, 8, 16)
    assert sample["y"].shape == (2, 2, 8, 16)
    assert sample["forcings"].shape == (1, 2, 8, 16)
    with xarray.open_dataset(path) as file:
        kelvin = file["t2m"].isel(time=3).sel(latitude=LAT[0], longitude=-180) + 273.15
    assert float(sample["y"][0, 0, 0, 8]) == pytest.approx((float(kelvin) - 280) / 10, abs=1e-4)
    assert torch.equal(sample["forcings"][0, 0], sample["x"][2])  # land stays
    assert not torch.equal(sample["forcings"][0, 1], sample["x"][3])  # the sun moves
    with pytest.raises(DataError, match="3 hours apart, one step of the model is 7 hours"):
        dataset(path, interval=7.0)


def test_what_a_bundle_is_told(path: Path) -> None:
    about = dataset(path).preprocess()
    assert about["channels"] == list(CHANNELS)
    assert about["forcings"] == ["lsm", "cos_zenith"]
    assert about["units"] == ["K", "m s-1", "1", ""]
    assert about["mean"] == [280.0, 1.0, 0.0, 0.0]
    assert about["grid"]["latitude"] == {"start": 78.75, "step": -22.5, "size": 8}
    assert (about["interval"], about["interval_unit"]) == (6.0, "hours")
    assert about["calendar"] == "standard"
    late = dataset(path, first="2020-03-20T12")
    assert late.start_dates() == ["2020-03-20T12:00:00", "2020-03-20T15:00:00"]


def test_symmetries(path: Path) -> None:
    plain, drawn = dataset(path), dataset(path, symmetries=True)
    original = plain[0]["x"]
    seen = set()
    for epoch in range(12):
        drawn.set_epoch(epoch)
        found = drawn[0]["x"]
        assert torch.equal(found, drawn[0]["x"])
        same, mirrored = (
            [i for i in range(16) if torch.allclose(found[0], each.roll(i, -1))]
            for each in (original[0], original[0].flip(-2))
        )
        assert len(same) + len(mirrored) == 1
        turn, wind = (*same, *mirrored)[0], original[1]
        if mirrored:  # a northward wind blows southward in the mirror
            wind = (-(wind * 2 + 1) - 1).flip(-2) / 2
        torch.testing.assert_close(found[1], wind.roll(turn, -1))
        seen.add((turn, bool(mirrored)))
    assert len(seen) > 6
    assert {mirror for _, mirror in seen} == {True, False}


def test_masked_points_leave_the_loss(path: Path, tmp_path: Path) -> None:
    with xarray.open_dataset(path) as file:
        masked = file.load()
    masked["t2m"].values[:, 2:5, :6] = np.nan
    masked.to_netcdf(tmp_path / "masked.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"not finite: t2m.*nan='mask' leaves such points out"):
        dataset(tmp_path / "masked.nc")[0]
    data = dataset(tmp_path / "masked.nc", nan="mask", steps=2)
    batch = data.collate([data[0], data[1]])
    assert batch["mask"].shape == (2, 2, 2, 8, 16)
    assert int((~batch["mask"][0, 0, 0]).sum()) == 18
    model = AFNONet(
        img_size=(8, 16), patch_size=4, in_chans=4, out_chans=2, embed_dim=16, depth=1,
        num_blocks=4, latitude_weights=True,
    )  # fmt: skip
    losses = model.loss(batch)
    assert all(torch.isfinite(value) for value in losses.values())
    changed = {**batch, "y": torch.where(batch["mask"], batch["y"], 1e6)}
    torch.testing.assert_close(model.loss(changed)["loss_step1"], losses["loss_step1"])
    assert data.preprocess()["nan"] == "mask"


def test_samples_without_time_have_targets_of_their_own(tmp_path: Path) -> None:
    values = np.arange(2 * 4 * 4, dtype="f4").reshape(2, 4, 4)
    data = {name: (("sample", "y", "x"), k * values) for name, k in (("a", 1), ("u", 2))}
    axes = {"y": np.arange(4) / 4, "x": np.arange(4) / 4}
    xarray.Dataset(data, axes).to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    found = FieldDataset(tmp_path / "s.nc", steps=0, channels=["a"], targets=["u"])
    assert len(found) == 2
    assert torch.equal(found[1]["y"][0], 2 * found[1]["x"])

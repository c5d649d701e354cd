"""Dimensions, names and times of files as people have them, read by one reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupola.data.fields import open_fields
from cupola.data.matching import Expected, MatchedFields
from cupola.errors import DataError
from cupola.structures.grids import Grid
from lazy import LazyModule

h5py = LazyModule("h5py")
xarray = LazyModule("xarray")

LAT, LON = 90 - 22.5 * np.arange(8), 22.5 * np.arange(16)
MODEL = Grid(tuple(LAT), tuple(LON))


def era5(times: int = 6, start: str = "2020-01-01", **attributes: str) -> Any:
    """t2m every 6 hours, with values that tell times and points apart."""
    dates = np.datetime64(start, "ns") + np.arange(times) * np.timedelta64(6, "h")
    hours = (dates - np.datetime64("2020-01-01")) / np.timedelta64(1, "h")
    values = hours[:, None, None] * 1000 + LAT[:, None] + LON
    return xarray.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values.astype("f4"), {"units": "K"})},
        {"time": dates, "latitude": LAT, "longitude": LON},
    ).assign_attrs(attributes)


def saved(data: Any, path: Path) -> Path:
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=2, consolidated=True)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path


VARIANTS = {
    "valid_time": lambda d: d.rename(time="valid_time"),
    "number": lambda d: d.expand_dims(number=[0]),
    "realization": lambda d: d.expand_dims(realization=[3], axis=2),
    "expver": lambda d: d.expand_dims(expver=[1]),
    "expver_string": lambda d: d.assign_coords(expver=("time", ["0001"] * 6)),
    "auxiliary": lambda d: d.assign_coords(area=(("latitude", "longitude"), np.ones((8, 16)))),
    "short_names": lambda d: d.rename(latitude="lat", longitude="lon"),
    "transposed": lambda d: d.transpose("longitude", "latitude", "time"),
    "wb2": lambda d: d.rename(t2m="2m_temperature"),
    "standard_name": lambda d: (
        d.rename(t2m="v1")
        .assign(v1=lambda e: e.v1.assign_attrs(standard_name="air_temperature"))
        .assign_coords(height=2.0)
    ),
    "long_name": lambda d: d.rename(t2m="VAR_2T").assign(
        VAR_2T=lambda e: e.VAR_2T.assign_attrs(long_name="2 metre temperature")
    ),
    "height": lambda d: d.expand_dims(heightAboveGround=[2.0]),
    "attributes": lambda d: d.assign_coords(
        latitude=d.latitude.assign_attrs(standard_name="latitude"),
        longitude=d.longitude.assign_attrs(units="degrees_east"),
    ).rename(latitude="nj", longitude="ni"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_reader(variant: str, tmp_path: Path) -> None:
    path = saved(VARIANTS[variant](era5()), tmp_path / "d.nc")
    source = open_fields(path)
    assert source.segments == (6,)
    assert source.channels == ("t2m",)
    fields = MatchedFields(source, Expected(("t2m",), ("K",), MODEL, 6 * 3600.0, "standard"))
    np.testing.assert_allclose(fields.read(0, 2)[0], era5().t2m.values[2])
    assert fields.find(source.calendar.parse("2020-01-01T12")) == [(0, 2)]


def test_static_variables_and_levels(tmp_path: Path) -> None:
    data = era5().assign(lsm=(("latitude", "longitude"), np.ones((8, 16), "f4")))
    levels = np.array([50000.0, 85000.0])
    winds = np.stack([np.full((6, 8, 16), level, "f4") for level in levels], axis=1)
    dims = ("time", "plev", "latitude", "longitude")
    data = data.assign(ua=(dims, winds)).assign_coords(plev=("plev", levels, {"units": "Pa"}))
    source = open_fields(saved(data, tmp_path / "d.zarr"))
    assert set(source.channels) == {"t2m", "lsm", "u500", "u850"}
    u850, lsm = source.read(0, 3, source.select(["u850", "land_sea_mask"]))
    assert u850.max() == 85000.0
    assert lsm.min() == 1.0
    scalar = data[["ua"]].isel(plev=0).rename(plev="pressure_level")
    assert open_fields(saved(scalar, tmp_path / "s.nc")).channels == ("u500",)


def test_era5t_fills_era5(tmp_path: Path) -> None:
    early, late = era5().astype("f8").copy(deep=True), era5().copy(deep=True)
    early.t2m.values[3:], late.t2m.values[:3] = np.nan, np.nan
    both = xarray.concat([early, late], xarray.IndexVariable("expver", [1, 5]), join="exact")
    source = open_fields(saved(both, tmp_path / "d.nc"))
    for time in (0, 5):
        np.testing.assert_allclose(source.read(0, time)[0], era5().t2m.values[time])


def test_members_and_forecasts(tmp_path: Path) -> None:
    members = xarray.concat([era5(), era5() + 1], xarray.IndexVariable("number", [0, 1]))
    source = open_fields(saved(members, tmp_path / "m.nc"))
    fields = MatchedFields(source, Expected(("t2m",), (), MODEL))
    first, second = fields.find(source.calendar.parse("2020-01-01T06"))
    np.testing.assert_allclose(fields.read(*second) - fields.read(*first), 1.0)
    steps = np.arange(3) * np.timedelta64(6, "h")
    forecasts = xarray.concat(
        [
            era5(3, day).drop_vars("time").rename(time="prediction_timedelta")
            for day in ("2020-01-01", "2020-01-02")
        ],
        xarray.IndexVariable("time", np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")),
    ).assign_coords(prediction_timedelta=steps)
    source = open_fields(saved(forecasts, tmp_path / "f.nc"))
    assert source.segments == (3, 3)
    times = source.times(1)
    assert times is not None
    assert source.calendar.text(times[2]) == "2020-01-02 12:00:00"
    np.testing.assert_allclose(source.read(1, 2)[0], era5(3, "2020-01-02").t2m.values[2])


def test_yearly_files_are_one_series(tmp_path: Path) -> None:
    """Segments are stretches of equal steps, whatever the files are called."""
    folder = tmp_path / "years"
    folder.mkdir()
    saved(era5(4, "2020-01-02"), folder / "a.nc")
    saved(era5(4, "2020-01-01"), folder / "b.zarr")
    saved(era5(3, "2020-01-05"), folder / "c.nc")
    for path in (folder, str(folder / "*"), [str(each) for each in folder.iterdir()]):
        source = open_fields(path)
        assert source.segments == (8, 3)
        np.testing.assert_allclose(source.read(0, 5)[0], era5(8).t2m.values[5])
    with pytest.raises(DataError, match=r"neither a zarr store nor a folder with \.nc"):
        (tmp_path / "empty").mkdir()
        open_fields(tmp_path / "empty")
    with pytest.raises(DataError, match="no file matches this pattern"):
        open_fields(str(tmp_path / "*.grib"))


def test_one_variable_a_file(tmp_path: Path) -> None:
    saved(era5(), tmp_path / "t.nc")
    other = era5().rename(t2m="msl") * 2
    saved(other, tmp_path / "p.nc")
    saved(era5(1).isel(time=0, drop=True).rename(t2m="orography"), tmp_path / "z.nc")
    source = open_fields(tmp_path)
    assert source.segments == (6,)
    t2m, msl, orography = source.read(0, 4, source.select(["t2m", "msl", "orography"]))
    np.testing.assert_allclose(msl, 2 * t2m)
    np.testing.assert_allclose(orography, era5().t2m.values[0])
    saved(era5(5, "2021-01-01").rename(t2m="sp"), tmp_path / "s.nc")
    with pytest.raises(DataError, match=r"s\.nc \(sp\) and .* have different times"):
        open_fields(tmp_path)


def test_fourcastnet_files_by_year(tmp_path: Path) -> None:
    for year, times in (("2017", 1460), ("2018", 3)):
        with h5py.File(tmp_path / f"{year}.h5", "w") as file:
            file["fields"] = np.zeros((times, 2, 3, 4), np.float32)
    source = open_fields(tmp_path)
    assert source.segments == (1463,)
    times = source.times(0)
    assert times is not None
    assert source.calendar.text(times[1461]) == "2018-01-01 06:00:00"


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["u10"] = np.zeros((3, 8, 16), np.float32)
    with pytest.raises(DataError, match=r"no dimension for rows \(latitude.*u10"):
        open_fields(tmp_path / "plain.h5")
    path = saved(era5(), tmp_path / "d.nc")
    with pytest.raises(DataError, match=r"no channel 'z500'; it has t2m"):
        open_fields(path).select(["z500"])
    data = era5().drop_vars(["latitude", "longitude"])
    source = open_fields(saved(data, tmp_path / "bare.nc"))
    with pytest.raises(DataError, match="only one of them has latitudes"):
        MatchedFields(source, Expected(("t2m",), (), MODEL))
    curved = era5().drop_vars(["latitude", "longitude"]).rename(latitude="j", longitude="i")
    curved = curved.assign_coords(lat=(("j", "i"), np.zeros((8, 16))))
    with pytest.raises(DataError, match="'lat' has two dimensions"):
        open_fields(saved(curved, tmp_path / "curved.nc"))
    other = era5().convert_calendar("360_day", align_on="date")
    source = open_fields(saved(other, tmp_path / "c.nc"))
    assert source.calendar.name == "360_day"
    with pytest.raises(DataError, match="has the calendar 360_day, the model standard"):
        MatchedFields(source, Expected(("t2m",), (), MODEL, calendar="standard"))

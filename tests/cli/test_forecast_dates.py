"""`cupola forecast` from files with dates: starts, conventions, truth by time, scores, masks."""

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cupola.data.fields import open_fields
from cupola.errors import DataError, InputError
from cupola.runtime import Predictor
from lazy import LazyModule
from toys import toy_bundle

xarray = LazyModule("xarray")

LAT, LON = 90 - 22.5 * np.arange(8), 22.5 * np.arange(16)
LONG_NAME = "10m_u_component_of_wind"
SETTINGS: dict[str, Any] = {
    "channels": ["u10", "z500"],
    "units": ["m s-1", "m2 s-2"],
    "grid": {"latitude": LAT.tolist(), "longitude": LON.tolist()},
    "interval": 6.0,
    "interval_unit": "hours",
}


def run(*arguments: object, command: str = "forecast") -> str:
    app = importlib.import_module(f"cupola.cli.{command}").app
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "toy", **SETTINGS)


def observed(times: int = 12, hours: int = 6) -> Any:
    rng = np.random.default_rng(0)
    dates = np.datetime64("2018-01-01", "ns") + np.arange(times) * np.timedelta64(hours, "h")
    dims = ("time", "latitude", "longitude")
    data = {
        "u10": (dims, rng.normal(size=(times, 8, 16)).astype("f4"), {"units": "m s**-1"}),
        "z500": (dims, rng.normal(size=(times, 8, 16)).astype("f4")),
    }
    return xarray.Dataset(data, {"time": dates, "latitude": LAT, "longitude": LON})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    observed().to_netcdf(tmp_path / "d.nc", engine="h5netcdf")
    return tmp_path / "d.nc"


def expected(bundle: Path, data: Any, start: str, steps: int) -> Any:
    state = data.sel(time=start)[["u10", "z500"]].to_array().values.astype("f4")
    predictor: Any = Predictor.load(bundle)
    return predictor(state, steps=steps).fields.numpy()


def test_a_start_by_date_against_finer_truth(bundle: Path, tmp_path: Path) -> None:
    """The truth has a snapshot each 3 hours and runs from south to north; times decide."""
    data = observed(24, 3)
    data.to_netcdf(tmp_path / "fine.nc", engine="h5netcdf")
    data.isel(latitude=slice(None, None, -1)).to_netcdf(tmp_path / "truth.nc", engine="h5netcdf")
    scores = tmp_path / "scores.json"
    run(
        *("forecast", bundle, tmp_path / "fine.nc", "--init", "2018-01-01T06", "--steps", 2)[1:],
        *("--truth", tmp_path / "truth.nc", "--scores", scores),
    )
    content = json.loads(scores.read_text())
    states = expected(bundle, data, "2018-01-01T06", 2)
    truth = data.sel(time="2018-01-01T18")[["u10", "z500"]].to_array().values
    weights = np.cos(np.deg2rad(LAT))[:, None] / np.cos(np.deg2rad(LAT)).mean()
    rmse = np.sqrt((weights * (states[1] - truth) ** 2).mean((-2, -1)))
    found = {
        row["channel"]: row["rmse"]
        for row in content["scores"]
        if row["lead"] == 12.0 and row["region"] == "global"
    }
    assert found["u10"] == pytest.approx(rmse[0], rel=1e-4)
    assert found["z500"] == pytest.approx(rmse[1], rel=1e-4)
    assert {row["region"] for row in content["scores"]} == {"global", "tropics", "extra-tropics"}
    assert not any("acc" in row for row in content["scores"])


@pytest.mark.parametrize(
    ("convention", "suffix"),
    [
        ("cf", "nc"),
        ("wb", "zarr"),
        ("e2s", "nc"),
        pytest.param("cf", "zarr", marks=pytest.mark.slow),
        pytest.param("wb", "nc", marks=pytest.mark.slow),
        pytest.param("e2s", "zarr", marks=pytest.mark.slow),
    ],
)
def test_conventions_are_read_back(
    convention: str, suffix: str, bundle: Path, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{suffix}"
    options = ("--init", "2018-01-01/2018-01-02/12h", "--steps", 2, "--members", 2)
    run(bundle, file, *options, "--convention", convention, "--out", out)
    opened = xarray.open_zarr(out) if suffix == "zarr" else xarray.open_dataset(out)
    with opened as data:
        names = {
            "cf": ("forecast_reference_time", "forecast_period", "member", "u10", "z500"),
            "wb": (
                "time",
                "prediction_timedelta",
                "number",
                "10m_u_component_of_wind",
                "geopotential",
            ),
            "e2s": ("time", "lead_time", "ensemble", "u10m", "z500"),
        }[convention]
        start, lead, member, wind, height = names
        assert data[start].values[2] == np.datetime64("2018-01-02T00:00")
        assert data.sizes[member] == 2
        assert member in data.coords
        leads = data[lead].values
        hours = leads if convention == "cf" else leads / np.timedelta64(1, "h")
        assert hours.tolist() == [0.0, 6.0, 12.0]
        states = expected(bundle, observed(), "2018-01-01T12", 2)
        chosen = data.sel({start: "2018-01-01T12", member: 0})
        np.testing.assert_allclose(chosen[wind].values.squeeze()[1:], states[:, 0], atol=1e-5)
        other = chosen[height].sel(level=500) if convention == "wb" else chosen[height]
        np.testing.assert_allclose(other.values.squeeze()[1:], states[:, 1], atol=1e-5)
    again = tmp_path / "again.nc"
    run(bundle, out, "--init", "2018-01-02T00", "--steps", 1, "--out", again)
    with xarray.open_dataset(again) as data:
        assert data.sizes["member"] == 2
        assert float(data["u10"].isel(time=0).std("member").max()) < 2.0
    source = open_fields(out)
    assert source.members == 2
    assert set(source.channels) == {"u10", "z500"}


def test_calendars_are_kept(bundle: Path, tmp_path: Path) -> None:
    data = observed().convert_calendar("noleap")
    data.to_netcdf(tmp_path / "noleap.nc", engine="h5netcdf")
    out = tmp_path / "out.nc"
    run(bundle, tmp_path / "noleap.nc", "--init", "2018-01-01T06", "--steps", 1, "--out", out)
    with xarray.open_dataset(out) as opened:
        assert opened.time.values[1].calendar == "noleap"
        assert str(opened.time.values[1]) == "2018-01-01 12:00:00"


def test_many_starts_and_their_scores(bundle: Path, file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "means.npy", np.zeros((1, 2, 9, 16), np.float32))
    files = {end: tmp_path / f"scores.{end}" for end in ("json", "csv", "nc")}
    for path in files.values():
        text = run(
            *(bundle, file, "--init", "2018-01-01/2018-01-02/6h", "--steps", 2, "--truth", file),
            *("--climate", tmp_path / "means.npy", "--members", 3, "--region", "tropics"),
            *("--scores", path, "--plot", tmp_path / "p.png"),
        )
    assert "5 starts; RMSE: root of the mean over all of them" in text
    content = json.loads(files["json"].read_text())
    (row,) = [
        each
        for each in content["scores"]
        if (each["lead"], each["region"], each["channel"]) == (6.0, "tropics", "u10")
    ]
    assert row["starts"] == 5
    assert {"rmse", "bias", "mae", "acc", "crps", "spread"} <= row.keys()
    with files["csv"].open() as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 2 * 2 * 2
    with xarray.open_dataset(files["nc"]) as data:
        chosen = data.sel(lead=6.0, region="tropics", channel="u10")
        assert float(chosen.rmse) == pytest.approx(row["rmse"])
        assert float(data.rank_histogram.sel(lead=6.0, region="global", channel="u10").sum()) == 640
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_evaluate_starts_from_every_snapshot(bundle: Path, file: Path) -> None:
    found = json.loads(run(bundle, "--data", file, "--json", command="evaluate"))
    assert {"rmse_u10_step1", "bias_z500_step4"} <= found.keys()
    states = expected(bundle, observed(), "2018-01-01T00", 1)
    assert found["rmse_u10_step1"] > 0
    assert np.isfinite(states).all()


def test_a_climatology_by_day_of_year(bundle: Path, file: Path, tmp_path: Path) -> None:
    days = xarray.DataArray(
        np.zeros((366, 8, 16), "f4"), dims=("dayofyear", "latitude", "longitude")
    )
    climate = xarray.Dataset(
        {LONG_NAME: days, "geopotential": days.expand_dims(level=[500], axis=1)},
        {"dayofyear": np.arange(366) + 1, "latitude": LAT[::-1], "longitude": LON},
    )
    climate.to_netcdf(tmp_path / "climate.nc", engine="h5netcdf")
    options = ("--init", "2018-01-01", "--steps", 1, "--truth", file)
    assert "ACC" in run(bundle, file, *options, "--climate", tmp_path / "climate.nc")
    with pytest.raises(DataError, match="12 times, which is no climatology"):
        run(bundle, file, *options, "--climate", file)


def test_a_mask_of_the_sea_and_stray_nan(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "toy", **SETTINGS)
    data = observed()
    data["u10"].values[:, 2:4, :5] = np.nan
    data.to_netcdf(tmp_path / "masked.nc", engine="h5netcdf")
    out = tmp_path / "out.nc"
    options = ("--init", "2018-01-01T06", "--steps", 2)
    text = run(
        bundle, tmp_path / "masked.nc", *options, "--truth", tmp_path / "masked.nc", "--out", out
    )
    assert "of the start is NaN at all times: a mask" in text
    assert "nan" not in text.split("lead")[1]
    with xarray.open_dataset(out) as opened:
        missing = np.isnan(opened["u10"].values)
        assert missing[:, 2:4, :5].all()
        assert missing.sum() == 3 * 10
    stray = observed()
    stray["u10"].values[1, 3, 4] = np.nan
    stray.to_netcdf(tmp_path / "stray.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"not finite: u10 \(1 of 128, first at row 3, column 4\)"):
        run(bundle, tmp_path / "stray.nc", *options)


def test_forcings_are_neither_perturbed_nor_scored(tmp_path: Path) -> None:
    """The second channel is a forcing that follows from the date."""
    settings = {**SETTINGS, "channels": ["u10", "cos_zenith"], "forcings": ["cos_zenith"]}
    bundle = toy_bundle(tmp_path / "toy", **{**settings, "units": ["m s-1", ""]})
    predictor: Any = Predictor.load(bundle)
    model, predictor.model = predictor.model, torch.nn.Identity()
    seen: list[torch.Tensor] = []
    predictor.model = lambda x: (seen.append(x), model(x)[:, :1])[1]
    time = float(np.datetime64("2018-01-01T00", "s").astype(int))
    states = list(predictor.stream(np.zeros((1, 8, 16), "f4"), 2, members=3, time=time))
    assert states[0].shape == (3, 1, 8, 16)
    assert torch.equal(seen[0][0, 1], seen[0][2, 1])  # the members' suns are the same
    assert not torch.equal(seen[0][0, 1], seen[1][0, 1])  # and move
    assert predictor.shown == ("u10",)
    with pytest.raises(InputError, match="cos_zenith follows from the date"):
        predictor(np.zeros((1, 8, 16), "f4"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            ("--init", "2017-12-31"),
            DataError,
            "no snapshot at 2017-12-31.*it has 12 times from 2018",
        ),
        (("--init", "noon"), InputError, "'noon' is not a date"),
        (("--convention", "grib"), DataError, "no convention 'grib'"),
        (("--region", "mars"), InputError, "no region 'mars'"),
        (("--scores", "x.xls"), InputError, "--scores needs a truth"),
    ],
)
def test_errors(
    options: tuple[str, ...], error: type[Exception], message: str, bundle: Path, file: Path
) -> None:
    out = file.parent / "out.nc"
    with pytest.raises(error, match=message):
        run(bundle, file, "--steps", 1, "--out", out, *options)


def test_truth_of_another_time_step_is_named(bundle: Path, file: Path, tmp_path: Path) -> None:
    observed(6, 12).to_netcdf(tmp_path / "coarse.nc", engine="h5netcdf")
    message = (
        r"coarse\.nc has no truth: the first valid time is 2018-01-01 06:00:00.*6 hours.*nearest"
    )
    with pytest.raises(InputError, match=message):
        run(bundle, file, "--steps", 1, "--truth", tmp_path / "coarse.nc")


def test_another_grid_or_unit_is_refused(bundle: Path, tmp_path: Path) -> None:
    data = observed()
    data.assign_coords(latitude=LAT - 1).to_netcdf(tmp_path / "shifted.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"latitude 89 to -68.5.*the model has.*latitude 90 to"):
        run(bundle, tmp_path / "shifted.nc", "--steps", 1)
    data["u10"].attrs["units"] = "K"
    data.to_netcdf(tmp_path / "units.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="u10 is in 'K', the model takes 'm s-1'"):
        run(bundle, tmp_path / "units.nc", "--steps", 1)

"""`cupola forecast` and `cupola data`, from files to files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.data.fields import open_fields
from cupola.errors import DataError, InputError
from cupola.runtime import Predictor
from cupola.runtime.io.forecast_figures import color
from cupola.runtime.predictors.forecast import ForecastPredictor
from lazy import LazyModule
from toys import toy_bundle

xarray = LazyModule("xarray")


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "toy")


@pytest.fixture
def observed(tmp_path: Path) -> Path:
    """Nine snapshots with a calendar."""
    rng = np.random.default_rng(0)
    names = ("time", "lat", "lon")
    variables = {
        name: (names, rng.normal(size=(9, 8, 16)).astype(np.float32)) for name in ("v", "u")
    }
    times = np.datetime64("2018-09-08T00:00", "ns") + np.arange(9) * np.timedelta64(6, "h")
    axes = {"time": times, "lat": np.linspace(70, -70, 8), "lon": np.arange(16) * 22.5}
    path = tmp_path / "observed.nc"
    xarray.Dataset(variables, axes).to_netcdf(path, engine="h5netcdf")
    return path


def test_from_an_example_with_everything(bundle: Path, tmp_path: Path) -> None:
    images = {
        option: tmp_path / f"{option}.{suffix}"
        for option, suffix in (("animation", "gif"), ("plot", "png"), ("spectra", "png"))
    }
    options = [part for option, path in images.items() for part in (f"--{option}", path)]
    out = tmp_path / "out.zarr"
    text = run("forecast", bundle, "--steps", 5, "--out", out, "--channel", "v", *options)
    assert "RMSE" in text
    assert "turns" in text
    with xarray.open_zarr(out) as data:
        assert data.sizes == {"time": 6, "y": 8, "x": 16}
        assert data["v"].attrs["units"] == "m s-1"
        np.testing.assert_allclose(data["time"], np.arange(6) * 0.5)
    for path in images.values():
        with Image.open(path) as image:
            assert image.width > 100
            assert getattr(image, "n_frames", 1) == (6 if path.suffix == ".gif" else 1)


@pytest.fixture
def globe(tmp_path: Path) -> Path:
    """The bundle on the grid of `observed`, with its time step."""
    grid = {
        "latitude": np.linspace(70, -70, 8).tolist(),
        "longitude": np.arange(0, 360, 22.5).tolist(),
    }
    step = {"interval": 6.0, "interval_unit": "hours"}
    return toy_bundle(tmp_path / "globe", grid=grid, **step)


def test_from_a_file_against_the_truth(globe: Path, observed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    text = run(
        "forecast", globe, observed, "--time", 2, "--truth", observed, "--steps", 3, "--out", out
    )
    assert text.count("│ u") == 3
    predictor = Predictor.load(globe)
    assert isinstance(predictor, ForecastPredictor)
    source = open_fields(observed)
    start = source.read(0, 2)[source.select(("u", "v"))]
    with xarray.open_dataset(out, decode_times=False) as data:
        expected = predictor(start, steps=3).fields
        np.testing.assert_allclose(data["u"][1:], expected[:, 0], atol=1e-5)
        np.testing.assert_array_equal(data["v"][0], start[1])


def test_ensemble_file(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    run("forecast", bundle, "--steps", 2, "--members", 3, "--out", out)
    with xarray.open_dataset(out) as data:
        assert data["u"].dims == ("time", "member", "y", "x")
        assert float(data["u"][0].std("member").max()) < 1e-6
        assert float(data["u"][1].std("member").max()) > 0.01


def test_errors(bundle: Path, globe: Path, observed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9 snapshots, so there is no number 9"):
        run("forecast", globe, observed, "--time", 9)
    with pytest.raises(InputError, match="no channel 'w'"):
        run("forecast", bundle, "--channel", "w")
    with pytest.raises(DataError, match=r"write to \.nc or \.zarr"):
        run("data", "darcy", "--out", tmp_path / "x.csv", "--count", 1, "--size", 8)


def test_generators_write_what_the_reader_reads(tmp_path: Path) -> None:
    flows, pressures = tmp_path / "flows.zarr", tmp_path / "darcy.nc"
    small = ("--size", 16, "--count", 2)
    run("data", "navier-stokes", "--out", flows, *small, "--snapshots", 3, "--spin-up", 0.1)
    source = open_fields(flows)
    assert source.channels == ("vorticity",)
    assert source.segments == (3, 3)
    assert source.read(1, 2).shape == (1, 16, 16)
    run("data", "darcy", "--out", pressures, *small)
    with xarray.open_dataset(pressures) as data:
        assert set(np.unique(data["permeability"])) == {3.0, 12.0}
        assert float(data["pressure"].min()) > 0


def test_colors_are_symmetric() -> None:
    pixels = color(np.array([[-1.0, 0.0, 1.0]], np.float32), limit=1.0)
    assert pixels[0].tolist() == [[5, 48, 97], [247, 247, 247], [103, 0, 31]]

"""The shipped forecast of real weather, on its recorded example: three steps of a week of ERA5."""

import numpy as np
import pytest
import torch

from cupola.runtime import Predictor
from cupola.runtime.predictors.forecast import ForecastPredictor


@pytest.fixture(scope="module")
def predictor() -> ForecastPredictor:
    found = Predictor.load("afno-era5-week")
    assert isinstance(found, ForecastPredictor)
    return found


def rmse(predictor: ForecastPredictor, forecast: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    assert predictor.grid is not None
    error = (forecast - truth).square() * predictor.grid.weights()
    return error.mean(dim=(-2, -1)).sqrt().numpy()


def test_it_beats_persistence(predictor: ForecastPredictor) -> None:
    (sample,) = predictor.decode({}, {"init": "2026-03-29T20", "steps": 2})
    (forecast,) = predictor.run([sample])
    truth = predictor.example(0)[:, :4]
    for step in (0, 1):
        model = rmse(predictor, forecast.fields[step], truth[step + 1])
        persistence = rmse(predictor, truth[0], truth[step + 1])
        assert (model < 0.9 * persistence).all()
    np.testing.assert_allclose(
        rmse(predictor, forecast.fields[0], truth[1]), [1.875, 1.858, 1.936, 204.3], rtol=1e-2
    )


def test_its_stream_has_dates_and_a_map(predictor: ForecastPredictor) -> None:
    engine = predictor.open_stream()
    assert engine is not None
    (sample,) = predictor.decode({}, {"steps": 1, "encoding": "base64", "convention": "e2s"})
    engine.add("a", sample)
    (chunk,) = engine.step()
    assert chunk.data["channels"] == ["t2m", "u10m", "v10m", "msl"]
    assert chunk.data["units"] == ["K", "m s-1", "m s-1", "Pa"]
    assert chunk.data["time"] == "2026-03-29T20:00:00"
    assert chunk.data["valid_time"] == "2026-03-30T03:00:00"
    assert chunk.data["grid"]["latitude"] == {"start": 89.0, "step": -2.0, "size": 90}
    assert predictor.given == ("t2m", "u10", "v10", "msl", "lsm")

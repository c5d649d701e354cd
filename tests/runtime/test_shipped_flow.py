"""The shipped flow model: small, and better than saying that nothing changes."""

import pytest
import torch

from cupola.bundles import Bundle
from cupola.runtime import Predictor
from cupola.runtime.predictors.forecast import ForecastPredictor
from cupola.structures.grids import relative_l2


@pytest.mark.slow
def test_it_beats_persistence_on_its_examples() -> None:
    bundle = Bundle.load("afno-navier-stokes")
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    assert size <= 8_000_000
    predictor = Predictor.load("afno-navier-stokes")
    assert isinstance(predictor, ForecastPredictor)
    for number in range(2):
        run = predictor.example(number)
        forecast = predictor(run[0], steps=8).fields
        error = relative_l2(forecast, run[1:9])
        persistence = relative_l2(run[:1].expand(8, -1, -1, -1), run[1:9])
        assert (error < 0.6 * persistence).all()
        assert error[0] < 0.08
        assert torch.isfinite(predictor(run[0], steps=32).fields).all()

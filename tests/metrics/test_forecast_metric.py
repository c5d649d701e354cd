"""Errors by lead time, against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.metrics.forecast import ForecastMetric, LeadTimes
from cupola.registry import METRICS


def test_error_that_grows_by_a_constant() -> None:
    metric = METRICS.build({"type": "ForecastMetric"})
    assert isinstance(metric, ForecastMetric)
    truth = torch.ones(2, 3, 1, 8, 16)
    offsets = torch.tensor([0.1, 0.2, 0.3])[:, None, None, None]
    metric.update({"y": truth}, list(truth + offsets))
    found = metric.compute()
    assert found["rmse_step1"] == pytest.approx(0.1)
    assert found["rmse_step3"] == pytest.approx(0.3)
    assert found["relative_l2"] == pytest.approx(0.2)
    assert found["acc_step2"] == pytest.approx(1.0)
    metric.reset()
    assert metric.compute() == {}


def test_climate_and_latitude_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "time_means.npy", np.full((1, 2, 8, 16), 4.0))
    metric = ForecastMetric(latitude_weights=True, climate=tmp_path / "time_means.npy")
    truth = 4 + torch.randn(1, 1, 2, 8, 16)
    metric.update({"y": truth}, [8 - truth[0]])  # the opposite departure
    assert metric.compute()["acc_step1"] == pytest.approx(-1.0, abs=1e-4)
    polar = truth.clone()
    polar[..., 0, :] += 100  # cos(90 degrees) = 0: an error at the pole does not count
    metric.reset()
    metric.update({"y": truth}, list(polar))
    assert metric.compute()["rmse_step1"] < 1e-2


def test_lead_times_average_over_forecasts() -> None:
    table = LeadTimes()
    truth = torch.randn(1, 8, 16)
    for offset in (1.0, 3.0):
        table.update(1, truth + offset, truth)
    assert table.steps == [1]
    assert table.mean(1, "rmse").item() == pytest.approx(2.0)
    assert table.mean(1, "true_spectrum").shape == (1, 9)

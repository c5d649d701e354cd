"""Scores by lead time, against closed forms and against the package scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.errors import DataError, InputError
from cupola.metrics.forecast import ForecastMetric, LeadTimes
from cupola.metrics.scores import Area, crps, rank_counts
from cupola.registry import METRICS
from cupola.structures.grids import Grid
from cupola.structures.regions import REGIONS, region_mask
from lazy import LazyModule

probability = LazyModule("scores.probability")
xarray = LazyModule("xarray")


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
    assert not any(name.startswith("acc") for name in found)  # there is no climatology
    metric.reset()
    assert metric.compute() == {}


def test_climate_and_latitude_weights(tmp_path: Path) -> None:
    np.save(tmp_path / "time_means.npy", np.full((1, 2, 9, 16), 4.0))  # a row more than the data
    metric = ForecastMetric(latitude_weights=True, climate=tmp_path / "time_means.npy")
    truth = 4 + torch.randn(1, 1, 2, 8, 16)
    metric.update({"y": truth}, [8 - truth[0]])  # the opposite departure
    assert metric.compute()["acc_step1"] == pytest.approx(-1.0, abs=1e-4)
    polar = truth.clone()
    polar[..., 0, :] += 100  # cos(90 degrees) = 0: an error at the pole does not count
    metric.reset()
    metric.update({"y": truth}, list(polar))
    assert metric.compute()["rmse_step1"] < 1e-2
    np.save(tmp_path / "time_means.npy", np.full((1, 2, 12, 16), 4.0))
    metric = ForecastMetric(climate=tmp_path / "time_means.npy")
    with pytest.raises(DataError, match=r"time_means\.npy has another grid than the model"):
        metric.update({"y": truth}, list(truth))


class Data:
    """What the metric asks of a dataset."""

    targets = ("z500", "t2m")
    grid = Grid.globe(8, 16)

    def target_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """z500 and t2m."""
        return torch.tensor([14.0, 2.0])[:, None, None], torch.tensor([10.0, 5.0])[:, None, None]


def test_published_time_means_are_taken_like_the_data(tmp_path: Path) -> None:
    """721 rows and 21 channels for data of 720 rows, two channels and z-scores."""
    means = np.zeros((1, 21, 9, 16), np.float32)
    means[0, 14], means[0, 2] = 24.0, 7.0  # z-scores of 1
    np.save(tmp_path / "time_means.npy", means)
    metric = ForecastMetric(climate=tmp_path / "time_means.npy", by_channel=True)
    metric.use(Data())
    departure = torch.randn(1, 1, 2, 8, 16)
    metric.update({"y": 1 + departure}, [1 + 0.5 * departure[0]])
    found = metric.compute()
    assert found["acc_step1"] == pytest.approx(1.0, abs=1e-5)
    assert found["rmse_z500_step1"] == pytest.approx(2 * found["rmse_t2m_step1"], rel=0.2)


def test_rmse_is_the_root_of_the_mean_over_starts() -> None:
    table = LeadTimes()
    truth = torch.randn(1, 8, 16)
    for offset in (1.0, 3.0):
        table.update(1, truth + offset, truth)
    assert table.steps == [1]
    assert table.starts(1) == 2
    assert table.mean(1, "rmse").item() == pytest.approx(5**0.5)
    assert table.mean(1, "bias").item() == pytest.approx(2.0)
    assert table.mean(1, "mae").item() == pytest.approx(2.0)
    assert table.mean(1, "true_spectrum").shape == (1, 9)
    assert "acc" not in table.measures


def test_nan_of_the_truth_masks_points() -> None:
    truth = torch.zeros(2, 8, 16)
    forecast = torch.ones(2, 8, 16)
    truth[0, :4] = torch.nan
    forecast[0, :4] = 1000.0
    table = LeadTimes()
    table.update(1, forecast, truth)
    assert table.mean(1, "rmse").tolist() == [1.0, 1.0]
    truth[0] = torch.nan
    table.update(1, forecast, truth)  # a channel without any truth
    table.update(2, forecast, truth)
    assert table.mean(1, "rmse").tolist() == [1.0, 1.0]
    assert torch.isnan(table.mean(2, "rmse")).tolist() == [True, False]


def test_regions() -> None:
    grid = Grid.globe(721, 1440)
    shares = {}
    for name in REGIONS:
        mask = region_mask(name, grid)
        area = Area.of(grid.weights(), mask, 1440)
        shares[name] = float(area.weights.sum() / (721 * 1440))
    assert shares["tropics"] == pytest.approx(np.sin(np.deg2rad(20)), abs=3e-3)
    assert shares["tropics"] + shares["extra-tropics"] == pytest.approx(1.0, abs=1e-2)
    europe = region_mask("europe", grid)
    assert europe is not None
    assert europe[4 * (90 - 50), 0]  # 50 N 0 E
    assert europe[4 * (90 - 50), 4 * 350]
    assert not europe[4 * (90 - 50), 4 * 340]
    with pytest.raises(InputError, match=r"no region 'europ'; did you mean .*'europe'"):
        region_mask("europ", grid)
    with pytest.raises(InputError, match="the model's grid has no latitudes"):
        region_mask("tropics", Grid.torus(4, 4))
    table = LeadTimes(grid.weights(), {"global": None, "tropics": region_mask("tropics", grid)})
    truth = torch.zeros(1, 721, 1440)
    warm = torch.where(torch.tensor(grid.rows)[:, None].abs() <= 20, 2.0, 0.0).expand(1, -1, 1440)
    table.update(1, warm, truth)
    assert table.mean(1, "bias", "tropics").item() == pytest.approx(2.0)
    assert table.mean(1, "bias").item() == pytest.approx(2 * shares["tropics"], rel=1e-4)


@pytest.mark.parametrize("members", [2, 5, 9])
def test_ensemble_scores_equal_those_of_the_package_scores(members: int) -> None:
    generator = torch.Generator().manual_seed(0)
    forecast = torch.randn(members, 3, 8, 16, generator=generator, dtype=torch.float64)
    truth = torch.randn(3, 8, 16, generator=generator, dtype=torch.float64)
    dims = ("member", "channel", "lat", "lon")
    expected = probability.crps_for_ensemble(
        xarray.DataArray(forecast.numpy(), dims=dims),
        xarray.DataArray(truth.numpy(), dims=dims[1:]),
        "member",
        method="fair",
        preserve_dims="all",
    )
    np.testing.assert_allclose(crps(forecast, truth), expected.values, atol=1e-12)
    table = LeadTimes()
    table.update(1, forecast, truth)
    np.testing.assert_allclose(table.mean(1, "crps"), expected.mean(("lat", "lon")), atol=1e-12)
    spread = forecast.var(dim=0, correction=1).mean(dim=(-2, -1)).sqrt()
    torch.testing.assert_close(table.mean(1, "spread"), spread)
    skill = ((forecast.mean(dim=0) - truth) ** 2).mean(dim=(-2, -1)).sqrt()
    torch.testing.assert_close(table.mean(1, "rmse"), skill)


def test_rank_histogram() -> None:
    members = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand(3, 1, 1, 4)
    truth = torch.tensor([[[0.5, 2.5, 9.0, 2.0]]])
    counts = rank_counts(members, truth, torch.ones(1, 1, 4, dtype=torch.bool))
    assert counts.tolist() == [[1.0, 0.5, 1.5, 1.0]]  # the tie belongs to two ranks
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(4, 1, 200, 200, generator=generator)
    truth = torch.randn(1, 200, 200, generator=generator)
    counts = rank_counts(members, truth, torch.ones(1, 200, 200, dtype=torch.bool))
    torch.testing.assert_close(counts / counts.sum(), torch.full((1, 5), 0.2), atol=0.01, rtol=0)

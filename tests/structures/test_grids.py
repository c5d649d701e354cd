"""Field mathematics against closed forms."""

import math

import pytest
import torch

from cupola.structures.grids import (
    Grid,
    anomaly_correlation,
    power_spectrum,
    radial_spectrum,
    relative_l2,
    rmse,
)


def test_latitude_weights_have_mean_one_and_vanish_at_the_pole() -> None:
    weights = Grid.globe(721, 1440).weights()
    assert weights.shape == (721, 1)
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-6)
    assert weights[0].item() == pytest.approx(0.0, abs=1e-6)
    assert weights[360].item() == pytest.approx(math.pi / 2, rel=2e-3)


def test_published_grid_drops_the_last_latitude() -> None:
    grid = Grid.globe(720, 1440)
    assert (grid.rows[0], grid.rows[-1]) == (90.0, -89.75)
    assert (grid.columns[0], grid.columns[-1]) == (0.0, 359.75)


def test_torus_is_unweighted() -> None:
    grid = Grid.torus(4, 8, length=2.0)
    assert grid.shape == (4, 8)
    assert torch.equal(grid.weights(), torch.ones(4, 1))
    assert grid.rows == (0.0, 0.5, 1.0, 1.5)


def test_rmse_and_relative_error_of_a_constant_offset() -> None:
    truth = torch.full((2, 3, 8, 16), 2.0)
    weights = Grid.globe(8, 16).weights()
    assert rmse(truth + 0.5, truth, weights).flatten().tolist() == pytest.approx([0.5] * 6)
    assert relative_l2(truth + 0.5, truth, weights).tolist() == pytest.approx([0.25] * 2)


def test_anomaly_correlation_is_scale_free_and_signed() -> None:
    climate = torch.randn(3, 8, 16)
    anomaly = torch.randn(2, 3, 8, 16)
    same = anomaly_correlation(climate + 3 * anomaly, climate + anomaly, climate)
    assert same.flatten().tolist() == pytest.approx([1.0] * 6, abs=1e-4)
    opposite = anomaly_correlation(climate - anomaly, climate + anomaly, climate)
    assert opposite.flatten().tolist() == pytest.approx([-1.0] * 6, abs=1e-4)


@pytest.mark.parametrize("width", [32, 33])
def test_zonal_spectrum_sums_to_the_mean_square(width: int) -> None:
    field = torch.randn(2, 8, width)
    total = power_spectrum(field).sum(-1)
    torch.testing.assert_close(total, (field**2).mean((-2, -1)))


def test_radial_spectrum_finds_the_wave() -> None:
    angle = torch.arange(32) * (2 * math.pi / 32)
    field = torch.cos(3 * angle[:, None] + 4 * angle)  # |k| = 5
    spectrum = radial_spectrum(field)
    assert spectrum.shape == (17,)
    assert spectrum.argmax() == 5
    assert spectrum[5].item() == pytest.approx(0.5, rel=1e-4)

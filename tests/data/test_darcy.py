"""Darcy flow against closed forms, and its Gaussian fields."""

import numpy as np
import pytest

from cupola.data.darcy import HIGH, LOW, Darcy, coefficient, solve_darcy
from cupola.data.gaussian import neumann_field, periodic_field
from cupola.errors import DataError


def centers(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


def test_second_order_against_a_manufactured_solution() -> None:
    def error(n: int) -> float:
        y, x = np.meshgrid(centers(n), centers(n), indexing="ij")
        exact = np.sin(np.pi * x) * np.sin(2 * np.pi * y)
        a = 1 + 0.5 * x
        source = a * 5 * np.pi**2 * exact - 0.5 * np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y)
        return float(np.abs(solve_darcy(a, source) - exact).max())

    assert error(32) < 0.01
    assert 3.3 < error(16) / error(32) < 4.7


def test_flux_is_continuous_across_materials() -> None:
    """Layers across x with little variation in y: the middle column of a thin profile."""
    n = 64
    a = np.full((n, n), 3.0)
    a[:, n // 2 :] = 12.0
    u = solve_darcy(a)
    middle = u[n // 2]
    left = 3.0 * (middle[n // 2 - 1] - middle[n // 2 - 2])
    right = 12.0 * (middle[n // 2 + 1] - middle[n // 2])
    assert left == pytest.approx(right, abs=0.06 * abs(a * np.gradient(u, axis=1)).max())
    assert u.min() > 0


def test_doubling_the_permeability_halves_the_pressure() -> None:
    a = coefficient(16, np.random.default_rng(0))
    assert set(np.unique(a)) == {LOW, HIGH}
    np.testing.assert_allclose(solve_darcy(2 * a), solve_darcy(a) / 2)


def test_dataset() -> None:
    data = Darcy(size=16, count=3)
    batch = data.collate([data[i] for i in range(len(data))])
    assert batch["x"].shape == (3, 1, 16, 16)
    assert batch["y"].shape == (3, 1, 1, 16, 16)
    assert set(batch["x"].unique().tolist()) == {0.0, 1.0}
    assert 0.2 < batch["y"].std() < 2.0
    assert (Darcy(size=16, count=3)[2]["y"] == data[2]["y"]).all()


def test_permeability_must_be_positive() -> None:
    with pytest.raises(DataError, match="positive and square"):
        solve_darcy(np.zeros((4, 4)))


@pytest.mark.parametrize("make", [periodic_field, neumann_field])
def test_gaussian_fields_have_mean_zero_and_moderate_size(make: object) -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([make(32, 2.5, 7.0, rng) for _ in range(40)])  # type: ignore[operator]
    assert np.abs(fields.mean((1, 2))).max() < 1e-10
    assert 0.1 < fields.std() < 1.0

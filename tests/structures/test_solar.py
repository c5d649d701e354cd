"""The cosine of the solar zenith angle at dates where it is known."""

import numpy as np
import pytest

from cupola.structures.grids import Grid
from cupola.structures.solar import cos_zenith, forcing

GRID = Grid((90.0, 23.44, 0.0, -23.44), (0.0, 90.0, 180.0, 270.0))


def at(text: str) -> np.ndarray:
    return cos_zenith(float(np.datetime64(text, "s").astype(int)), GRID)


def test_known_dates() -> None:
    assert at("2020-06-20T12:00")[1, 0] == pytest.approx(1.0, abs=1e-3)  # on the tropic, at noon
    assert at("2020-03-20T12:00")[2, 0] == pytest.approx(1.0, abs=1e-3)  # on the equator
    assert at("2020-03-20T00:00")[2, 0] == pytest.approx(-1.0, abs=1e-3)
    assert at("2020-12-21T12:00")[0, 0] == pytest.approx(-np.sin(np.deg2rad(23.44)), abs=1e-3)
    assert np.abs(at("2020-03-20T12:00")[2, [1, 3]]).max() < 0.05  # sunrise and sunset


def test_forcings_by_name() -> None:
    now = forcing("cos_zenith_next", 0.0, 3600.0, GRID)
    assert now is not None
    np.testing.assert_array_equal(now, cos_zenith(3600.0, GRID))
    assert forcing("t2m", 0.0, 3600.0, GRID) is None
